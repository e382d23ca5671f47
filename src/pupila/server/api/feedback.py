"""The HTTP routes of feedback and review: POST /feedback, GET /review and GET, DELETE /review/pictures.

A key with the scope `feedback` reaches the pictures that it has sent, one with `review` reaches all. Without keys
feedback is taken, and nothing that is kept is shown.
"""

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, request

from pupila._arguments import did_you_mean, nearest, whole_number
from pupila.errors import DataError
from pupila.feedback import Kept, Store
from pupila.server.api.auth import ApiKey
from pupila.server.api.errors import RequestError, log_fault
from pupila.server.api.feedback_writer import Collector
from pupila.server.api.multipart import parse_query
from pupila.server.api.request_context import app_state, context_of, json_response, read_body
from pupila.server.observability.request_log import REQUEST_ID

log = logging.getLogger("pupila.server")

MAX_BODY = 65536
BY_REQUEST = ("request_id", "picture", "category")
BY_ID = ("id", "category")
HOW_TO = 'Send {"request_id": "...", "picture": 0, "category": "..."}, or null as the category for none of them.'
MAX_COMPARED = 25_000
"""Letters of all classes with which an unknown one is compared: of more that would take half a second and longer."""
MAX_LISTED = 200
MEDIA = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}

feedback = Blueprint("feedback", __name__)


@dataclass(frozen=True)
class Correction:
    """What a client says that a picture shows."""

    category: str | None
    """A class; None for none of them."""
    id: int | None = None
    """The kept picture's number, if the client names it so, and not by the next two."""
    request_id: str = ""
    picture: int = 0


@feedback.post("/feedback")
def correct() -> Response:
    """Store what a picture that was answered really shows; answers once that is durable."""
    collector, key = collecting(), context_of(request.environ).key
    correction = read_correction(app_state().classifier.predictor.manifest.classes)
    with asking_the_disk("feedback could not be stored"):
        kept = find_kept(collector, correction, key)
        most = app_state().settings.feedback_max_bytes
        before = collector.store.correct(kept.id, correction.category, time.time(), most)
    if before is None:
        raise picture_unknown(correction)
    answer = {"request_id": before.request, "picture": before.picture, "category": correction.category}
    return json_response(answer if key is None else {**answer, "answered": before.category})


@contextlib.contextmanager
def asking_the_disk(fault: str) -> Iterator[None]:
    """Log a fault of the disk or of the database; answer it with 503."""
    try:
        yield
    except (sqlite3.Error, OSError, DataError) as error:
        log_fault(error, fault)
        message = f"{fault.capitalize()}; the reason has been logged. Try again."
        raise RequestError(503, "feedback_not_stored", message, retry_after=1) from error


def find_kept(collector: Collector, correction: Correction, key: ApiKey | None) -> Kept:
    """Return the kept picture that a correction is about; raises RequestError if it is not here, or not this key's.

    Clients choose request ids, so that one id may stand for several pictures. The first of them is the one that was
    answered under this name, and what comes later under the same name does not replace it.
    """
    if correction.id is not None:
        kept = collector.store.find(correction.id, reach_of(reviewer()))
        if kept is None:
            raise picture_unknown(correction)
        return kept
    deadline = context_of(request.environ).deadline
    own = "" if key is None else key.name
    found = collector.find(correction.request_id, correction.picture, own, deadline)
    if not found and key is not None and reach_of(key) is None:
        owners = collector.store.owners_of(correction.request_id, correction.picture)
        if len(owners) > 1:
            fix = "Name the picture by its id instead, as GET /review/pictures lists it."
            message = f"Several keys have sent requests named {correction.request_id!r}. {fix}"
            raise RequestError(409, "request_ambiguous", message)
        found = collector.store.of_request(correction.request_id, correction.picture, *owners)
    if not found:
        raise picture_unknown(correction)
    return found[0]


@feedback.get("/review/pictures")
def pictures() -> Response:
    """List pictures to review, the most uncertain first, or those that were corrected, the latest first."""
    store, owner = collecting().lists, reach_of(reviewer())
    show, limit, offset = read_listing(request.environ["QUERY_STRING"])
    listing = store.corrected if show == "corrected" else store.uncertain
    until = time.monotonic() + app_state().settings.request_timeout / 4
    try:
        counts, listed = store.counts(owner, until), listing(limit, offset, owner, until)
    except (sqlite3.Error, OSError, DataError) as error:  # its time is over, or the disk's fault
        log.warning("pictures could not be listed: %s", error)
        message = "The pictures could not be listed in time. Ask for a smaller offset, or try again later."
        raise RequestError(503, "overloaded", message, retry_after=1) from error
    document = {
        "pictures": [entry(kept) for kept in listed],
        "classes": list(app_state().classifier.predictor.manifest.classes),
        "kept": counts.pictures,
        "corrected": counts.corrected,
    }
    return json_response(document)


@feedback.get("/review/pictures/<number>")
def picture(number: str) -> Response:
    """Show one picture as it is kept."""
    store, owner = collecting().store, reach_of(reviewer())
    with asking_the_disk("a picture could not be read"):
        kept = find_numbered(store, number, owner)
        data = store.read(kept)
    if data is None:
        raise number_unknown(number)
    response = Response(data, content_type=MEDIA[kept.kind])
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return response


