"""Copies the checkpoint to an address (_files.py) and back: for machines that share no disk, or may vanish."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pupila._files import open_filesystem, replacing
from pupila.errors import TrainingError

OBJECTS = ("s3", "gs", "gcs")
"""Where an object is there only once it is whole, and renaming one would copy it."""


class Mirror:
    """A folder elsewhere that holds files of the same names. Raises TrainingError if it cannot be reached."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        try:
            self._files, self._root = open_filesystem(self._address, f"Writing to {self._address}")
        except (ImportError, OSError, ValueError) as error:  # the package for this kind of address, or the kind itself
            raise TrainingError(
                f"{address}: cannot be used ({error}). Install what it names, or give another."
            ) from error

    def put(self, path: Path) -> None:
        """Copy the file there, whole or not at all."""
        self._do("written", self._put, path)

    def fetch(self, path: Path) -> bool:
        """Bring the file here in place of what is at `path`; False if there is none."""
        found: bool = self._do("read", self._fetch, path)
        return found

    def has(self, path: Path) -> bool:
        """Return True if a file of this name is there."""
        found: bool = self._do("read", lambda p: self._files.exists(self._there(p)), path)
        return found

    def _there(self, path: Path) -> str:
        return f"{self._root}/{path.name}"

    def _put(self, path: Path) -> None:
        there = self._there(path)
        self._files.makedirs(self._root, exist_ok=True)
        if urlsplit(self._address).scheme in OBJECTS:
            self._files.put_file(str(path), there)
            return
        part = f"{there}.{os.getpid()}.part"
        self._files.put_file(str(path), part)
        self._files.mv(part, there)

    def _fetch(self, path: Path) -> bool:
        if not self._files.exists(self._there(path)):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            self._files.get_file(self._there(path), str(temporary))
        return True

    def _do(self, done: str, call: Any, path: Path) -> Any:
        try:
            return call(path)
        except Exception as error:  # every kind of store has errors of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TrainingError(
                f"{self._address}/{path.name}: cannot be {done} ({reason}). Check --checkpoints and its keys."
            ) from error
