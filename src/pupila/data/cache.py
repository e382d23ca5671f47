"""Cache of decoded data sets on disk: the second start reads in under a second.

    <cache>/datasets/<key of the source>/<size>/about.json, train.npy, train-labels.npy, test.npy, ...
    <cache>/datasets/<key of the source>/size            the size chosen, where none was asked for

A cache can be deleted at any time. If it cannot be written, a warning says so, and loading goes on.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pupila.data.dataset import Dataset, Skipped, Splits
from pupila.errors import DataError

log = logging.getLogger("pupila.data")

VERSION = 6
"""Part of every key: raise it when the same files would give other pixels, labels or order than before."""


WRITING = ".writing-"
"""Begins the name of a folder that is not whole yet; the number of the process that writes it follows."""


class DatasetCache:
    """The kept data set of one source, in any number of sizes."""

    def __init__(self, folder: Path, identity: object) -> None:
        """`identity` is what tells this source, in this state, from all others; it must have a JSON form."""
        text = json.dumps([VERSION, identity])
        self._folder = folder / "datasets" / hashlib.sha256(text.encode()).hexdigest()[:32]

    def load(self, size: int | None) -> Splits | None:
        """Return what was saved, or None if there is nothing, or it is damaged."""
        try:
            chosen = size or int((self._folder / "size").read_text())
            return _read(self._folder / str(chosen))
        except (OSError, ValueError, KeyError, TypeError, EOFError, DataError):
            return None

    def save(self, splits: Splits, size_was_chosen: bool) -> None:
        """Keep the data set, whole or not at all; on failure, say so in one line on standard error."""
        target = self._folder / str(splits.train.size)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            prefix = f"{WRITING}{os.getpid()}-"
            with tempfile.TemporaryDirectory(prefix=prefix, dir=self._folder, ignore_cleanup_errors=True) as name:
                _write(splits, Path(name))
                _replace(Path(name), target)
            if size_was_chosen:
                (self._folder / "size").write_text(str(splits.train.size))
        except OSError as error:
            reason = error.strerror or "the disk may be full"  # NumPy says only how much it wrote
            log.warning(f"Warning: the decoded pictures were not cached in {self._folder} ({reason}).")

    def _sweep(self) -> None:
        for left in self._folder.glob(f"{WRITING}*"):
            try:
                os.kill(int(left.name.removeprefix(WRITING).partition("-")[0]), 0)
            except ProcessLookupError:
                shutil.rmtree(left, ignore_errors=True)
            except (OSError, ValueError):
                continue


def _write(splits: Splits, folder: Path) -> None:
    parts = splits.parts()
    with ThreadPoolExecutor(1) as beside:  # neither writing nor summing up holds Python's lock
        checksums = beside.submit(lambda: {name: _checksum(part.images, part.labels) for name, part in parts.items()})
        for name, part in parts.items():
            np.save(folder / f"{name}.npy", part.images, allow_pickle=False)
            np.save(folder / f"{name}-labels.npy", part.labels, allow_pickle=False)
    about = {
        "name": splits.name,
        "classes": splits.train.classes,
        "fingerprint": splits.fingerprint,
        "layout": splits.layout,
        "notes": splits.notes,
        "names": splits.names,
        "aspect": splits.aspect,
        "framing": splits.framing,
        "skipped": [asdict(picture) for picture in splits.skipped],
        "checksums": checksums.result(),
    }
    (folder / "about.json").write_text(json.dumps(about))


def _replace(ready: Path, target: Path) -> None:
    """Put the folder in place; one that lies there already is damaged, or another process was just as fast."""
    if target.exists():
        shutil.rmtree(target, ignore_errors=True)
    ready.rename(target)
    ready.mkdir()  # TemporaryDirectory wants to remove it


def _read(folder: Path) -> Splits:
    about: dict[str, Any] = json.loads((folder / "about.json").read_text())
    classes = tuple(about["classes"])
    parts: dict[str, Dataset] = {}
    for name, checksum in about["checksums"].items():
        images = np.load(folder / f"{name}.npy", allow_pickle=False)
        labels = np.load(folder / f"{name}-labels.npy", allow_pickle=False)
        if _checksum(images, labels) != checksum:
            raise ValueError(name)
        parts[name] = Dataset(images, labels, classes, tuple(about["names"].get(name, ())))
    skipped = tuple(Skipped(**picture) for picture in about["skipped"])
    validation, test = parts.get("validation"), parts.get("test")
    return Splits(
        about["name"], parts["train"], validation, test, skipped, about["fingerprint"], about["layout"],
        tuple(about["notes"]), float(about["aspect"]), str(about["framing"]),
    )  # fmt: skip


def _checksum(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> int:
    """Guards against damage on disk, not against people: a fast one is enough."""
    return zlib.crc32(labels.tobytes(), zlib.crc32(np.ascontiguousarray(images).data))
