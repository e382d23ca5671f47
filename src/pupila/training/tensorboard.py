"""Writes a run's metrics as TensorBoard's event files, by an optional package that is imported when it is asked for."""

import contextlib
import importlib.util
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pupila.errors import MissingExtraError, TrainingError
from pupila.training.loop.fit import OnEpoch, Row

PACKAGE = "tensorboard"


def check_installed() -> None:
    """Raise MissingExtraError if the package is not there: before the data is read, and cheaply."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingExtraError("--log tensorboard", "tensorboard")


@contextlib.contextmanager
def event_file(folder: Path) -> Iterator[OnEpoch]:
    """Yield what takes the rows of all epochs so far after each epoch, and writes those that the log lacks.

    A run that goes on begins with its whole history: so a log is complete even if it was asked for only on the way, and
    readers forget what a killed part of the run wrote (purge_step). Raises TrainingError if it cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    try:
        writer = SummaryWriter(str(folder), purge_step=0)
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written ({error.strerror}). Choose another --runs.") from error
    written = 0

    def record(rows: Sequence[Row]) -> None:
        nonlocal written
        began = time.time() - rows[-1]["seconds"]
        for row in rows[written:]:
            for name, value in row.items():
                if name != "epoch":
                    writer.add_scalar(name, float(value), row["epoch"], began + row["seconds"])
        written = len(rows)
        writer.flush()

    with contextlib.closing(writer):
        yield record
