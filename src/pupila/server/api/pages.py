"""The HTTP routes that only read: the web page, the card, /model, /openapi.json, health and metrics.

The page files are read once a process. A browser asks each time whether they have changed, and gets 304 if not: so
an upgraded server is never used by an old page.
"""

import functools
import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from flask import Blueprint, Response, abort, request
from werkzeug.http import parse_accept_header

from pupila.predictor import Predictor
from pupila.server.api.request_context import app_state, context_of, json_response, to_bytes
from pupila.server.observability.request_log import CONTENT_TYPE, Exposition

FOLDER = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""What the page may do: load its own files, show pictures that it holds itself, and ask this server. Nothing else."""
HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
)
"""In place of those that answers of the API carry."""
LOOKED_AT = 1024
"""Letters of a header that says what a browser takes or has: anybody may send more, and each takes a microsecond."""

pages = Blueprint("pages", __name__)


@pages.get("/card")
def card() -> Response:
    """Say what the model knows, how well it does, and what this server takes: what a person should see beside it.

    What the manifest does not say is null: no figure is made up.
    """
    state = app_state()
    predictor, settings = state.classifier.predictor, state.settings
    manifest, metrics = predictor.manifest, predictor.manifest.metrics
    document = {
        "name": manifest.name,
        "version": predictor.version,
        "classes": list(manifest.classes),
        "input_size": manifest.input_size,
        "precision": manifest.precision,
        "data": {"source": manifest.data.get("source"), "train": manifest.data.get("train")},
        "accuracy": metrics.get("accuracy"),
        "interval": metrics.get("interval"),
        "pictures": metrics.get("n"),
        "split": metrics.get("split"),
        "calibration_error": metrics.get("ece"),
        "knows_unknown": manifest.unknown_threshold is not None,
        "feedback": settings.feedback_dir is not None,
        "limits": {
            "max_parts": settings.max_parts,
            "max_part_bytes": settings.max_part_bytes,
            "max_body_bytes": settings.max_body_bytes,
            "max_pixels": settings.max_pixels,
            "deadline": settings.request_timeout,
        },
    }
    return json_response(document)


@dataclass(frozen=True)
class PageFile:
    """One file of the page as it is sent."""

    kind: str
    plain: bytes
    packed: bytes
    """The same as gzip."""
    tag: str
    """Begins its ETags: changes with the content."""


@functools.cache
def files() -> dict[str, PageFile]:
    """Read the page's files, by name. Nothing that is not in this table can be asked for."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in TYPES:
            plain = path.read_bytes()
            tag = hashlib.sha256(plain).hexdigest()[:16]
            found[path.name] = PageFile(TYPES[path.suffix], plain, gzip.compress(plain, 9, mtime=0), tag)
    return found


@pages.get("/", defaults={"name": "index.html"})
@pages.get("/docs", defaults={"name": "docs.html"})
@pages.get("/review", defaults={"name": "review.html"})
@pages.get("/page/<name>")
def page_file(name: str) -> Response:
    """Return one file, packed for those who take it so; 304 for those who have it; 404 if there is none."""
    file = files().get(name)
    if file is None:
        abort(404)
    environ = request.environ
    packed = parse_accept_header(environ.get("HTTP_ACCEPT_ENCODING", "")[:LOOKED_AT])["gzip"] > 0
    response = Response(file.packed if packed else file.plain, content_type=file.kind)
    if packed:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.set_etag(f"{file.tag}-gz" if packed else file.tag)
    context_of(environ).headers = HEADERS
    seen = {"REQUEST_METHOD": request.method, "HTTP_IF_NONE_MATCH": environ.get("HTTP_IF_NONE_MATCH", "")[:LOOKED_AT]}
    response.make_conditional(seen)  # by the ETag alone: Werkzeug's reading of dates can fail
    return response


TEMPLATE = Path(__file__).with_name("openapi.json")


@pages.get("/openapi.json")
def openapi_document() -> Response:
    """Describe the interface, for the model that serves and these settings."""
    from pupila import __version__

    predictor, settings = app_state().classifier.predictor, app_state().settings
    values = {"VERSION": __version__, "MODEL": predictor.manifest.name, "MAX_PARTS": str(settings.max_parts)}
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(name, json.dumps(value)[1:-1])
    described: dict[str, Any] = json.loads(text)
    described["components"]["schemas"]["Category"]["enum"] = [*predictor.manifest.classes, None]
    if settings.api_keys:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
    if request.script_root:
        described["servers"] = [{"url": request.script_root}]
    return json_response(described)


SHOWN: WeakKeyDictionary[Predictor, bytes] = WeakKeyDictionary()
"""What /model answers: a manifest of 4 MiB takes a second to be written."""


@pages.get("/model")
def model() -> Response:
    """Show the manifest of the model that serves."""
    predictor = app_state().classifier.predictor
    if (body := SHOWN.get(predictor)) is None:
        body = SHOWN[predictor] = to_bytes({"version": predictor.version, **predictor.manifest.without_golden()})
    response = Response(body, mimetype="application/json")
    response.headers["Pupila-Model"] = predictor.version
    return response


@pages.get("/healthz")
def healthz() -> Response:
    """Say that this process answers."""
    return json_response({"status": "alive"})


@pages.get("/readyz")
def readyz() -> Response:
    """Say whether a verified model is loaded, and a worker there to use it."""
    state = app_state()
    status = state.health.status()
    detail = {"model": state.classifier.predictor.manifest.name, "version": state.classifier.predictor.version}
    document: dict[str, object] = {"status": status, "workers": state.health.workers(), **detail}
    if state.health.refused:
        document["refused"] = state.health.refused
    return json_response(document, 200 if status == "ready" else 503)


@pages.get("/metrics")
def metrics() -> Response:
    """Show what was counted, for Prometheus."""
    state = app_state()
    predictor = state.classifier.predictor
    kept = state.collector.table if state.collector else None
    about = predictor.manifest, predictor.version, kept
    return Response(
        Exposition(state.request_log.telemetry, state.health.scoreboard, *about).text(), content_type=CONTENT_TYPE
    )
