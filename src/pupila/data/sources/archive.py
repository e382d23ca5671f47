"""tar and zip archives as entries in memory. Nothing is unpacked to disk, so no member's path or link can do harm.

Knows nothing of classes or pictures.
"""

import lzma
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pupila.data.sources.files import SourceFile, is_hidden, parts_of
from pupila.errors import DataError
from pupila.progress import Progress

MEMBER_BYTES = 64 * 2**20
"""A member is read up to here and one byte more, so that a bomb costs no more; a CIFAR-10 batch has 31 MB."""
REPORT_EVERY = 2**20
TOTAL_BYTES = 8 * 2**30
"""All members together are held in memory: beyond this, unpacking first is the better way."""

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")

ZIP_STARTS = b"PK\x03\x04"

DAMAGED = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, NotImplementedError)


def read_archive(path: Path) -> list[SourceFile]:
    """Return all regular files of a tar (plain, gz, bz2, xz) or zip archive, recognised by content.

    Raises DataError if it is neither, is damaged, encrypted, or too large to hold in memory.
    """
    entries: dict[tuple[str, ...], SourceFile] = {}  # of two members with one name the later counts, as when unpacking
    total = 0
    try:
        with path.open("rb") as file, Progress("reading", path.stat().st_size) as bar:
            seen = 0
            for name, data in _members(path, file):
                parts = parts_of(name)
                total += len(data)
                if total > TOTAL_BYTES:
                    raise DataError(f"{path}: holds over {TOTAL_BYTES // 2**30} GiB. Unpack it and give the folder.")
                if parts and not any(map(is_hidden, parts)):
                    entries[parts] = SourceFile(parts, data)
                if file.tell() - seen > REPORT_EVERY:
                    bar.advance(file.tell() - seen)
                    seen = file.tell()
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    except DAMAGED as error:
        raise DataError(f"{path}: the archive is cut off or damaged ({error}). Copy or download it again.") from error
    return list(entries.values())


def stem(path: Path) -> str:
    """Return the archive's name without its endings: cifar10-jpeg for cifar10-jpeg.tar.xz."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)] or path.name
    return path.stem


def _members(path: Path, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    if _is_tar(file):  # asked first: a tar that holds a zip looks like a zip too
        return _tar_members(file)
    if zipfile.is_zipfile(file):
        return _zip_members(path, file)
    file.seek(0)
    if file.read(len(ZIP_STARTS)) == ZIP_STARTS:
        raise zipfile.BadZipFile("the list of its files, which stands at the end, is missing")
    raise DataError(f"{path}: is no archive that can be read. Give a folder, or one of {', '.join(SUFFIXES)}.")


def _is_tar(file: BinaryIO) -> bool:
    """True for a tar archive and for anything packed with gzip, bzip2 or xz: damage to those is then named as such."""
    file.seek(0)
    start = file.read(6)
    file.seek(0)
    packed = start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"))
    is_tar = packed or tarfile.is_tarfile(file)
    file.seek(0)
    return is_tar


def _tar_members(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield regular files, then links, as the file in the same archive that each names; devices are passed over.

    Asking for no more than a file's size matters: a buffer of what is asked for is set aside.
    """
    held: dict[str, bytes] = {}
    links: list[tuple[str, str]] = []
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                data = held[posixpath.normpath(member.name)] = content.read(min(member.size, MEMBER_BYTES + 1))
                yield member.name, data
            elif member.islnk() or member.issym():
                home = posixpath.dirname(member.name) if member.issym() else ""
                links.append((member.name, posixpath.normpath(posixpath.join(home, member.linkname))))
    for name, target in links:
        if target in held:
            held[posixpath.normpath(name)] = held[target]
            yield name, held[target]


def _zip_members(path: Path, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.flag_bits & 0x1:
                raise DataError(f"{path}: is encrypted. Unpack it and give the folder.")
            if not member.is_dir():
                with archive.open(member) as content:
                    name = member.filename.replace("\\", "/")  # some packers on Windows write it so
                    yield name, content.read(min(member.file_size, MEMBER_BYTES + 1))
