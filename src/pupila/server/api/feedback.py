"""POST /feedback, and the page and data of /review. Knows Flask; what is kept, and how, the collector knows."""

import ipaddress
import json
import logging
import sqlite3
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from flask import Blueprint, Response, request

from pupila._names import did_you_mean, nearest
from pupila.feedback import Kept
from pupila.server.api.errors import RequestError
from pupila.server.api.feedback_writer import Collector
from pupila.server.api.pages import file_response
from pupila.server.api.request_context import deadline_of, read_body
from pupila.server.api.views import json_response, this_room
from pupila.server.observability.request_log import REQUEST_ID
from pupila.server.settings import Settings

log = logging.getLogger("pupila.server")

MAX_BODY = 65536
FIELDS = ("request_id", "picture", "category")
HOW_TO = 'Send {"request_id": "...", "picture": 0, "category": "..."}, or null as the category for none of them.'
MAX_LISTED = 200
MEDIA = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}

feedback = Blueprint("feedback", __name__)


@feedback.post("/feedback")
def correct() -> Response:
    """Store what a picture that was answered really shows; answers once that is durable."""
    collector = collecting()
    classes = this_room().classifier.predictor.manifest.classes
    request_id, picture, category = read_feedback(classes)
    try:
        if collector.find(request_id, picture, deadline_of(request.environ, this_room().settings)) is None:
            raise picture_unknown(request_id, picture)
        before = collector.store.correct(request_id, picture, category, time.time())
    except (sqlite3.Error, OSError) as error:
        log.exception("feedback could not be stored")
        message = "The feedback could not be stored; the reason has been logged. Try again."
        raise RequestError(503, "feedback_not_stored", message, retry_after=1) from error
    if before is None:
        raise picture_unknown(request_id, picture)
    answer = {"request_id": request_id, "picture": picture, "category": category, "answered": before.category}
    return json_response(answer)


@feedback.get("/review")
def review() -> Response:
    """Show the page on which a person walks through the pictures."""
    return file_response("review.html")


@feedback.get("/review/pictures")
def pictures() -> Response:
    """List pictures to review, the most uncertain first, or those that were corrected, the latest first."""
    collector = reviewing()
    show, limit, offset = read_listing(request.environ["QUERY_STRING"])
    listing = collector.store.corrected if show == "corrected" else collector.store.uncertain
    counts = collector.store.counts()
    document = {
        "pictures": [entry(kept) for kept in listing(limit, offset)],
        "classes": list(this_room().classifier.predictor.manifest.classes),
        "kept": counts.pictures,
        "corrected": counts.corrected,
    }
    return json_response(document)


@feedback.get("/review/pictures/<int:number>")
def picture(number: int) -> Response:
    """Show one picture as it is kept."""
    store = reviewing().store
    kept = store.find(number) if number < 2**63 else None
    data = None if kept is None else store.read(kept)
    if kept is None or data is None:
        raise RequestError(404, "picture_unknown", f"No picture {number} is kept here: it may have been deleted.")
    response = Response(data, content_type=MEDIA[kept.kind])
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return response


def collecting() -> Collector:
    """Return the collector; raises RequestError where nothing is kept."""
    collector = this_room().collector
    if collector is None:
        message = "This server keeps no pictures, so that it takes no feedback. Start it with --feedback-dir FOLDER."
        raise RequestError(404, "feedback_off", message)
    return collector


def reviewing() -> Collector:
    """Return the collector if this client may see what others have sent; raises RequestError."""
    collector = collecting()
    if not may_review(this_room().settings, request.host):
        message = "Without API keys, pictures are shown on the server's own machine only. Give the server --api-keys."
        raise RequestError(403, "review_closed", message)
    return collector


def may_review(settings: Settings, host: str) -> bool:
    """Say whether pictures may be shown: to those who have a key, or, if there are no keys, on this machine alone.

    The name that the browser asked for must be this machine's, too: else any web page could point a name of its own
    at this address, and read the answers as its own.
    """
    return bool(settings.api_keys) or (is_loopback(settings.host) and is_loopback(host))


