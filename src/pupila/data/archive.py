"""tar and zip archives as entries in memory. Nothing is unpacked to disk, so no member's path or link can do harm.

Knows nothing of classes or pictures.
"""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pupila.data.entries import Entry, is_hidden, parts_of
from pupila.errors import DataError

MEMBER_BYTES = 64 * 2**20
"""A member is read up to here and one byte more, so that a bomb costs no more; a CIFAR-10 batch has 31 MB."""
TOTAL_BYTES = 8 * 2**30
"""All members together are held in memory: beyond this, unpacking first is the better way."""

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")

DAMAGED = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, NotImplementedError)


def read_archive(path: Path) -> list[Entry]:
    """Return all regular files of a tar (plain, gz, bz2, xz) or zip archive, recognised by content.

    Raises DataError if it is neither, is damaged, encrypted, or too large to hold in memory.
    """
    entries: list[Entry] = []
    total = 0
    try:
        for name, data in _members(path):
            parts = parts_of(name)
            total += len(data)
            if total > TOTAL_BYTES:
                raise DataError(f"{path}: holds more than {TOTAL_BYTES // 2**30} GiB. Unpack it and give the folder.")
            if parts and not is_hidden(parts):
                entries.append(Entry(parts, data))
    except DAMAGED as error:
        raise DataError(f"{path}: the archive is cut off or damaged ({error}). Copy or download it again.") from error
    return entries


def stem(path: Path) -> str:
    """Return the archive's name without its endings: cifar10-jpeg for cifar10-jpeg.tar.xz."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)] or path.name
    return path.stem


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(path):
        return _zip_members(path)
    if _is_tar(path):
        return _tar_members(path)
    raise DataError(
        f"{path}: is neither a folder nor an archive that can be read. Give a folder, {', '.join(SUFFIXES)}."
    )


def _is_tar(path: Path) -> bool:
    """True for a tar archive and for anything packed with gzip, bzip2 or xz: damage to those is then named as such."""
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")):
        return True
    return tarfile.is_tarfile(path)


def _tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield members in order. Asking for no more than their size matters: a larger buffer is set aside for each one."""
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                yield member.name, file.read(_bound(member.size))


def _zip_members(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.flag_bits & 0x1:
                raise DataError(f"{path}: is encrypted. Unpack it and give the folder.")
            if not member.is_dir():
                with archive.open(member) as file:
                    yield member.filename, file.read(_bound(member.file_size))


def _bound(announced: int) -> int:
    """How much to ask for: a read reserves all of it first, and 60,000 reserves of 64 MiB exhaust the memory maps."""
    return min(announced, MEMBER_BYTES) + 1
