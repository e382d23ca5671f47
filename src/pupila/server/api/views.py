"""The HTTP routes of the core: /predict, /model, /healthz, /readyz. Knows Flask; computes nothing itself."""

from flask import Blueprint, Response, current_app, request

from pupila.server.api import answers
from pupila.server.api.predict import Room
from pupila.server.api.predict import predict as predict_pictures
from pupila.server.api.request_context import IMPATIENT

EXTENSION = "pupila"

core = Blueprint("core", __name__)


@core.post("/predict")
def predict() -> Response:
    """Answer every picture of the request, in order; `Front` does the same where nothing stands in its way."""
    room = this_room()
    body, version = room.classifier.finish(predict_pictures(request.environ, room), IMPATIENT in request.environ)
    response = Response(body, mimetype="application/json")
    response.headers["Pupila-Model"] = version
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
    document: dict[str, object] = {"status": status, "workers": room.health.workers(), **detail}
    if room.health.refused:
        document["refused"] = room.health.refused
    return json_response(document, 200 if status == "ready" else 503)


@core.get("/metrics")
def metrics() -> Response:
    """Show what was counted, for Prometheus."""
    from pupila.server.observability.metrics import (  # only where it is asked for: it costs 30 ms of start
        CONTENT_TYPE,
        exposition,
    )

    room = this_room()
    predictor = room.classifier.predictor
    kept = room.collector.table if room.collector else None
    text = exposition(room.ledger.telemetry, room.health.board, predictor.manifest, predictor.version, kept)
    return Response(text, content_type=CONTENT_TYPE)


def this_room() -> Room:
    """Return the room of the application that handles the request."""
    room: Room = current_app.extensions[EXTENSION]
    return room


def json_response(document: object, status: int = 200) -> Response:
    """Return an answer of compact JSON."""
    return Response(answers.to_bytes(document), status, mimetype="application/json")
