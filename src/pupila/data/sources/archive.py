"""Reads tar and zip archives in memory, with limits on members, header records and unpacked bytes.

Nothing is unpacked to disk, so no member's path or link can do harm.
"""

import bz2
import gzip
import lzma
import os
import posixpath
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from pupila import images
from pupila._files import DEEPEST_FOLDER, is_hidden
from pupila.data.dataset import SkippedFiles
from pupila.data.sources.files import LONGEST, PICTURES, TOO_DEEP, SourceFile, SourceFiles, parts_of, shortened
from pupila.errors import DataError
from pupila.progress import progress_bar

MEMBER_BYTES = 64 * 2**20
"""Larger members are left out; a CIFAR-10 batch has 31 MB."""
TOTAL_BYTES = 8 * 2**30
"""All members together are held in memory: beyond this, unpacking first is the better way."""
RATIO, RATIO_FROM = 100, 128 * 2**20
"""An archive may unpack to so many times its size; it counts from so many bytes on. Pictures hardly shrink at all."""
MEMBERS = 250_000
HEADER_BYTES = 128 * 2**10
"""Of what a tar says of one member: long names and pax records."""
LONG_NUMBER = re.compile(rb"[0-9]{65}")
"""In pax records: the time that tarfile takes for a number goes with the square of its digits."""
RECORD_LENGTH = 20
"""Bytes within which a pax record has said how long it is."""
GLOBAL_RECORDS, GLOBAL_LETTERS = 100, 16_384
"""Of pax records that hold for all members: each member is given all of them."""
LONGEST_PATH = 4096
"""Letters of a member's name with its folders: Linux takes no more bytes."""
PART_BYTES = 200
"""What a folder in a member's name takes, or a pax record: a few letters become an object, and more than one."""
TOO_LONG = "Its name is longer than file systems take."
HEAD_BYTES = 4096
"""Looked at to say what a file is that is no archive."""
DIRECTORY_BYTES = 64 * 2**20
"""Of the list of members at the end of a zip."""
MEMBER_OBJECT_BYTES = 800
"""What zipfile makes of an entry in that list, before any name is looked at."""
NAME_COPIES = 8
"""Bytes that a byte of a name in that list may take: four a letter, and zipfile holds it twice where it has a zero."""
ENTRY_BYTES, EXTRA_BYTES = 46, 4096
"""Of an entry in that list without name and comment, and of its extra fields: zipfile takes the square of those."""
STEP = 2**20

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")
OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
"""By the first bytes of a packed tar: what unpacks it."""
ZIP_START, ZIP_ENTRY, ZIP64_END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x06\x06"
ZIP64_ENDS = 76
"""Bytes of what a large zip has between its list of members and its end."""
UTF8_FLAG, UNICODE_PATH = 0x800, 0x7075
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Ways to pack that are read in a zip; Windows packs what is over 2 GB as deflate64, which is not."""
DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, struct.error, EOFError, OSError,
    NotImplementedError, UnicodeDecodeError, RecursionError, MemoryError, ValueError, OverflowError,
)  # fmt: skip


def free_memory() -> float:
    """Return the bytes that may still be taken, as Linux says for machine and container; endless elsewhere."""
    free = float("inf")
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024.0 * int(lines["MemAvailable"].split()[0])
    with suppress(OSError, KeyError, ValueError):  # another system of groups, or no limit: then it says "max"
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        free = min(free, float(limit - int(used["anon"]) - int(used["shmem"])))  # decoded pictures are shared memory
    return free


def room_for(each: float) -> float:
    """Return how often so many bytes fit into the free memory; at least once."""
    return max(1.0, free_memory() / each)


def check_memory(needed: float, what: str, fix: str) -> None:
    """Raise DataError for what would not fit: the system would end this process without a word."""
    free = free_memory()
    if needed > free:
        raise DataError(f"{what} need {needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} are free. {fix}")


class UnpackBudget:
    """What an archive, and those inside it, may still cost in members, their names and unpacked bytes."""

    def __init__(self, where: str, packed: int) -> None:
        """`packed`: bytes of the archive; a message begins with `where`."""
        self._where, self._members = where, MEMBERS
        self.bytes = int(min(TOTAL_BYTES, max(RATIO_FROM, RATIO * packed), max(free_memory() / 2, RATIO_FROM)))
        self._bytes_left = self._linked_left = self.bytes

    def read(self, file: IO[bytes], count: int) -> bytes:
        """Read so many bytes, or up to the end; raises as take_bytes does, and before reading."""
        self.take_bytes(count)
        return file.read(count)

    def take_bytes(self, count: int) -> None:
        """Raise DataError if the archive unpacks to more than it may, ValueError for a size below zero."""
        if count < 0:
            raise ValueError(f"it gives a size of {count:,} bytes")
        self._bytes_left -= count
        if self._bytes_left < 0:
            self.refuse(f"unpacks to over {self.bytes / 2**20:,.0f} MiB, which is not done in memory")

    def take_link(self, count: int) -> None:
        """Raise DataError if links name far more than there is: it is held once, and looked at for each of them."""
        self._linked_left -= count
        if self._linked_left < 0:
            self.refuse(f"has links to over {self.bytes / 2**20:,.0f} MiB of its files")

    def take_members(self, count: int = 1) -> None:
        """Raise DataError if there are more members than there may be."""
        self._members -= count
        if self._members < 0:
            self.refuse(f"holds over {MEMBERS:,} files, which are not read out of an archive")

    def take_name(self, name: str) -> None:
        """Count a member's name as what it takes in memory, whether it is kept or not; raises as take_bytes does."""
        self.take_bytes(sys.getsizeof(name) + PART_BYTES * (1 + name.count("/")))

    def refuse(self, reason: str) -> None:
        """Raise DataError."""
        raise DataError(f"{self._where}: {reason}. Unpack it and give the folder.")


