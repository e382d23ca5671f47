"""The app factory: a predictor and settings in, a WSGI application out. Importing it reads and sets nothing."""

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing.exceptions import WebsocketMismatch

from pupila.predictor import Predictor
from pupila.server.api.auth import AccessControl
from pupila.server.api.body import NotHereError
from pupila.server.api.errors import RequestError, let_go, request_error_of
from pupila.server.api.feedback import feedback
from pupila.server.api.feedback_writer import Collector
from pupila.server.api.other_protocols import oip, torchserve
from pupila.server.api.pages import pages
from pupila.server.api.predict import NOT_YET, PredictMiddleware
from pupila.server.api.request_context import EXTENSION, AppState, begin, error_response, finish
from pupila.server.inference import Classifier
from pupila.server.observability.request_log import RequestLog, Telemetry
from pupila.server.process.scoreboard import Health
from pupila.server.settings import Settings

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
    app.url_map.redirect_defaults = False  # /page/index.html is not /
    app.url_map.merge_slashes = False  # a path with slashes too many is another path, and not found
    classifier = Classifier(predictor, settings, request_log.telemetry.batch)
    state = AppState(classifier, settings, health or Health(), request_log, access, collector)
    app.extensions[EXTENSION] = state
    app.before_request(lambda: begin(state))
    app.after_request(lambda response: finish(response, state))
    for blueprint in (pages, oip, torchserve, feedback):
        app.register_blueprint(blueprint)
    app.register_error_handler(HTTPException, show_http_error)
    app.register_error_handler(NotHereError, show_not_yet)
    app.register_error_handler(Exception, lambda error: error_response(request_error_of(error)))
    app.add_url_rule("/predict", "predict", methods=["POST"])  # for 405 and OPTIONS: the middleware answers it
    app.wsgi_app = PredictMiddleware(app.wsgi_app, state)  # type: ignore[method-assign]
    return app


def show_not_yet(error: NotHereError) -> Response:
    """Give the request back to our own transport, which has it read by another thread."""
    let_go(error)
    return Response(status=NOT_YET)


def show_http_error(error: HTTPException) -> Response:
    """Answer errors of the HTTP layer (no such path, method not allowed) in the same shape as all others."""
    if isinstance(error, WebsocketMismatch):
        message = "WebSocket is not spoken here. Send an ordinary HTTP request."
        return error_response(RequestError(400, "websocket_unsupported", message))
    status = error.code or 500
    allowed = dict(error.get_headers()).get("Allow")
    path = request.path if len(request.path) <= SHOWN else f"{request.path[:SHOWN]}..."
    messages = {
        404: f"There is no {path} here. Pictures go to /predict; /openapi.json lists every path.",
        405: f"{request.method} does not work for {path}. Use {allowed}.",
    }
    message = messages.get(status, error.description or error.name)
    problem = RequestError(status, HTTP_CODES.get(status, "request_malformed"), message)
    return error_response(problem, [] if allowed is None else [("Allow", allowed)])
