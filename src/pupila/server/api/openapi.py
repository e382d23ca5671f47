"""GET /openapi.json: openapi.json of this folder, filled in with the model's name, its classes and the limits."""

import json
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, request

from pupila.predictor import Predictor
from pupila.server.api.views import app_state, json_response
from pupila.server.settings import Settings

TEMPLATE = Path(__file__).with_suffix(".json")

openapi = Blueprint("openapi", __name__)


@openapi.get("/openapi.json")
def show() -> Response:
    """Describe the interface."""
    state = app_state()
    described = document(state.classifier.predictor, state.settings)
    if request.script_root:
        described["servers"] = [{"url": request.script_root}]
    return json_response(described)


def document(predictor: Predictor, settings: Settings) -> dict[str, Any]:
    """Return the description for one model and these settings."""
    from pupila import __version__

    values = {"VERSION": __version__, "MODEL": predictor.manifest.name, "MAX_PARTS": str(settings.max_parts)}
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(name, json.dumps(value)[1:-1])
    described: dict[str, Any] = json.loads(text)
    described["components"]["schemas"]["Category"]["enum"] = [*predictor.manifest.classes, None]
    if settings.api_keys:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
    return described
