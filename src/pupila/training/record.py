"""What a run was made from, as run.json in its folder: enough to make it again. The recipe is in recipe.json.

Knows paths, versions and threads; nothing of how training uses them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from pupila.data import Splits
from pupila.errors import TrainingError
from pupila.training.run_folder import RECORD, source_of


@dataclass(frozen=True)
class Record:
    """All that decides a run's result beside its recipe and the versions, which the model file holds."""

    source: str
    """A data set's name, or an absolute path."""
    size: int | None
    labels: str | None
    feedback: str | None
    outliers: str | None
    fingerprint: str
    """Of the data as it came, before pictures from feedback."""
    counts: dict[str, dict[str, int]]
    """Pictures by part and class, to say what changed."""
    threads: int
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What a run must agree with to be gone on with: recipe, data, starting weights. Empty: of an earlier version."""
    finished: bool = False

    def to_json(self) -> str:
        """Return it as it is written."""
        return json.dumps(asdict(self), indent=2)


def record_of(
    source: str,
    size: int | None,
    labels: Path | None,
    feedback: Path | None,
    outliers: Path | None,
    splits: Splits,
    identity: Mapping[str, Any],
) -> Record:
    """Describe a run that is about to begin."""
    return Record(
        source_of(source), size, _absolute(labels), _absolute(feedback), _absolute(outliers), splits.fingerprint,
        counts_of(splits), torch.get_num_threads(), identity,
    )  # fmt: skip


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())


def counts_of(splits: Splits) -> dict[str, dict[str, int]]:
    """Return the number of pictures by part and class."""
    return {name: dict(zip(part.classes, part.counts().tolist(), strict=True)) for name, part in splits.parts().items()}


def read_record(folder: Path) -> Record:
    """Read a run's record; raises TrainingError if there is none."""
    try:
        values: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Record(**{"outliers": None, **values})  # runs of earlier versions had none
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(
            f"{folder / RECORD}: is no record of a run ({error}). Give the folder of a run, like runs/photos-standard."
        ) from error
