"""LitServe with the same model file, decoding and answer; its own batching, one inference worker per core."""

import os
import sys
from pathlib import Path

import litserve
from fastapi import Request

from pupila import images
from pupila.predictor import Predictor


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Several parts named 'file' in, one prediction each out."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load in the worker."""
        self.predictor = Predictor.load(Path(sys.argv[1]))

    def decode_request(self, request: Request):  # type: ignore[no-untyped-def]
        """Decode the pictures."""
        size = self.predictor.manifest.input_size
        return [images.decode(file.file.read(), size) for file in request.getlist("file")]

    def predict(self, pictures):  # type: ignore[no-untyped-def]
        """Compute."""
        return self.predictor.predict(images.stack(pictures))

    def encode_response(self, predictions):  # type: ignore[no-untyped-def]
        """Answer."""
        choices = [prediction.best for prediction in predictions]
        return {"predictions": [vars(choice) for choice in choices]}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(api_path="/predict"), accelerator="cpu", workers_per_device=int(os.environ["WORKERS"]), timeout=30
    )
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
