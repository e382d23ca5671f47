"""Run folders: names that count up, one training at a time by a lock, and run.json: what a run was made from.

A run is finished once run.json says so. Until then its checkpoint, the largest file, is kept; --resume goes on from it.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from pupila._files import from_json, json_object, open_own, read_small, write_file
from pupila.data.sources.source import NAMES, source_name
from pupila.errors import TrainingError, own_command, serve_command

RECORD = "run.json"
CHECKPOINT = "checkpoint.safetensors"
LOCK = ".lock"
TRACES = ("recipe.json", RECORD, "metrics.jsonl", CHECKPOINT, "model.onnx", "results.json", "report.html")
"""Files of which one at least is in a folder that a run has written to."""
PATHS = ("labels", "feedback", "outliers", "teacher")


@dataclass(frozen=True)
class TrainingData:
    """What a run is trained on, as a person names it."""

    source: str
    """A data set's name, or a path."""
    size: int | None = None
    """Pixels a side that pictures are stored at; None to choose it from the data."""
    labels: Path | None = None
    """A table of corrected labels, see pupila.data.quality.labels."""
    feedback: Path | None = None
    """A folder of corrected pictures to add."""
    outliers: Path | None = None
    """Pictures that show none of the classes."""
    teacher: Path | None = None
    """A model file whose answers are learned, too."""


@dataclass(frozen=True)
class Record(TrainingData):
    """All that decides a run's result beside its recipe and the versions; paths are absolute."""

    fingerprint: str = ""
    """Of the data as it came, before pictures from feedback."""
    threads: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What a run must agree with to be gone on with: recipe, data, starting weights. Empty: of an earlier version."""
    finished: bool = False

    def write(self, folder: Path) -> None:
        """Write it as run.json."""
        values = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        write_text(folder / RECORD, json.dumps(values, indent=2))


def read_record(folder: Path) -> Record:
    """Read a run's record; raises TrainingError if there is none."""
    try:
        values = json_object(read_small(folder / RECORD))
        values.pop("counts", None)  # of an earlier version
        return from_json(Record, values)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(
            f"{folder / RECORD}: is no record of a run ({reason}). Give the folder of a run, like runs/photos-standard."
        ) from error


def default_name(data: str, what: str) -> str:
    """Return a run's name: that of the data set and of the recipe."""
    return f"{source_name(data).lstrip('.') or 'photos'}-{what}"


def source_of(data: str) -> str:
    """Return how a record names a data set: by its name, or by an absolute path."""
    return data if data in NAMES else str(Path(data).expanduser().absolute())


def holds_run(folder: Path) -> bool:
    """Return whether a run has left something in the folder."""
    return any((folder / name).exists() for name in TRACES)


def folder_of(runs: Path, name: str) -> Path:
    """Return the folder of that name; raises TrainingError if it would not be one within `runs`."""
    try:
        folder, within = (runs / name).resolve(), runs.resolve()
    except (OSError, ValueError) as error:
        raise TrainingError(f"--name {name!r} cannot be a folder's name ({error}). Choose another.") from error
    if within not in folder.parents:
        raise TrainingError(f"--name {name!r} leads out of {runs}. Give a plain name, and the place with --runs.")
    return runs / name


@contextmanager
def new_folder(runs: Path, name: str) -> Iterator[Path]:
    """Make and yield the first of NAME, NAME-2, NAME-3 ... that is not there yet; removed if it stays empty."""
    folder_of(runs, name)
    for folder in (runs / (name if number == 1 else f"{name}-{number}") for number in count(1)):
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise _cannot_write(folder, error) from error
        break
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()


def unfinished(runs: Path, source: str | None = None) -> Path:
    """Return the run to go on with: of those that are not finished, of this data set if one is named, the last.

    Raises TrainingError if there is none.
    """
    records = [path for path in runs.glob(f"*/{RECORD}") if path.is_file() and not path.parent.is_symlink()]
    found = [path.parent for path in records if not is_finished(path.parent)]
    found = [folder for folder in found if source is None or read_json(folder / RECORD).get("source") == source]
    if not found:
        what = f"there is no unfinished run with the data {source}" if source else "there is no unfinished run"
        raise TrainingError(f"{runs}: {what}. Leave --resume out to begin one.")
    return max(found, key=lambda folder: max(path.stat().st_mtime for path in folder.iterdir() if path.is_file()))


def is_finished(folder: Path) -> bool:
    """Return whether a run came to its end; runs of earlier versions did if they have a model."""
    record = read_json(folder / RECORD)
    return bool(record.get("finished", (folder / "model.onnx").exists()))


def left_by(folder: Path) -> str:
    """Return a sentence on what a training that was stopped has left in its folder, and the command that goes on."""
    model, checkpoint = folder / "model.onnx", folder / CHECKPOINT
    if not (folder / RECORD).exists():
        return "Stopped before there was anything to go on with. Give the same command again."
    if is_finished(folder):
        return f"{folder}: is finished. Serve it with: {serve_command(model)}"
    runs = () if folder.parent == Path("runs") else ("--runs", str(folder.parent))
    again = own_command("train", "--resume", "--name", folder.name, *runs)
    if not checkpoint.exists():
        kept = "has neither a model file nor a checkpoint yet."
        kept = "has a model file, and no checkpoint yet." if model.exists() else kept
        return f"{folder}: {kept} Begin it anew with: {again}"
    kept = "has a checkpoint, and no model file yet."
    if model.exists():
        older = model.stat().st_mtime < checkpoint.stat().st_mtime
        kept = "has a checkpoint, and a model file from before it." if older else "has a checkpoint and a model file."
    return f"{folder}: {kept} Go on with: {again}"


def finish(folder: Path) -> None:
    """Note that a run is finished, then remove its checkpoint, which nothing needs any more."""
    path = folder / RECORD
    try:
        write_file(path, json.dumps({**read_json(path), "finished": True}, indent=2) + "\n")
        (folder / CHECKPOINT).unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def forget(folder: Path) -> None:
    """Remove what makes the folder that of a run, so that the run begins anew; raises TrainingError if it cannot be."""
    for path in (folder / name for name in TRACES):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # of a folder of that name, too
            raise _cannot_write(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return what a small file of a run says; nothing if there is none or it is damaged."""
    try:
        return json_object(read_small(path))
    except (OSError, ValueError):
        return {}


def write_text(path: Path, text: str) -> None:
    """Write a small file of a run atomically; raises TrainingError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text + "\n")
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases however this process ends.

    Raises TrainingError that names the process which trains there, or if the folder cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)
        with suppress(OSError):
            folder.rmdir()  # if nothing was written


def _take(path: Path) -> int:
    """Return the lock's descriptor. The file may be removed between open and lock: then it is opened again."""
    while True:
        descriptor = open_own(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise TrainingError(
                f"{path.parent}: is being trained by process {owner}. Wait for it, or choose another --name."
            ) from None
        except OSError:
            return descriptor  # a file system without locks
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> TrainingError:
    return TrainingError(f"{path}: cannot be written ({error.strerror}). Choose another place with --runs.")
