"""The picture files of a feedback store: one a picture, named by the SHA-256 of its content, for the owner only."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pupila import images
from pupila._files import sync, write_file
from pupila.errors import DataError, ImageError
from pupila.feedback.strip import strip

DATABASE = "feedback.sqlite"
LONGEST = 1024
"""Pixels a side to which a picture is scaled down that cannot be kept as the file that it was."""


@dataclass(frozen=True)
class Clean:
    """A picture file without metadata."""

    data: bytes
    kind: str
    """jpg, png or webp."""

    @property
    def sha256(self) -> str:
        """What the file is named by."""
        return hashlib.sha256(self.data).hexdigest()


def clean(data: bytes, limits: images.ImageLimits, lock: images.DecodeLock = images.no_lock) -> Clean | None:
    """Return the picture without metadata: the same file where its structure is known, else a PNG of its pixels.

    `lock`: see images.decode(). None if it cannot be read after all.
    """
    try:
        stripped = strip(data, images.header(data, limits).orientation)
        return Clean(*stripped) if stripped else Clean(images.plain_png(data, LONGEST, limits, lock), "png")
    except ImageError:
        return None


class Folder:
    """The picture files. Who writes or deletes holds the store's write lock, so that files and rows agree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pictures = path / "pictures"

    def prepare(self) -> None:
        """Make the folder, for its owner only. Raises DataError if it cannot be, or if it holds something else."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (self.path / DATABASE).exists() and any(self.path.iterdir()):
                raise DataError(f"{self.path}: holds other files. Give a folder of its own for collected pictures.")
            (self.path / DATABASE).touch(0o600)  # first: a folder that holds it is known as ours after a kill
            self.pictures.mkdir(mode=0o700, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be used ({error.strerror}). Give a folder that can be.") from error

    def file(self, sha256: str, kind: str) -> Path:
        """Return where the picture of this hash lies."""
        return self.pictures / f"{sha256}.{kind}"

    def write(self, pictures: Iterable[Clean]) -> None:
        """Write those that are not there yet, each whole or not at all, and return when all are on the disk."""
        for one in pictures:
            path = self.file(one.sha256, one.kind)
            if not path.exists():
                write_file(path, one.data, 0o600)
        sync(self.pictures)  # their names, and also those that a process which was killed has not flushed

    def delete(self, sha256: str, kind: str) -> None:
        """Delete a picture if it is there."""
        self.file(sha256, kind).unlink(missing_ok=True)

    def files(self) -> set[str]:
        """Return the names of all files, unfinished ones among them."""
        return {entry.name for entry in os.scandir(self.pictures)}
