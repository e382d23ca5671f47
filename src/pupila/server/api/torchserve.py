"""The two calls of TorchServe that its clients make: /ping and /predictions/NAME. Knows Flask."""

from typing import Any

from flask import Blueprint, Response, request

from pupila.errors import ImageError
from pupila.server.api import multipart
from pupila.server.api.errors import BadPart, RequestError
from pupila.server.api.kserve_v2 import asked_for
from pupila.server.api.request_context import context_of, count_pictures, read_body, record_answers, stages_of
from pupila.server.api.views import app_state, json_response
from pupila.server.inference.classifier import PictureResult

TOP = 5
"""Classes that TorchServe's image classifier lists."""

torchserve = Blueprint("torchserve", __name__)


@torchserve.get("/ping")
def ping() -> Response:
    """Say whether the server is healthy, in TorchServe's words."""
    healthy = app_state().health.status() == "ready"
    return json_response({"status": "Healthy" if healthy else "Unhealthy"}, 200 if healthy else 503)


@torchserve.route("/predictions/<name>", methods=["POST", "PUT"])
@torchserve.route("/predictions/<name>/<version>", methods=["POST", "PUT"])
def predictions(name: str, version: str = "") -> Response:
    """Answer {class: probability} for one picture, as a raw body or the part 'data'; a list for several parts."""
    asked_for(name, version)
    state, environ = app_state(), request.environ
    stages = stages_of(environ, state.request_log)
    body, kind = read_body(environ, state.settings), environ.get("CONTENT_TYPE", "")
    if kind.startswith("multipart/"):
        parts = multipart.read_multipart(kind, body, state.settings, ("data", "file"))
    else:
        own = kind if multipart.is_json(multipart.kind_of(kind)) else "image/*"  # curl -T sends any type
        parts = multipart.read_pictures(own, body, state.settings)
    count_pictures(environ, state.access, len(parts))
    stages.end("parse")
    predictor, found = state.classifier.classify(parts, TOP, context_of(environ).deadline, stages)
    bad = [BadPart.of(i, parts[i].filename, a) for i, a in enumerate(found) if isinstance(a, ImageError)]
    if bad:
        raise RequestError.of_parts(bad, len(parts))
    record_answers(environ, predictor, found)
    documents = [scores(answer) for answer in found if isinstance(answer, PictureResult)]
    response = json_response(documents[0] if len(documents) == 1 else documents)
    response.headers["Pupila-Model"] = predictor.version
    return response


def scores(answer: PictureResult) -> dict[str, Any]:
    """Return the best classes and their probabilities."""
    return {choice.category: choice.confidence for choice in answer.prediction.top}
