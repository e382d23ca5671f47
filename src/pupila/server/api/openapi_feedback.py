"""Feedback and review, as /openapi.json describes them. Knows the routes' contract, not their code."""

from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]

ERROR: Schema = {
    "description": "An error.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
FEEDBACK: Schema = {
    "type": "object",
    "properties": {
        "request_id": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"},
        "picture": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
        "category": {"type": ["string", "null"]},
    },
    "required": ["request_id", "picture", "category"],
    "additionalProperties": False,
}
STORED: Schema = {
    "type": "object",
    "properties": {
        "request_id": {"type": "string"},
        "picture": {"type": "integer"},
        "category": {"type": ["string", "null"]},
        "answered": {"type": "string"},
    },
    "required": ["request_id", "picture", "category", "answered"],
}
KEPT: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "request_id": {"type": "string"},
        "picture": {"type": "integer"},
        "category": {"type": "string"},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "unknown": {"type": "boolean"},
        "model": {"type": "string"},
        "time": {"type": "number"},
        "corrected": {"type": "boolean"},
        "correction": {"type": ["string", "null"]},
    },
}
LISTING: Schema = {
    "type": "object",
    "properties": {
        "pictures": {"type": "array", "items": KEPT},
        "classes": {"type": "array", "items": {"type": "string"}},
        "kept": {"type": "integer"},
        "corrected": {"type": "integer"},
    },
    "required": ["pictures", "classes", "kept", "corrected"],
}


def feedback_paths(classes: Sequence[str]) -> Schema:
    """Return the paths, for a model with these classes."""
    body = {**FEEDBACK, "properties": {**FEEDBACK["properties"], "category": {"enum": [*classes, None]}}}
    number = {"name": "number", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    media: Schema = {kind: {} for kind in ("image/jpeg", "image/png", "image/webp")}
    correct = described("feedback", "Say what a picture really shows.", "400 404 413 415 500", as_json(STORED))
    correct["requestBody"] = {"required": True, "content": as_json(body)}
    listing = described("reviewList", "List pictures that were answered.", "400 403 404", as_json(LISTING))
    listing["parameters"] = [
        parameter("show", {"type": "string", "enum": ["uncertain", "corrected"]}),
        parameter("limit", {"type": "integer", "minimum": 1, "maximum": 200}),
        parameter("offset", {"type": "integer", "minimum": 0, "maximum": 999_999_999}),
    ]
    show = described("reviewPicture", "Show one of these pictures.", "403 404", media)
    return {
        "/feedback": {"post": correct},
        "/review/pictures": {"get": listing},
        "/review/pictures/{number}": {"get": {**show, "parameters": [number]}},
    }


def described(name: str, summary: str, codes: str, content: Schema) -> Schema:
    """Return one operation, which may fail with these codes and with those that all may fail with."""
    failures = dict.fromkeys([*codes.split(), "401", "405", "408", "429", "503", "504"], ERROR)
    success = {"description": "The answer.", "content": content}
    return {"operationId": name, "summary": summary, "responses": {"200": success, **failures}}


def as_json(schema: Schema) -> Schema:
    """Return content of this schema."""
    return {"application/json": {"schema": schema}}


def parameter(name: str, schema: Schema) -> Schema:
    """Return one query parameter."""
    return {"name": name, "in": "query", "schema": schema}
