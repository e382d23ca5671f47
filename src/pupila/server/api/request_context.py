"""What a request's WSGI environment says, and what is noted in it on the way. Knows WSGI, but not Flask."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pupila.errors import ImageError
from pupila.predictor import Predictor
from pupila.server.api import content_encoding, multipart
from pupila.server.api.auth import Access, AccessControl, ApiKey
from pupila.server.inference.classifier import Answer, Stages
from pupila.server.observability.request_log import Ledger, route_of
from pupila.server.observability.telemetry import Note
from pupila.server.settings import Settings

CHUNK = 65536

IMPATIENT = "pupila.impatient"
"""Set by a caller that has other requests waiting behind: what takes long is not to be done in this thread."""
LONG = "pupila.long"
"""Set in answer to such a caller."""
ACCESS = "pupila.access"
"""What was decided about the request: auth.Access."""
AGAIN = "pupila.again"
"""Set by a caller that asks once more for that reason: the request has been let in already."""


def note_of(environ: dict[str, Any]) -> Note:
    """Return the note of the request that is being answered."""
    note: Note | None = environ.get("pupila.note")
    if note is None:
        note = environ["pupila.note"] = Note(route_of(environ["PATH_INFO"]))
    return note


def key_of(environ: Mapping[str, Any]) -> ApiKey | None:
    """Return the API key that the request was let in with; None where none is needed."""
    decided: Access | None = environ.get(ACCESS)
    return None if decided is None else decided.key


def count_pictures(environ: Mapping[str, Any], access: AccessControl, count: int) -> None:
    """Count the request's pictures for its key's rate, once; raises RequestError if there were too many before."""
    if AGAIN not in environ:
        access.count_pictures(key_of(environ), count)


def request_id_of(environ: dict[str, Any], ledger: Ledger) -> str:
    """Return the name of the request that is being answered: the client's own if it is a sane one."""
    note = note_of(environ)
    if not note.request_id:
        note.request_id = ledger.request_id(environ.get("HTTP_X_REQUEST_ID"))
    return note.request_id


def deadline_of(environ: Mapping[str, Any], settings: Settings) -> float:
    """Return when the answer must be out, on the clock of time.monotonic: counted from the request's first byte."""
    given: float | None = environ.get("pupila.deadline")
    return time.monotonic() + settings.request_timeout if given is None else given


def stages_of(environ: dict[str, Any], ledger: Ledger) -> Stages:
    """Return the request's stopwatch; two stages are over: the upload, and waiting for a thread."""
    note = note_of(environ)
    if ledger.tracer is not None:
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


def read_body(environ: Mapping[str, Any], settings: Settings) -> bytes:
    """Return the whole body without its Content-Encoding, never more than the limit."""
    return content_encoding.decoded(environ, read_sent(environ, settings), settings.max_body_bytes)


def read_sent(environ: Mapping[str, Any], settings: Settings) -> bytes:
    """Return the body as it was sent, never more than the limit: checked before reading, and again while reading."""
    here: bytes | None = environ.get("pupila.body")
    if here is not None:
        return here  # our own loop has read it, within the same limit
    stated = str(environ.get("CONTENT_LENGTH") or "")
    if stated.isdigit():
        if int(stated) > settings.max_body_bytes:
            raise multipart.too_big_body(settings)
        return bytes(environ["wsgi.input"].read(int(stated)))
    pieces: list[bytes] = []
    size = 0
    while "HTTP_TRANSFER_ENCODING" in environ and (piece := environ["wsgi.input"].read(CHUNK)):
        size += len(piece)
        if size > settings.max_body_bytes:
            raise multipart.too_big_body(settings)
        pieces.append(piece)
    return b"".join(pieces)
