"""The BentoML service, in its own idiom: several parts named 'file' in, one prediction each out."""

import os
from pathlib import Path
from typing import Any

import bentoml

from pupila import images
from pupila.predictor import Predictor


@bentoml.service(workers=int(os.environ["WORKERS"]), traffic={"timeout": 30})
class Service:
    """A service around one model file."""

    def __init__(self) -> None:
        self.predictor = Predictor.load(Path(os.environ["MODEL"]))

    @bentoml.api
    def predict(self, file: list[Path]) -> dict[str, Any]:
        """Decode, compute, answer."""
        size = self.predictor.manifest.input_size
        pictures = images.stack([images.decode(path, size) for path in file])
        return {"predictions": [vars(prediction.best) for prediction in self.predictor.predict(pictures)]}
