"""The folder of a store: who may read it, and one file a picture, named by its content. Knows no database."""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pupila import images
from pupila.errors import DataError, ImageError
from pupila.feedback.strip import strip

DATABASE = "feedback.sqlite"
LONGEST = 2048
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


def clean(data: bytes, limits: images.ImageLimits) -> Clean | None:
    """Return the picture without metadata: the same file where its structure is known, else a PNG of its pixels.

    None if it cannot be read after all.
    """
    try:
        stripped = strip(data, images.header(data, limits).orientation)
        return Clean(*stripped) if stripped else Clean(images.plain_png(data, LONGEST, limits), "png")
    except ImageError:
        return None


SHELVES = tuple(f"{number:02x}" for number in range(256))
"""What the folders of pictures are called: how a hash may begin."""


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
            self.pictures.mkdir(mode=0o700, exist_ok=True)
            self.path.chmod(0o700)
            (self.path / DATABASE).touch(0o600)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be used ({error.strerror}). Give a folder that can be.") from error

    def file(self, sha256: str, kind: str) -> Path:
        """Return where the picture of this hash lies."""
        return self.pictures / sha256[:2] / f"{sha256}.{kind}"

    def write(self, picture: Clean) -> Path:
        """Write a picture, whole or not at all, if it is not there; return its place. `flush` makes it durable."""
        path = self.file(picture.sha256, picture.kind)
        if path.exists():
            return path
        path.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(picture.data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        return path

    def flush(self, paths: list[Path]) -> None:
        """Bring the names of new files to the disk, too."""
        for folder in {parent for path in paths for parent in (path.parent, self.pictures)}:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def delete(self, sha256: str, kind: str) -> None:
        """Delete a picture, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.file(sha256, kind).unlink()

    def files(self, shelf: str) -> list[Path]:
        """Return the files whose hash begins with these two digits, unfinished ones among them."""
        try:
            return sorted((self.pictures / shelf).iterdir())
        except FileNotFoundError:
            return []