def is_loopback(host: str) -> bool:
    """Say whether a host, perhaps with a port, is this machine's own name or address."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host
    name = name.rpartition(":")[0] if name.count(":") == 1 else name
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def read_feedback(classes: Sequence[str]) -> tuple[str, int, str | None]:
    """Return request id, place and class out of the request's body; raises RequestError."""
    kind = str(request.environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(415, "content_type_unsupported", f"Feedback is of type application/json. {HOW_TO}")
    body = read_body(request.environ, this_room().settings)
    if len(body) > MAX_BODY:
        raise RequestError(413, "body_too_large", f"Feedback has at most {MAX_BODY:,} bytes. {HOW_TO}")
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "json_malformed", f"The body is not JSON. {HOW_TO}") from error
    if not isinstance(document, dict) or document.keys() != set(FIELDS):
        raise invalid(misfit(document))
    request_id, place, category = (document[name] for name in FIELDS)
    if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id):
        raise invalid("request_id is not what the header X-Request-Id of an answer says")
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < 2**31:
        raise invalid("picture is not a whole number from 0, the picture's place in its request")
    if category is not None and category not in classes:
        raise category_unknown(category, classes)
    return request_id, place, category


def misfit(document: Any) -> str:
    """Say which field is missing or unknown."""
    if not isinstance(document, dict):
        return "it is not an object"
    unknown = sorted(document.keys() - set(FIELDS))
    if not unknown:
        return f"{', '.join(name for name in FIELDS if name not in document)} is missing"
    near = nearest(unknown[0], FIELDS)
    return f"there is no field {unknown[0][:40]!r}" + (f", did you mean {near!r}?" if near else "")


def invalid(reason: str) -> RequestError:
    """Say what is wrong with the fields of a feedback."""
    return RequestError(400, "feedback_invalid", f"This feedback cannot be used: {reason}. {HOW_TO}")


def category_unknown(category: Any, classes: Sequence[str]) -> RequestError:
    """Say that the model has no such class, and which it may have been."""
    text = category if isinstance(category, str) else json.dumps(category)
    hint = did_you_mean(text, classes, "GET /model lists the classes; null means none of them.")
    return RequestError(400, "category_unknown", f"The model has no class {text[:40]!r}. {hint}")


def picture_unknown(request_id: str, place: int) -> RequestError:
    """Say that there is nothing to correct."""
    message = (
        f"No picture {place} of a request {request_id!r} is kept here: it was not answered by /predict, or it has been "
        "deleted. Ask again, and take the id from the answer's X-Request-Id."
    )
    return RequestError(404, "picture_unknown", message)


def read_listing(query: str) -> tuple[str, int, int]:
    """Return what to list, how many and from where on; raises RequestError."""
    given = dict(parse_qsl(query, keep_blank_values=True)) if query.count("&") < 20 else {"&": ""}
    allowed = {"show": "uncertain", "limit": "50", "offset": "0"}
    for name in given.keys() - allowed.keys():
        raise RequestError(400, "query_invalid", f"Unknown query parameter {name[:40]!r}. Use {', '.join(allowed)}.")
    chosen = {**allowed, **given}
    if chosen["show"] not in ("uncertain", "corrected"):
        raise RequestError(400, "query_invalid", "show is either uncertain or corrected.")
    numbers = [chosen["limit"], chosen["offset"]]
    if not all(text.isascii() and text.isdigit() and len(text) <= 9 for text in numbers):
        raise RequestError(400, "query_invalid", "limit and offset are whole numbers.")
    limit, offset = map(int, numbers)
    if not 1 <= limit <= MAX_LISTED:
        raise RequestError(400, "query_invalid", f"limit is from 1 to {MAX_LISTED}.")
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
    }
