"""Run folders: default names, names that count up, and which run is unfinished."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.onnx"
TRACES = ("recipe.json", "run.json", "metrics.jsonl", CHECKPOINT, MODEL, "results.json", "report.html")
"""Files of which one at least is in a folder that a run has written to."""


def default_name(data: str, what: str) -> str:
    """Return a run's name: that of the data set or of its folder, whatever the path looks like, and the recipe's."""
    stem = Path(data).expanduser().resolve().name.lstrip(".").split(".")[0]
    return f"{stem or 'photos'}-{what}"


def holds_run(folder: Path) -> bool:
    """Return whether a run has left something in the folder."""
    return any((folder / name).exists() for name in TRACES)


def free_folder(runs: Path, name: str) -> Path:
    """Return the first of NAME, NAME-2, NAME-3 ... that holds no run."""
    return next(folder for folder in _numbered(runs, name) if not holds_run(folder))


def _numbered(runs: Path, name: str) -> Iterator[Path]:
    yield runs / name
    yield from (runs / f"{name}-{number}" for number in count(2))
