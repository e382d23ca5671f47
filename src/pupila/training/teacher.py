"""A model that knows the classes already: its probabilities are learned beside the labels.

Knowledge distillation (Hinton, Vinyals and Dean, 2015, arXiv 1503.02531): they say how much a picture resembles the
other classes, too, which a label does not. The teacher is asked once for each picture, before the first step.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pupila.data import Dataset
from pupila.errors import DataError
from pupila.evaluation.evaluate import bind, predict_columns
from pupila.predictor import Predictor
from pupila.training.loop.class_weights import GUESSING

SHARE = 0.8
"""Of the loss; the labels have the rest."""
TEMPERATURE = 2.0
"""Both sides' logits are divided by it, so that small probabilities count; the loss times its square keeps the size of
its gradients, as in the paper."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """What a model says of the pictures that are trained on."""

    probabilities: Tensor
    """float32 [N, K], at TEMPERATURE, on the CPU."""
    name: str
    fingerprint: str
    """The version of its file, by which it is told from another."""
    accuracy: float
    """Share of these pictures for which it names the label."""

    def to_manifest(self) -> dict[str, Any]:
        """Return what a model file says of it."""
        return {"name": self.name, "version": self.fingerprint, "accuracy": round(self.accuracy, 4)}

    def describe(self) -> str:
        """Return what a person should know of it, in one line."""
        return f"It teaches beside the labels; it names {100 * self.accuracy:.0f}% of these pictures as they do."

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the mean cross entropy of logits [B, K] with what it says of the pictures `rows`, int64 [B]."""
        wanted = self.probabilities[rows.cpu()].to(logits.device)
        return functional.cross_entropy(logits / TEMPERATURE, wanted) * TEMPERATURE**2


def read_teacher(path: Path, training: Dataset) -> Teacher:
    """Ask a model file for its answers to all pictures; their classes are matched by name, and it may know others.

    Raises ModelError if the file cannot be used, DataError if it lacks a class or knows the pictures hardly at all.
    """
    predictor = Predictor.load(path)
    manifest = predictor.manifest
    bind(training, manifest.classes)
    places = {name: place for place, name in enumerate(manifest.classes)}
    columns = [places[name] for name in training.classes]
    logits = predict_columns(predictor, training.images, columns)
    accuracy = float((logits.argmax(1) == training.labels).mean())
    if accuracy <= GUESSING / len(columns):
        raise DataError(
            f"{path}: names only {100 * accuracy:.0f}% of the pictures as their labels do, so that it would teach what "
            "is wrong. Give a model that was trained on these classes."
        )
    probabilities = torch.from_numpy(logits).div_(TEMPERATURE).softmax(1)
    return Teacher(probabilities, path.name, predictor.version, accuracy)
