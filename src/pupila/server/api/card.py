"""A model's card: what a person should know who reads its answers, out of its manifest. Knows no HTTP."""

from typing import Any

from pupila.manifest import Manifest
from pupila.server.settings import Settings


def card_of(manifest: Manifest, version: str, settings: Settings) -> dict[str, Any]:
    """Return the card as JSON. What the manifest does not say is null: no figure is made up."""
    metrics = manifest.metrics
    return {
        "name": manifest.name,
        "version": version,
        "classes": list(manifest.classes),
        "input_size": manifest.input_size,
        "precision": manifest.precision,
        "data": {"source": manifest.data.get("source"), "train": manifest.data.get("train")},
        "accuracy": metrics.get("accuracy"),
        "interval": metrics.get("interval"),
        "pictures": metrics.get("n"),
        "split": metrics.get("split"),
        "calibration_error": metrics.get("ece"),
        "knows_unknown": manifest.unknown_threshold is not None,
        "feedback": settings.feedback_dir is not None,
        "limits": {
            "max_parts": settings.max_parts,
            "max_part_bytes": settings.max_part_bytes,
            "max_body_bytes": settings.max_body_bytes,
            "max_pixels": settings.max_pixels,
            "deadline": settings.request_timeout,
        },
    }
