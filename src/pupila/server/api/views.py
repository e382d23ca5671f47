"""The HTTP routes /model, /healthz, /readyz and /metrics."""

from flask import Blueprint, Response, current_app

from pupila.server.api.predict import AppState, to_bytes

EXTENSION = "pupila"

core = Blueprint("core", __name__)


@core.get("/model")
def model() -> Response:
    """Show the manifest of the model that serves."""
    predictor = app_state().classifier.predictor
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
    state = app_state()
    status = state.health.status()
    detail = {"model": state.classifier.predictor.manifest.name, "version": state.classifier.predictor.version}
    document: dict[str, object] = {"status": status, "workers": state.health.workers(), **detail}
    if state.health.refused:
        document["refused"] = state.health.refused
    return json_response(document, 200 if status == "ready" else 503)


@core.get("/metrics")
def metrics() -> Response:
    """Show what was counted, for Prometheus."""
    from pupila.server.observability.metrics import (  # only where it is asked for: it costs 30 ms of start
        CONTENT_TYPE,
        exposition,
    )

    state = app_state()
    predictor = state.classifier.predictor
    kept = state.collector.table if state.collector else None
    text = exposition(state.request_log.telemetry, state.health.scoreboard, predictor.manifest, predictor.version, kept)
    return Response(text, content_type=CONTENT_TYPE)


def app_state() -> AppState:
    """Return the state of the application that handles the request."""
    state: AppState = current_app.extensions[EXTENSION]
    return state


def json_response(document: object, status: int = 200) -> Response:
    """Return an answer of compact JSON."""
    return Response(to_bytes(document), status, mimetype="application/json")