class _BoundedStream:
    """The bytes of a tar, unpacked on the way; header records and the total are limited before they are read."""

    def __init__(self, file: BinaryIO, budget: UnpackBudget, *, free_seeks: bool) -> None:
        self._file, self._budget, self._free_seeks = file, budget, free_seeks
        self._ahead = b""
        self.header_left = HEADER_BYTES

    def read(self, size: int) -> bytes:
        """Read for tarfile, which asks for headers only."""
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        self.header_left -= size
        if self.header_left < 0:
            self._budget.refuse(
                f"has a file name or header of over {HEADER_BYTES // 2**10} KiB, which no real archive has"
            )
        return self.content(size)

    def look_ahead(self, size: int) -> bytes:
        """Return what the next read, of the same size, returns."""
        self._ahead = self.read(size)
        return self._ahead

    def take_records(self, count: int) -> None:
        """Count pax records, which may have five bytes each, as what they take."""
        self._budget.take_bytes(PART_BYTES * count)

    def content(self, size: int) -> bytes:
        """Read a member's content."""
        return self._budget.read(self._file, size)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go forward in small steps, so that the limit on the total stops it."""
        if self._free_seeks:
            return self._file.seek(offset, whence)
        while (left := offset - self._file.tell()) > 0 and self.content(min(left, STEP)):
            continue
        return self._file.tell()


class _Member(tarfile.TarInfo):
    """Looks at pax records before tarfile does, which takes time and memory by the square of odd ones."""

    def _proc_pax(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        stream: Any = archive.fileobj
        records, at, count = stream.look_ahead(self._block(self.size)), 0, 0  # type: ignore[attr-defined]
        while at < len(records) and records[at]:
            length = records[at : at + RECORD_LENGTH].partition(b" ")[0]
            end = at + (int(length) if length.isdigit() else 0)
            if records.find(b"=", at, end) < 0 or records[end - 1 : end] != b"\n":
                raise tarfile.ReadError("a pax record does not end where it says")
            at, count = end, count + 1
        stream.take_records(count)
        if self.type == tarfile.XGLTYPE and b"GNU.sparse" in records:  # they would be read again for each member
            raise tarfile.ReadError("records of a sparse file for all files")
        if LONG_NUMBER.search(records):
            raise tarfile.ReadError("a pax record holds a number of over 64 digits")
        made: tarfile.TarInfo = super()._proc_pax(archive)  # type: ignore[misc]
        return made


def read_archive(path: Path) -> SourceFiles:
    """Return all regular files of a tar (plain, gz, bz2, xz) or zip archive, recognised by content.

    Names that are not UTF-8 keep their bytes, see file_names. Raises DataError if it is no archive, is damaged,
    encrypted, or beyond the limits.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            return unpack(file, size, str(path), UnpackBudget(str(path), size))
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error


