"""Make a run again and say whether the same came out; if not, what differs."""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from pupila._arguments import counted
from pupila.data import load_dataset
from pupila.data.quality.labels import relabelled
from pupila.errors import TrainingError
from pupila.predictor import Predictor
from pupila.progress import printable_lines
from pupila.recipe import Recipe
from pupila.training.run_folder import Record, read_json, read_record
from pupila.training.train import TrainJob, train


@dataclass(frozen=True)
class Reproduction:
    """What came out."""

    same: bool
    """True if weights and scores are equal, bit for bit."""
    accuracy: tuple[float, float]
    """On validation, then and now."""
    differences: tuple[str, ...]
    """What is another than it was, one sentence each: why the result may differ."""

    def text(self) -> str:
        """Return a summary for a terminal."""
        then, now = self.accuracy
        if self.same:
            return printable_lines("The same weights and scores came out, bit for bit.", *self.differences)
        head = f"Something else came out: validation accuracy {now:.4f}, and it was {then:.4f}."
        reasons = self.differences or (
            "Data, recipe, seed, versions and threads are the same: another processor may round differently.",
        )
        return printable_lines(head, *reasons)


def reproduce(folder: Path, source: str | None = None) -> Reproduction:
    """Train again as the run in `folder` was trained, beside it, and compare; `source`: where the data lies now.

    Raises TrainingError if the folder holds no finished run, or if the data has changed: then nothing is trained.
    """
    record = read_record(folder)
    before = Predictor.load(folder / "model.onnx").manifest
    if "accuracy" not in before.metrics:
        raise TrainingError(f"{folder / 'model.onnx'}: says no accuracy to compare with. Give the folder of a run.")
    values = read_json(folder / "recipe.json")
    if not values:
        raise TrainingError(f"{folder / 'recipe.json'}: is no recipe of a run. Give the folder of a run.")
    recipe = Recipe.from_dict(values, str(folder))
    record = replace(record, source=source or record.source)
    _check_data(record, before.framing)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-again-", dir=folder.parent) as name:
        again = Path(name) / folder.name
        after = train(TrainJob(record, recipe, again), keep_open=True).exported.predictor.manifest
        threads = read_record(again).threads
        same = _graph(folder / "model.onnx") == _graph(again / "model.onnx")
    same = same and _timeless(before.metrics) == _timeless(after.metrics)
    then, now = ({**m.recipe, **m.versions, "weights": m.weights, **_added(m.data)} for m in (before, after))
    differences = _differences({**then, "threads": record.threads}, {**now, "threads": threads})
    if recipe.minutes:
        differences.append(f"The recipe counts in minutes ({recipe.minutes:g}), and no two runs get as many steps.")
    return Reproduction(same, (before.metrics["accuracy"], after.metrics["accuracy"]), tuple(differences))


def _check_data(record: Record, framing: str) -> None:
    """Raise TrainingError unless the data is what it was."""
    splits = load_dataset(record.source, record.size, framing=framing)
    splits = splits if record.labels is None else relabelled(splits, record.labels)
    if splits.fingerprint != record.fingerprint:
        raise TrainingError(
            f"{record.source}: is not the data that the run was trained on: it had other names, labels or pixels. "
            "Give it with --data."
        )


def _added(data: Mapping[str, Any]) -> dict[str, str]:
    """Return what a model file says of what taught it beside the data set, by the option that gave it."""
    options = {"--feedback-dir": "feedback", "--outliers": "outliers"}
    added = {option: data[name] for option, name in options.items() if name in data}
    said = {key: f"{counted(one['pictures'], 'picture')} ({one['fingerprint'][:12]})" for key, one in added.items()}
    return said | ({"--teacher": data["teacher"]["version"]} if "teacher" in data else {})


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{name} is {value} and was {then.get(name)}." for name, value in now.items() if value != then.get(name)]


def _graph(path: Path) -> str:
    """Return a hash of the file without its manifest: nodes and weights."""
    model = onnx.load(path)
    del model.metadata_props[:]
    return hashlib.sha256(model.SerializeToString()).hexdigest()


def _timeless(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name != "milliseconds"}
