"""The plain way: Flask's development server, torch in eager mode, ResNet-18, one forward a file, as in tutorials.

The weights are random: speed does not depend on them. The picture is enlarged to what the model file works at.
"""

import io
import sys
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from flask import Flask, jsonify, request
from numpy import asarray
from PIL import Image

from pupila.predictor import Predictor
from pupila.training.loop.resnet import ResNet18

manifest = Predictor.load(Path(sys.argv[1])).manifest
net = ResNet18(len(manifest.classes)).eval()
app = Flask(__name__)


@app.post("/predict")
def predict():  # type: ignore[no-untyped-def]
    """One forward pass a file."""
    predictions = []
    for file in request.files.getlist("file"):
        image = Image.open(io.BytesIO(file.read())).convert("RGB").resize((manifest.input_size,) * 2)
        x = torch.from_numpy(asarray(image).copy()).permute(2, 0, 1).float().div(255).sub(0.5).div(0.25).unsqueeze(0)
        with torch.no_grad():
            logits = net(F.interpolate(x, size=(manifest.network_size,) * 2, mode="bilinear", align_corners=False))
        best = int(logits.argmax())
        predictions.append({"category": manifest.classes[best], "category_index": best})
    return jsonify(predictions=predictions)


app.run(port=int(sys.argv[2]))