def unpack(file: BinaryIO, packed: int, where: str, budget: UnpackBudget, above: tuple[str, ...] = ()) -> SourceFiles:
    """Read an archive out of a file. `packed`: its bytes, in the archive that it came out of if it did.

    `above`: the folders that each name begins with, and counts with, where it lies among other files.
    """
    prefix = "".join(f"{part}/" for part in above)
    entries: dict[tuple[str, ...], SourceFile] = {}  # of two members with one name the later counts, as when unpacking
    skipped = SkippedFiles()
    try:
        with progress_bar("reading", file.seek(0, os.SEEK_END)) as bar:
            file.seek(0)
            seen = 0
            for name, data in _members(file, where, budget):
                whole = prefix + name
                if above:
                    budget.take_name(whole)
                unfit = _unfit(whole)
                parts = () if unfit else parts_of(name)
                if unfit or (parts and not any(map(is_hidden, parts))):
                    content = unfit or (TOO_LONG if max(map(len, parts)) > LONGEST else data)
                    if isinstance(content, str):
                        skipped.add(whole[:LONGEST_PATH], content)
                    else:
                        entries[parts] = SourceFile((*above, *parts), content)
                if file.tell() - seen > STEP:
                    bar.update(file.tell() - seen)
                    seen = file.tell()
    except DataError:
        raise
    except DAMAGED as error:
        reason = shortened(error) or type(error).__name__
        raise DataError(f"{where}: the archive is cut off or damaged ({reason}). Copy or download it again.") from error
    total = max(1, sum(len(entry.source) for entry in entries.values()))
    shared = [e._replace(stamp=(1 + packed * len(e.source) // total, 0)) for e in entries.values()]
    return SourceFiles(shared, skipped=skipped)


def _unfit(name: str) -> str:
    """Say so of a name that no folder could hold, or none has, before it is split: each part of it costs."""
    if len(name) > LONGEST_PATH:
        return TOO_LONG
    return TOO_DEEP if name.count("/") > DEEPEST_FOLDER else ""


def stem(path: Path) -> str:
    """Return the archive's name without its endings: cifar10 for cifar10.tar.xz."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)] or path.name
    return path.stem


def _members(file: BinaryIO, where: str, budget: UnpackBudget) -> Iterator[tuple[str, bytes | str]]:
    start = file.read(6)
    file.seek(0)
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)
    if opener is not None:  # taken for a tar, so that damage to it is named as such
        return _tar_members(_BoundedStream(opener(file), budget, free_seeks=False), budget)
    head = file.read(512)
    file.seek(0)
    if _is_tar_header(head):  # asked first: a tar that holds a zip looks like a zip too
        return _tar_members(_BoundedStream(file, budget, free_seeks=True), budget)
    if zipfile.is_zipfile(file):
        return _zip_members(file, budget)
    if start.startswith(ZIP_START):
        raise zipfile.BadZipFile("the list of its files, which stands at the end, is missing")
    if Path(where).suffix.lower() in PICTURES:
        raise DataError(f"{where}: is one picture, and no data set. Give the folder that holds the class folders.")
    file.seek(0)
    what = images.what_it_is(file.read(HEAD_BYTES)).partition(",")[0]
    raise DataError(f"{where}: is {what}, and no archive that is read. Give a folder, or one of {', '.join(SUFFIXES)}.")


def _is_tar_header(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _tar_members(stream: _BoundedStream, budget: UnpackBudget) -> Iterator[tuple[str, bytes | str]]:
    """Yield regular files, then links, as the file in the same archive that each names; devices are passed over."""
    held: dict[str, bytes] = {}
    links: list[tuple[str, str]] = []
    with tarfile.open(
        fileobj=stream,  # type: ignore[call-overload]
        mode="r:", tarinfo=_Member, encoding="utf-8", errors="surrogateescape",
    ) as archive:  # fmt: skip
        while (member := archive.next()) is not None:
            archive.members = []  # it would keep all of them
            if archive.offset < member.offset_data:
                raise tarfile.ReadError("a file whose end lies before its content")
            _count_member(member, archive.pax_headers, budget)
            stream.header_left = HEADER_BYTES
            if member.issparse() or (member.isreg() and member.size > MEMBER_BYTES):
                yield member.name, _too_large(member.size)
            elif member.isreg():
                stream.seek(member.offset_data)
                data = stream.content(member.size)
                if len(data) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                if not _unfit(member.name):
                    held[posixpath.normpath(member.name)] = data
                yield member.name, data
            elif (member.islnk() or member.issym()) and not _unfit(member.name) and not _unfit(member.linkname):
                home = posixpath.dirname(member.name) if member.issym() else ""
                links.append((member.name, posixpath.normpath(posixpath.join(home, member.linkname))))
    for name, target in links:
        if target in held:
            budget.take_link(len(held[target]))
            held[posixpath.normpath(name)] = held[target]
            yield name, held[target]


def _count_member(member: tarfile.TarInfo, shared: Mapping[str, str], budget: UnpackBudget) -> None:
    """Count a member with its names; raises DataError for one too many, or for what all members share."""
    budget.take_members()
    budget.take_name(member.name)
    if member.linkname:
        budget.take_name(member.linkname)
    if len(shared) > GLOBAL_RECORDS or sum(len(key) + len(text) for key, text in shared.items()) > GLOBAL_LETTERS:
        budget.refuse(f"has over {GLOBAL_RECORDS} records for all its files, or long ones, as no real archive has")
    if member.size < 0:
        raise tarfile.ReadError(f"a file of {member.size:,} bytes")


def _zip_members(file: BinaryIO, budget: UnpackBudget) -> Iterator[tuple[str, bytes | str]]:
    with open_zip(file, budget) as archive:
        for member in archive.infolist():
            name = _zip_name(member)
            budget.take_name(name)
            if not name or name.endswith("/"):  # is_dir() asks for the last letter of a name that has none
                continue
            if member.file_size > MEMBER_BYTES:
                yield name, _too_large(member.file_size)
                continue
            with archive.open(member) as content:
                yield name, budget.read(content, member.file_size)


def open_zip(file: BinaryIO, budget: UnpackBudget) -> zipfile.ZipFile:
    """Open a zip of members that can be unpacked in part; raises DataError.

    Of those packed by bzip2 or LZMA Python unpacks all that it has read: gigabytes from a few hundred bytes. Megabytes
    of deflate may unpack to nothing, so no two members may have the same ones.
    """
    _check_directory(file, budget)
    size = file.seek(0, os.SEEK_END)
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    if any(member.flag_bits & 0x1 for member in members):
        budget.refuse("is encrypted")
    if any(member.compress_type not in PACKED for member in members):
        budget.refuse("is packed in another way than deflate, which zip and numpy.savez_compressed use")
    if sum(member.compress_size for member in members) > size or len({m.header_offset for m in members}) < len(members):
        budget.refuse("has files that share bytes, as no real archive has")
    return archive


def _check_directory(file: BinaryIO, budget: UnpackBudget) -> None:
    """Count the members in the list at the end of a zip, before an object is made of each; raises DataError."""
    record: Any = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # what ZipFile itself believes
    if record is None:
        raise zipfile.BadZipFile("the list of its files, which stands at the end, is missing")
    size, end = record[5], record[9]
    if size > DIRECTORY_BYTES:
        budget.refuse(f"has a list of files of {size / 2**20:,.0f} MiB")
    file.seek(max(0, end - size - (ZIP64_ENDS if record[0] == ZIP64_END else 0)))
    listed = file.read(size)
    count = listed.count(ZIP_ENTRY)
    budget.take_members(count)
    budget.take_bytes(MEMBER_OBJECT_BYTES * count)
    at = 0
    while at + ENTRY_BYTES <= len(listed):
        name, extra, comment = struct.unpack_from("<3H", listed, at + 28)
        if extra > EXTRA_BYTES:
            budget.refuse(f"has over {EXTRA_BYTES // 2**10} KiB of extra fields for one file, as no real archive has")
        budget.take_bytes(NAME_COPIES * name + extra + comment)
        at += ENTRY_BYTES + name + extra + comment
    file.seek(0)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """Return the member's name in UTF-8, or with its bytes if it does not say what they mean."""
    name = member.filename
    if not member.flag_bits & UTF8_FLAG and not member.orig_filename.isascii():
        name = _unicode_path(member.extra) or member.orig_filename.encode("cp437").decode("utf-8", "surrogateescape")
    return name if "/" in name else name.replace("\\", "/")  # some packers on Windows write it so


def _unicode_path(extra: bytes) -> str:
    """Return the UTF-8 name that Info-ZIP writes beside the one in a code page; empty if there is none."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == UNICODE_PATH:
            return extra[at + 9 : at + 4 + size].decode("utf-8", "replace")
        at += 4 + size
    return ""


def _too_large(size: int) -> str:
    return f"It has {size / 2**20:,.0f} MiB, and {MEMBER_BYTES // 2**20} are read at most."
