"""Cache of decoded data sets on disk: the second start reads in under a second.

    <cache>/datasets/<key of the source>/<size>.db    NumPy's zip of arrays: about (JSON), train, train-labels, ...
    <cache>/datasets/<key of the source>/size         the size chosen, where none was asked for

A cache can be deleted at any time: what is damaged shows in the checksums of the file and is read anew. If it cannot be
written, a warning says so, and loading goes on.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pupila._files import locked, open_own, write_file
from pupila.data.dataset import Dataset, Skipped, Splits
from pupila.errors import DataError

log = logging.getLogger("pupila.data")

VERSION = 6
"""Part of every key: raise it when the same files would give other pixels, labels or order than before."""
ODD = "surrogatepass"
"""How what is no UTF-8 in the names of files is written: escapes would take three times the memory."""
ROOM = 2**30
"""Bytes of the disk that are left to others."""


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
            return _read(self._folder / f"{chosen}.db")
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, DataError):
            return None

    def save(self, splits: Splits, size_was_chosen: bool) -> None:
        """Keep the data set, whole or not at all; on failure, say so in one line on standard error."""
        try:
            self._folder.mkdir(0o700, parents=True, exist_ok=True)
            ready = self._folder / ".unfinished"
            about = _about(splits)
            with locked(self._folder / ".lock"):
                try:
                    needed = (
                        ROOM
                        + len(about)
                        + sum(part.images.nbytes + part.labels.nbytes for part in splits.parts().values())
                    )
                    if needed > shutil.disk_usage(self._folder).free:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    _write(splits, about, ready)
                    ready.replace(self._folder / f"{splits.train.size}.db")
                finally:
                    ready.unlink(missing_ok=True)
            if size_was_chosen:
                write_file(self._folder / "size", str(splits.train.size), 0o600)
        except OSError as error:
            log.warning(f"Warning: the decoded pictures were not cached in {self._folder} ({error.strerror}).")


def _about(splits: Splits) -> bytes:
    """Return what is kept beside the arrays, as JSON: names may take more than the pixels."""
    about = {
        "name": splits.name,
        "classes": splits.train.classes,
        "fingerprint": splits.fingerprint,
        "layout": splits.layout,
        "notes": splits.notes,
        "names": {name: part.names for name, part in splits.parts().items()},
        "aspect": splits.aspect,
        "framing": splits.framing,
        "skipped": [asdict(picture) for picture in splits.skipped],
        "more_skipped": splits.more_skipped,
    }
    return json.dumps(about, ensure_ascii=False).encode("utf-8", ODD)


def _write(splits: Splits, about: bytes, path: Path) -> None:
    arrays: dict[str, Any] = {"about": np.frombuffer(about, np.uint8)}
    for name, part in splits.parts().items():
        arrays |= {name: part.images, f"{name}-labels": part.labels}
    with os.fdopen(open_own(path, os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
        np.savez(file, **arrays)


def _read(path: Path) -> Splits:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        about: dict[str, Any] = json.loads(arrays["about"].tobytes().decode("utf-8", ODD))
        classes = tuple(about["classes"])
        parts = {
            name: Dataset(arrays[name], arrays[f"{name}-labels"], classes, tuple(names))
            for name, names in about["names"].items()
        }
    skipped = tuple(Skipped(**picture) for picture in about["skipped"])
    validation, test = parts.get("validation"), parts.get("test")
    return Splits(
        about["name"], parts["train"], validation, test, skipped, about["fingerprint"], about["layout"],
        tuple(about["notes"]), float(about["aspect"]), str(about["framing"]), int(about.get("more_skipped", 0)),
    )  # fmt: skip
