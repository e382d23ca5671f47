"""/openapi.json: the whole interface in OpenAPI 3.1. Knows the routes' contract, not their code."""

from typing import Any

from flask import Blueprint, Response

from pupila.predictor import Predictor
from pupila.server.api.openapi_feedback import feedback_paths
from pupila.server.api.views import json_response, this_room
from pupila.server.settings import Settings

Schema = dict[str, Any]

openapi = Blueprint("openapi", __name__)


@openapi.get("/openapi.json")
def show() -> Response:
    """Describe the interface."""
    room = this_room()
    return json_response(document(room.classifier.predictor, room.settings))


def document(predictor: Predictor, settings: Settings) -> Schema:
    """Return the description for one model and these settings."""
    from pupila import __version__

    described: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "Pupila",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths(predictor, settings),
        "components": {"schemas": SCHEMAS},
    }
    if settings.api_keys:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
    return described


def paths(predictor: Predictor, settings: Settings) -> Schema:
    """Return every path."""
    name = predictor.manifest.name
    picture = {"type": "string", "contentMediaType": "image/*"}
    limit = f"At most {settings.max_parts} pictures; more are answered with 413."
    many = {"type": "array", "items": picture, "minItems": 1, "description": limit}
    form = {"type": "object", "properties": {"file": many}, "required": ["file"]}
    encoded = {"type": "array", "minItems": 1, "items": {"type": "string"}, "description": limit}
    by_json = {"type": "object", "properties": {"images": encoded}, "required": ["images"]}
    bodies = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": by_json},
        "application/octet-stream": {},
        "image/jpeg": {},
        "image/png": {},
        "image/webp": {},
    }
    predict = operation("predict", "Name what is in each picture, in request order.", ref("Predictions"), bodies)
    predict["parameters"] = [
        query(
            "top", "List so many classes, the most probable first.", {"type": "integer", "minimum": 1, "maximum": 99999}
        ),
        query("explain", "Add a class activation map.", {"type": "string", "enum": ["0", "1"]}),
        query("on_error", "Answer the good pictures beside bad ones.", {"type": "string", "enum": ["fail", "partial"]}),
    ]
    infer = operation(
        "infer",
        "Open Inference Protocol, version 2.",
        ANY,
        {"application/json": {"schema": ref("Inference")}},
        OIP_ERROR,
    )
    scores = operation("predictions", "As TorchServe.", ANY, {"application/octet-stream": {}, "image/jpeg": {}})
    return {
        "/predict": {"post": predict},
        "/model": {"get": operation("model", "Show the model's manifest.", ANY)},
        "/card": {"get": operation("card", "Show what the model knows, how well, and what this server takes.", ANY)},
        "/healthz": {"get": operation("healthz", "Is this process alive?", ANY, open_to_all=True)},
        "/readyz": {"get": operation("readyz", "Can the server answer?", ANY, open_to_all=True)},
        "/metrics": {"get": operation("metrics", "Counts, for Prometheus.", None)},
        "/ping": {"get": operation("ping", "As TorchServe.", ANY, open_to_all=True)},
        f"/predictions/{name}": {"post": scores, "put": {**scores, "operationId": "predictionsPut"}},
        "/v2": {"get": operation("v2", "Name the server.", ANY)},
        "/v2/health/live": {"get": operation("live", "Is this process alive?", ANY, open_to_all=True)},
        "/v2/health/ready": {"get": operation("ready", "Can the server answer?", ANY, open_to_all=True)},
        f"/v2/models/{name}": {"get": operation("metadata", "Describe the model's tensors.", ANY)},
        f"/v2/models/{name}/ready": {"get": operation("modelReady", "Can this model answer?", ANY)},
        f"/v2/models/{name}/infer": {"post": infer},
        "/openapi.json": {"get": operation("openapi", "This description.", ANY)},
        **feedback_paths(predictor.manifest.classes),
    }


def operation(
    name: str,
    summary: str,
    answer: Schema | None,
    bodies: Schema | None = None,
    error: Schema | None = None,
    open_to_all: bool = False,
) -> Schema:
    """Return one operation; `answer` None means text."""
    content = {"text/plain": {}} if answer is None else {"application/json": {"schema": answer}}
    if answer is ANY and bodies is not None and error is not None:
        content["application/octet-stream"] = {}
    failed = {"description": "An error.", "content": {"application/json": {"schema": error or ref("Error")}}}
    failed_codes = FAILURES if bodies is not None else ("401", "405", "429", "503", "504")
    described: Schema = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": "The answer.", "content": content}, **dict.fromkeys(failed_codes, failed)},
    }
    if bodies is not None:
        described["requestBody"] = {"required": True, "content": bodies}
    if open_to_all:
        described["security"] = []
        described["responses"]["503"] = {"description": "It cannot.", "content": content}
    return described


def query(name: str, text: str, schema: Schema) -> Schema:
    """Return one query parameter."""
    return {"name": name, "in": "query", "description": text, "schema": schema}


def ref(name: str) -> Schema:
    """Return a reference to a schema below."""
    return {"$ref": f"#/components/schemas/{name}"}


ANY: Schema = {}
OIP_ERROR: Schema = {"type": "object", "properties": {"error": {}}, "required": ["error"]}
FAILURES = ("400", "401", "405", "408", "413", "415", "422", "429", "500", "503", "504")
CHOICE: Schema = {
    "category": {"type": "string"},
    "category_index": {"type": "integer", "minimum": 0},
    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
}
MAP: Schema = {
    "type": "object",
    "properties": {
        "height": {"type": "integer"},
        "width": {"type": "integer"},
        "values": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
        },
    },
}
PART: Schema = {
    "type": "object",
    "properties": {
        "index": {"type": "integer", "minimum": 0},
        "filename": {"type": "string"},
        "code": {"type": "string"},
        "message": {"type": "string"},
    },
    "required": ["index", "filename", "code", "message"],
}
TENSOR: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["images", "files"]},
        "datatype": {"type": "string", "enum": ["UINT8", "BYTES"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 4096}, "minItems": 1},
        "data": {"type": "array"},
    },
    "required": ["name", "datatype", "shape", "data"],
}
SCHEMAS: Schema = {
    "Inference": {
        "type": "object",
        "properties": {"inputs": {"type": "array", "items": TENSOR, "minItems": 1, "maxItems": 1}},
        "required": ["inputs"],
    },
    "Choice": {"type": "object", "properties": CHOICE, "required": list(CHOICE)},
    "Prediction": {
        "type": "object",
        "properties": {
            **CHOICE,
            "unknown": {"type": "boolean", "description": "It looks like none of the classes."},
            "top": {"type": "array", "items": ref("Choice")},
            "explanation": MAP,
        },
        "required": list(CHOICE),
    },
    "BadPart": {"type": "object", "properties": {"error": PART}, "required": ["error"]},
    "Predictions": {
        "type": "object",
        "properties": {"predictions": {"type": "array", "items": {"anyOf": [ref("Prediction"), ref("BadPart")]}}},
        "required": ["predictions"],
    },
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                    "parts": {"type": "array", "items": PART},
                },
                "required": ["code", "message", "parts"],
            }
        },
        "required": ["error"],
    },
}
