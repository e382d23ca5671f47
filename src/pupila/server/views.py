"""The HTTP routes of the core: /predict, /model, /healthz, /readyz. Knows Flask; computes nothing itself."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, current_app, request

from pupila.errors import ImageError
from pupila.predictor import Predictor
from pupila.server import answers, payload
from pupila.server.classifier import Answer, Classifier, Stages
from pupila.server.collector import Collector
from pupila.server.health import Health
from pupila.server.hooks import note_of, request_id_of
from pupila.server.ledger import Ledger
from pupila.server.problems import BadPart, RequestError
from pupila.server.query import Query
from pupila.server.settings import Settings

EXTENSION = "pupila"
CHUNK = 65536

core = Blueprint("core", __name__)


@core.post("/predict")
def predict() -> Response:
    """Answer every picture of the request, in order."""
    room, environ = this_room(), request.environ
    query = Query.parse(environ["QUERY_STRING"])
    stages = stages_of(environ)
    body = read_body(environ, room.settings)
    parts = payload.read_pictures(environ.get("CONTENT_TYPE", ""), body, room.settings)
    stages.end("parse")
    predictor, found = room.classifier.classify(
        parts, query.top or 1, query.explain, deadline_of(environ, room.settings), stages
    )
    bad = [BadPart.of(i, parts[i].filename, a) for i, a in enumerate(found) if isinstance(a, ImageError)]
    if bad and not query.partial:
        raise RequestError.of_parts(bad, len(parts))
    note_answers(environ, predictor, found)
    if room.collector is not None:
        room.collector.offer(request_id_of(environ, room.ledger), parts, found, predictor.version)
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
    document: dict[str, object] = {"status": status, "workers": room.health.workers(), **detail}
    if room.health.refused:
        document["refused"] = room.health.refused
    return json_response(document, 200 if status == "ready" else 503)


@core.get("/metrics")
def metrics() -> Response:
    """Show what was counted, for Prometheus."""
    from pupila.server.metrics import CONTENT_TYPE, exposition  # only where it is asked for: it costs 30 ms of start

    room = this_room()
    predictor = room.classifier.predictor
    text = exposition(room.ledger.telemetry, room.health.board, predictor.manifest, predictor.version)
    return Response(text, content_type=CONTENT_TYPE)


@dataclass(frozen=True)
class Room:
    """What the views of one application work with."""

    classifier: Classifier
    settings: Settings
    health: Health
    ledger: Ledger
    collector: Collector | None = None
    """Keeps what was answered; None where nothing is kept."""


def this_room() -> Room:
    """Return the room of the application that handles the request."""
    room: Room = current_app.extensions[EXTENSION]
    return room


def deadline_of(environ: Mapping[str, Any], settings: Settings) -> float:
    """Return when the answer must be out, on the clock of time.monotonic: counted from the request's first byte."""
    given: float | None = environ.get("pupila.deadline")
    return time.monotonic() + settings.deadline if given is None else given


def stages_of(environ: dict[str, Any]) -> Stages:
    """Return the request's stopwatch; two stages are over: the upload, and waiting for a thread."""
    note = note_of(environ)
    if this_room().ledger.tracer is not None:
        note.spans = []
    started: float | None = environ.get("pupila.started")
    stages = Stages(note.stages, note.spans, started)
    if started is not None:
        stages.end("upload", environ["pupila.arrived"])
        stages.end("wait")
    return stages


def note_answers(environ: dict[str, Any], predictor: Predictor, found: Sequence[Answer | ImageError]) -> None:
    """Note which classes were answered, and how surely."""
    note = note_of(environ)
    note.model = predictor.version
    for answer in found:
        if isinstance(answer, Answer):
            best = answer.prediction.best
            note.confidences.append((best.category_index, best.confidence, answer.prediction.unknown))


def json_response(document: object, status: int = 200) -> Response:
    """Return an answer of compact JSON."""
    return Response(answers.to_bytes(document), status, mimetype="application/json")


def read_body(environ: Mapping[str, Any], settings: Settings) -> bytes:
    """Return the whole body, never more than the limit: checked before reading, and again while reading."""
    here: bytes | None = environ.get("pupila.body")
    if here is not None:
        return here  # our own loop has read it, within the same limit
    stated = str(environ.get("CONTENT_LENGTH") or "")
    if stated.isdigit():
        if int(stated) > settings.max_body_bytes:
            raise payload.too_big_body(settings)
        return bytes(environ["wsgi.input"].read(int(stated)))
    pieces: list[bytes] = []
    size = 0
    while "HTTP_TRANSFER_ENCODING" in environ and (piece := environ["wsgi.input"].read(CHUNK)):
        size += len(piece)
        if size > settings.max_body_bytes:
            raise payload.too_big_body(settings)
        pieces.append(piece)
    return b"".join(pieces)
