"""From predictions to what a client reads. Knows the shape of every successful answer, not how it came about."""

import json
from collections.abc import Sequence
from typing import Any

from pupila.errors import ImageError
from pupila.prediction import Choice
from pupila.predictor import Floats, heat_map
from pupila.server.api.errors import BadPart
from pupila.server.api.multipart import Part
from pupila.server.inference.classifier import Answer

ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def to_bytes(document: Any) -> bytes:
    """Return compact JSON; half a surrogate pair, which a client may have us repeat, becomes a question mark."""
    return ENCODER.encode(document).encode(errors="replace")


def predictions_json(parts: Sequence[Part], answers: Sequence[Answer | ImageError], top: int | None) -> dict[str, Any]:
    """Return the body of /predict: one entry a part in request order, an error in a bad part's place."""
    return {"predictions": [entry(i, part, a, top) for i, (part, a) in enumerate(zip(parts, answers, strict=True))]}


def entry(index: int, part: Part, answer: Answer | ImageError, top: int | None) -> dict[str, Any]:
    """Return one picture's entry; `top` is None unless the client asked for more than the best class."""
    if isinstance(answer, ImageError):
        return {"error": BadPart.of(index, part.filename, answer).to_json()}
    found = choice_json(answer.prediction.best)
    if answer.prediction.unknown:
        found["unknown"] = True
    if top is not None:
        found["top"] = [choice_json(choice) for choice in answer.prediction.top]
    if answer.cam is not None:
        found["explanation"] = cam_json(answer.cam)
    return found


def choice_json(choice: Choice) -> dict[str, Any]:
    """Return a class and its probability."""
    return {
        "category": choice.category,
        "category_index": choice.category_index,
        "confidence": round(choice.confidence, 6),
    }


def cam_json(cam: Floats) -> dict[str, Any]:
    """Return a class activation map scaled to 0 to 1: rows from top to bottom, over the whole picture."""
    return {"height": cam.shape[0], "width": cam.shape[1], "values": heat_map(cam)}
