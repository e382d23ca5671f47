"""The app factory: a predictor and settings in, a WSGI application out. Importing it reads and sets nothing."""

import logging
import math

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing.exceptions import WebsocketMismatch

from pupila.predictor import Predictor
from pupila.server.api.auth import AccessControl
from pupila.server.api.errors import RequestError
from pupila.server.api.feedback import feedback
from pupila.server.api.feedback_writer import Collector
from pupila.server.api.other_protocols import oip, torchserve
from pupila.server.api.pages import pages
from pupila.server.api.predict import AppState, PredictMiddleware
from pupila.server.api.request_context import EXTENSION, install, json_response
from pupila.server.inference.batcher import DeadlineError, QueueFullError
from pupila.server.inference.classifier import Classifier
from pupila.server.observability.request_log import RequestLog, Telemetry
from pupila.server.process.scoreboard import Health
from pupila.server.settings import Settings

log = logging.getLogger("pupila.server")
HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 500: "internal_error"}
"""Codes of errors of the HTTP layer; all others are `request_malformed`."""
SHOWN = 200
"""Characters of a path that an error repeats."""


def create_app(
    predictor: Predictor,
    settings: Settings | None = None,
    health: Health | None = None,
    request_log: RequestLog | None = None,
    access: AccessControl | None = None,
    collector: Collector | None = None,
) -> Flask:
    """Return the application; it may be called by several threads at once, under any WSGI server.

    `serve` gives the last four, which its processes share; without them this process stands for itself.
    Raises DataError if pictures are to be kept in a folder that cannot be used.
    """
    settings = settings or Settings()
    request_log = request_log or RequestLog(Telemetry(), settings.access_log)
    access = access or AccessControl(settings.api_keys, settings.cors_origins)
    if collector is None and settings.feedback_dir is not None:
        collector = Collector(settings)
    app = Flask("pupila.server", static_folder=None, template_folder=None)
    app.url_map.merge_slashes = False  # a path with slashes too many is another path, and not found
    classifier = Classifier(predictor, settings, request_log.telemetry.batch)
    state = AppState(classifier, settings, health or Health(), request_log, access, collector)
    app.extensions[EXTENSION] = state
    install(app, state)
    for blueprint in (pages, oip, torchserve, feedback):
        app.register_blueprint(blueprint)
    app.register_error_handler(RequestError, show_problem)
    app.register_error_handler(QueueFullError, show_queue_full)
    app.register_error_handler(DeadlineError, show_deadline)
    app.register_error_handler(HTTPException, show_http_error)
    app.register_error_handler(Exception, show_own_fault)
    app.add_url_rule("/predict", "predict", methods=["POST"])  # for 405 and OPTIONS: the middleware answers it
    app.wsgi_app = PredictMiddleware(app.wsgi_app, state, show_error)  # type: ignore[method-assign]
    return app


def show_error(error: Exception) -> Response:
    """Answer with an error outside Flask, as its handlers below do."""
    if isinstance(error, RequestError):
        return show_problem(error)
    if isinstance(error, QueueFullError):
        return show_queue_full(error)
    return show_deadline(error) if isinstance(error, DeadlineError) else show_own_fault(error)


def show_problem(problem: RequestError) -> Response:
    """Answer with the problem's status and the error body that all errors share."""
    response = json_response(problem.to_json(), problem.status)
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    if problem.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if problem.code == "content_encoding_unsupported":
        response.headers["Accept-Encoding"] = "gzip, deflate"
    return response


def show_queue_full(error: QueueFullError) -> Response:
    """Overload: say at once when to come back."""
    message = "The server has more to do than it can answer in time. Try again later."
    return show_problem(RequestError(503, "overloaded", message, retry_after=error.retry_after))


def show_deadline(_: DeadlineError) -> Response:
    """The request's time is over."""
    return show_problem(RequestError(504, "deadline_exceeded", "The answer was not ready by the request's deadline."))


def show_http_error(error: HTTPException) -> Response:
    """Errors of the HTTP layer (no such path, method not allowed) in the same shape as all others."""
    if isinstance(error, WebsocketMismatch):
        message = "WebSocket is not spoken here. Send an ordinary HTTP request."
        return show_problem(RequestError(400, "websocket_unsupported", message))
    code = HTTP_CODES.get(error.code or 500, "request_malformed")
    allowed = dict(error.get_headers()).get("Allow")
    path = request.path if len(request.path) <= SHOWN else f"{request.path[:SHOWN]}..."
    messages = {
        404: f"There is no {path} here. Pictures go to /predict; /openapi.json lists every path.",
        405: f"{request.method} does not work for {path}. Use {allowed}.",
    }
    message = messages.get(error.code or 500, error.description or error.name)
    response = show_problem(RequestError(error.code or 500, code, message))
    if allowed is not None:
        response.headers["Allow"] = allowed
    return response


def show_own_fault(error: Exception) -> Response:
    """A fault of the server's own: logged with its trace, of which the client sees nothing."""
    log.error("unexpected fault", exc_info=error)
    return show_problem(RequestError(500, "internal_error", "The server failed on this request. It has been logged."))
