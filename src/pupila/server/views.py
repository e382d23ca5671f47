"""The HTTP routes of the core: /predict, /model, /healthz, /readyz. Knows Flask; computes nothing itself."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase

from flask import Blueprint, Response, current_app, request

from pupila.server import answers, payload
from pupila.server.classifier import Classifier, Stages
from pupila.server.health import Health
from pupila.server.problems import BadPart, RequestError
from pupila.server.query import Query
from pupila.server.settings import Settings

EXTENSION = "pupila"
CHUNK = 65536

core = Blueprint("core", __name__)


@core.post("/predict")
def predict() -> Response:
    """Answer every picture of the request, in order."""
    room = this_room()
    stages = Stages()
    query = Query.parse(request.environ["QUERY_STRING"])
    deadline = request.environ.get("pupila.deadline") or time.monotonic() + room.settings.deadline
    body = read_body(request.environ, room.settings)
    parts = payload.read_pictures(request.environ.get("CONTENT_TYPE", ""), body, room.settings)
    stages.end("parse")
    predictor, found = room.classifier.classify(parts, query.top or 1, query.explain, deadline, stages)
    bad = [BadPart.of(i, parts[i].filename, a) for i, a in enumerate(found) if isinstance(a, Exception)]
    if bad and not query.partial:
        raise RequestError.of_parts(bad, len(parts))
    response = json_response(answers.predictions_json(parts, found, query.top))
    response.headers["Pupila-Model"] = predictor.version
    return response


@core.get("/model")
def model() -> Response:
    """Show the manifest of the model that serves."""
    predictor = this_room().classifier.predictor
    response = json_response({"version": predictor.version, **predictor.manifest.without_golden()})
    response.headers["Pupila-Model"] = predictor.version
    return response


@core.get("/healthz")
def healthz() -> Response:
    """Say that this process answers."""
    return json_response({"status": "alive"})


@core.get("/readyz")
def readyz() -> Response:
    """Say whether a verified model is loaded, and a worker there to use it."""
    room = this_room()
    status = room.health.status()
    detail = {"model": room.classifier.predictor.manifest.name, "version": room.classifier.predictor.version}
    document = {"status": status, "workers": room.health.workers(), **detail}
    return json_response(document, 200 if status == "ready" else 503)


@dataclass(frozen=True)
class Room:
    """What the views of one application work with."""

    classifier: Classifier
    settings: Settings
    health: Health


def this_room() -> Room:
    """Return the room of the application that handles the request."""
    room: Room = current_app.extensions[EXTENSION]
    return room


def json_response(document: Mapping[str, object], status: int = 200) -> Response:
    """Return an answer of compact JSON."""
    return Response(answers.to_bytes(document), status, mimetype="application/json")


def read_body(environ: Mapping[str, object], settings: Settings) -> bytes:
    """Return the whole body, never more than the limit: checked before reading, and again while reading."""
    stated = str(environ.get("CONTENT_LENGTH") or "")
    if stated.isdigit() and int(stated) > settings.max_body_bytes:
        raise payload.too_big_body(settings)
    stream = environ["wsgi.input"]
    assert isinstance(stream, BufferedIOBase) or hasattr(stream, "read")  # noqa: S101
    if stated.isdigit():
        return bytes(stream.read(int(stated)))
    if "HTTP_TRANSFER_ENCODING" not in environ:
        return b""
    pieces: list[bytes] = []
    size = 0
    while piece := stream.read(CHUNK):
        size += len(piece)
        if size > settings.max_body_bytes:
            raise payload.too_big_body(settings)
        pieces.append(piece)
    return b"".join(pieces)
