"""What POST /predict does, from a request's environment to the answer's document. Knows WSGI, but not Flask."""

from dataclasses import dataclass
from typing import Any

from pupila.errors import ImageError
from pupila.server.api import answers, multipart
from pupila.server.api.auth import AccessControl
from pupila.server.api.errors import BadPart, RequestError
from pupila.server.api.feedback_writer import Collector
from pupila.server.api.query import Query
from pupila.server.api.request_context import (
    count_pictures,
    deadline_of,
    key_of,
    note_answers,
    read_body,
    request_id_of,
    stages_of,
)
from pupila.server.inference.classifier import Classifier, Work
from pupila.server.observability.health import Health
from pupila.server.observability.request_log import Ledger
from pupila.server.settings import Settings


@dataclass(frozen=True)
class Room:
    """What the views of one application work with."""

    classifier: Classifier
    settings: Settings
    health: Health
    ledger: Ledger
    access: AccessControl
    collector: Collector | None = None
    """Keeps what was answered; None where nothing is kept."""


def predict(environ: dict[str, Any], room: Room) -> Work[tuple[bytes, str]]:
    """Answer every picture of the request, in order: JSON, and the version of the model that answered.

    Yields what is to be computed, so that one thread can answer several requests together. Raises RequestError,
    QueueFullError or DeadlineError.
    """
    stages = stages_of(environ, room.ledger)
    body = read_body(environ, room.settings)
    parts, fields = multipart.read_upload(environ.get("CONTENT_TYPE", ""), body, room.settings)
    query = Query.parse(environ.get("QUERY_STRING", ""), fields)
    count_pictures(environ, room.access, len(parts))
    stages.end("parse")
    deadline = deadline_of(environ, room.settings)
    predictor, found = yield from room.classifier.classify(parts, query.top or 1, query.explain, deadline, stages)
    bad = [BadPart.of(i, parts[i].filename, a) for i, a in enumerate(found) if isinstance(a, ImageError)]
    if bad and not query.partial:
        raise RequestError.of_parts(bad, len(parts))
    note_answers(environ, predictor, found)
    key = key_of(environ)
    if room.collector is not None and (key is not None or not room.access.is_cross_site(environ)):
        owner = "" if key is None else key.name
        room.collector.offer(request_id_of(environ, room.ledger), parts, found, predictor.version, owner)
    return answers.to_bytes(answers.predictions_json(parts, found, query.top)), predictor.version