@feedback.delete("/review/pictures/<number>")
def delete(number: str) -> Response:
    """Delete one picture, wherever else this key has sent the same one; for a reviewer, of every key."""
    store, owner = collecting().store, reach_of(reviewer())
    with asking_the_disk("a picture could not be deleted"):
        kept = find_numbered(store, number, owner)
        return json_response({"deleted": store.delete(number=kept.id, owner=owner)})


def collecting() -> Collector:
    """Return the collector; raises RequestError where nothing is kept."""
    collector = app_state().collector
    if collector is None:
        message = "This server keeps no pictures, so that it takes no feedback. Start it with --feedback-dir FOLDER."
        raise RequestError(404, "feedback_off", message)
    return collector


def reviewer() -> ApiKey:
    """Return the key of the request; raises RequestError on a server without keys, which shows nothing kept."""
    key = context_of(request.environ).key
    if key is None:
        message = (
            "A server without API keys shows nothing that it keeps. On its own machine, review with: "
            "pupila feedback review FOLDER"
        )
        raise RequestError(403, "review_closed", message)
    return key


def reach_of(key: ApiKey) -> str | None:
    """Return the owner whose pictures a key reaches; None means all."""
    return None if key.has("review") else key.name


def find_numbered(store: Store, number: str, owner: str | None) -> Kept:
    """Return a kept picture by its number; raises RequestError if it is not here, or somebody else's."""
    known = whole_number(number)
    kept = store.find(known, owner) if known is not None else None
    if kept is None:
        raise number_unknown(number)
    return kept


def read_correction(classes: Sequence[str]) -> Correction:
    """Read the request's body; raises RequestError."""
    kind = str(request.environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"Feedback is JSON. Add -H 'Content-Type: application/json'. {HOW_TO}"
        raise RequestError(415, "content_type_unsupported", message)
    body = read_body(request.environ, app_state().settings)
    if len(body) > MAX_BODY:
        raise RequestError(413, "body_too_large", f"Feedback has at most {MAX_BODY:,} bytes. {HOW_TO}")
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "json_malformed", f"The body is not JSON. {HOW_TO}") from error
    fields = BY_ID if isinstance(document, dict) and "id" in document else BY_REQUEST
    if not isinstance(document, dict) or document.keys() != set(fields):
        raise invalid(misfit(document, fields))
    correction = Correction(**document)
    name, number = correction.request_id, correction.id if fields is BY_ID else correction.picture
    if fields is BY_REQUEST and not (isinstance(name, str) and REQUEST_ID.fullmatch(name)):
        raise invalid("request_id is not what the header X-Request-Id of an answer says")
    if type(number) is not int or not 0 <= number < 2**31:
        raise invalid(f"{fields[-2]} is not a whole number from 0")
    if correction.category is not None and correction.category not in classes:
        text = correction.category if isinstance(correction.category, str) else json.dumps(correction.category)
        few = classes if sum(map(len, classes)) <= MAX_COMPARED else ()
        hint = did_you_mean(text, few, "GET /model lists the classes; null means none of them.")
        raise RequestError(400, "category_unknown", f"The model has no class {text[:40]!r}. {hint}")
    return correction


def misfit(document: Any, fields: Sequence[str]) -> str:
    """Say which field is missing or unknown."""
    if not isinstance(document, dict):
        return "it is not an object"
    unknown = sorted(document.keys() - set(fields))
    if not unknown:
        return f"{', '.join(name for name in fields if name not in document)} is missing"
    near = nearest(unknown[0], fields)
    return f"there is no field {unknown[0][:40]!r}" + (f", did you mean {near!r}?" if near else "")


def invalid(reason: str) -> RequestError:
    """Say what is wrong with the fields of a feedback."""
    return RequestError(400, "feedback_invalid", f"This feedback cannot be used: {reason}. {HOW_TO}")


def picture_unknown(correction: Correction) -> RequestError:
    """Say that there is nothing to correct."""
    if correction.id is not None:
        return number_unknown(correction.id)
    message = (
        f"No picture {correction.picture} of a request {correction.request_id!r} is kept here: /predict has not "
        "answered it, not with this key, or it has been deleted. Send it again, and take the id from X-Request-Id."
    )
    return RequestError(404, "picture_unknown", message)


def number_unknown(number: int | str) -> RequestError:
    """Say that there is no such picture for this key."""
    message = f"No picture {str(number)[:20]} is kept here for you: it may have been deleted."
    return RequestError(404, "picture_unknown", message)


def read_listing(query: str) -> tuple[str, int, int]:
    """Return what to list, how many and from where on; raises RequestError."""
    defaults = {"show": "uncertain", "limit": "50", "offset": "0"}
    chosen = {**defaults, **parse_query(query, defaults)}
    if chosen["show"] not in ("uncertain", "corrected"):
        raise RequestError(400, "query_invalid", "show is either uncertain or corrected.")
    limit, offset = (whole_number(chosen[name], 9) for name in ("limit", "offset"))
    if limit is None or offset is None or not 1 <= limit <= MAX_LISTED:
        message = f"limit is a whole number from 1 to {MAX_LISTED}, and offset one from 0."
        raise RequestError(400, "query_invalid", message)
    return chosen["show"], limit, offset


def entry(kept: Kept) -> dict[str, Any]:
    """Return what a list says of one picture."""
    return {
        "id": kept.id,
        "request_id": kept.request,
        "picture": kept.picture,
        "category": kept.category,
        "confidence": round(kept.confidence, 6),
        "unknown": kept.unknown,
        "model": kept.model,
        "time": kept.time,
        "corrected": kept.corrected is not None,
        "correction": kept.correction,
        "key": kept.owner or None,
    }
