"""Data sets that are made to cost memory or time are refused in one sentence before they do."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import random
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from data_kit import make_tar, make_zip, picture
from PIL import Image

from pupila.data import cache, decode, load_dataset
from pupila.data.layouts import arrays, masks
from pupila.data.layouts.labelled import NAME_BYTES
from pupila.data.quality.duplicates import copies_of
from pupila.data.sources import archive, files
from pupila.data.sources.source import DataSource
from pupila.errors import DataError

MIB = 2**20
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": lambda data: gzip.compress(data, 1),
    "tar.bz2": bz2.compress,
    "tar.xz": lambda data: lzma.compress(data, preset=0),
}
CODE = """
import sys, time
from pathlib import Path
from pupila.data import decode, load_dataset
from pupila.data.layouts import arrays
from pupila.errors import DataError
load = lambda path: load_dataset(Path(path), 8, cache=Path(sys.argv[2]))
try: load('/nowhere')
except DataError: pass
if sys.argv[1].endswith('parquet'): import pyarrow.parquet
def peak():  # ru_maxrss begins with that of who started the process
    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM'))
before, started = peak(), time.process_time()
try: print(load(sys.argv[1]).train.classes)
except DataError as error: print(error)
print(time.process_time() - started, (peak() - before) / 1024)
"""


def cost(path: Path) -> tuple[str, float, float]:
    """Load a data set in a process of its own; return what it says, and what it took in seconds and MiB."""
    command = [sys.executable, "-c", CODE, str(path), str(path.parent / "cache")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    said, numbers = done.stdout.strip().splitlines()
    seconds, mib = map(float, numbers.split())
    return said, seconds, mib


def record(kind: bytes, content: bytes, name: str = "././@LongLink", size: int | None = None) -> bytes:
    """Return a header and its content as they stand in a tar."""
    head = tarfile.TarInfo(name)
    head.type, head.size = kind, len(content) if size is None else size
    return head.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def pax(text: bytes) -> bytes:
    length = len(text) + 2
    while len(b"%d %b\n" % (length, text)) != length:
        length += 1
    return b"%d %b\n" % (length, text)


END = record(tarfile.REGTYPE, b"", "a/1.png") + bytes(1024)
TARS = {
    "a long name": record(tarfile.GNUTYPE_LONGNAME, bytes(150 * MIB)),
    "a long link": record(tarfile.GNUTYPE_LONGLINK, bytes(150 * MIB)),
    "a pax header": record(tarfile.XHDTYPE, pax(b"path=" + b"a" * 100 * MIB)),
    "a chain of pax headers": record(tarfile.XHDTYPE, pax(b"comment=a")) * 20_000,
    "a chain of long names": record(tarfile.GNUTYPE_LONGNAME, b"a" * 100 + b"\0") * 20_000,
    "global records": b"".join(
        record(tarfile.XGLTYPE, b"".join(pax(b"k%d%d=v" % (n, k)) for k in range(2000))) + END[:512] for n in range(20)
    ),
    "global records with long keys": record(tarfile.XGLTYPE, pax(b"k" * 20_000 + b"=v")) + END[:512],
    "one link for all": record(tarfile.XGLTYPE, pax(b"linkpath=" + b"ab/" * 40_000))
    + record(tarfile.SYMTYPE, b"", "a/1.png") * 5000,
    "one name for all": record(tarfile.XGLTYPE, pax(b"path=" + b"a/" * 60_000)) + END[:512] * 2000,
    "deep names": (record(tarfile.GNUTYPE_LONGNAME, b"a/" * 2000 + b"1.png\0") + END[:512]) * 500,
    "many records": (record(tarfile.XHDTYPE, b"5 a=\n" * 12_000) + END[:512]) * 100,
    "members without end": END[:512] * 300_000,
}


def sized(head: bytes, size: int) -> bytes:
    """Return a header with another size, in base 256, and its sum."""
    changed = bytearray(head)
    changed[124:136], changed[148:156] = size.to_bytes(12, "big", signed=True), b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    return bytes(changed)


def sparse(size: int) -> bytes:
    """Return the header of a sparse file in GNU's old form that unpacks to 512 bytes, of this size in the tar."""
    head = bytearray(record(tarfile.GNUTYPE_SPARSE, b"", "a/1.png"))
    head[483:495] = b"%011o\0" % 512
    return sized(bytes(head), size)


ODD = {
    "a sparse file of size -512": (END[:512] + sparse(-512) + END, "whose end lies before its content"),
    "a sparse file of size -1024": (END[:512] * 2 + sparse(-1024) + END, "whose end lies before its content"),
    "a file of size -1": (sized(END, -1)[:512] + bytes(300 * MIB), "a file of -1 bytes"),
    "a header of size -1": (sized(record(tarfile.XHDTYPE, b""), -600) + bytes(300 * MIB), "a size of -512 bytes"),
    "a pax size of -1": (record(tarfile.XHDTYPE, pax(b"size=-1")) + END[:512] + bytes(300 * MIB), "a file of -1 bytes"),
    "a map of a sparse file for all": (
        record(tarfile.XGLTYPE, pax(b"GNU.sparse.map=" + b",".join([b"0"] * 8_000)))
        + (record(tarfile.XHDTYPE, b"") * 200 + END[:512]) * 100,
        "a sparse file for all files",
    ),
    "a long number": (record(tarfile.XHDTYPE, b"1" * 120_000) + END, "does not end where it says"),
    "a long number in a value": (record(tarfile.XHDTYPE, pax(b"comment=" + b"1" * 120_000)) + END, "over 64 digits"),
    "records that overlap": (record(tarfile.XHDTYPE, b"2 " * 60_000 + b"=") + END, "does not end where it says"),
}


@pytest.mark.parametrize("packing", ["tar", "tar.gz"])
@pytest.mark.parametrize("kind", ODD)
def test_tar_of_odd_numbers_is_refused_at_once(tmp_path: Path, kind: str, packing: str) -> None:
    data, words = ODD[kind]
    path = tmp_path / f"odd.{packing}"
    path.write_bytes(PACKERS[packing](data))
    said, seconds, mib = cost(path)
    assert words in said and seconds < 1 and mib < 50, (said, seconds, mib)


@pytest.mark.parametrize("kind", TARS)
def test_tar_of_huge_headers_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    packing = "tar.xz" if kind == "a long name" else "tar.gz"
    path = tmp_path / f"bomb.{packing}"
    path.write_bytes(PACKERS[packing](TARS[kind] + END))
    said, seconds, mib = cost(path)
    assert said.startswith(f"{path}: ") and said.endswith("Unpack it and give the folder."), said
    assert mib < 50 and seconds < (20 if kind in ("members without end", "many records") else 1)


def test_packed_zeros_are_not_unpacked_to_the_end(tmp_path: Path) -> None:
    zeros = record(tarfile.REGTYPE, bytes(60 * MIB), "a/1.png")
    path = tmp_path / "bomb.tar.xz"
    path.write_bytes(lzma.compress(zeros * 3 + END, preset=0))
    said, seconds, mib = cost(path)
    assert "unpacks to over 128 MiB" in said and mib < 200 and seconds < 3


def test_zip_of_a_million_entries_is_refused_before_they_are_objects(tmp_path: Path) -> None:
    count = 1_000_000
    data = make_zip(tmp_path / "one.zip", {"a/1.png": picture()}).read_bytes()
    start = data.index(b"PK\x01\x02")
    entry = data[start : data.index(b"PK\x05\x06")]
    end = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, len(entry) * count, start, 0)
    path = tmp_path / "bomb.zip"
    path.write_bytes(data[:start] + entry * count + end)
    said, seconds, mib = cost(path)
    assert "holds over 250,000 files" in said and seconds < 2 and mib < 120


def test_zip_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(6):
            archive.writestr(f"a/{number}.png", bytes(40 * MIB))
    said, _, mib = cost(path)
    assert "unpacks to over 128 MiB" in said and mib < 200
    nested = make_zip(tmp_path / "nested.zip", {"a.zip": path.read_bytes(), "b.zip": path.read_bytes()})
    assert "unpacks to over 128 MiB" in cost(nested)[0]


def test_zip_of_many_extra_fields_is_refused_before_they_are_read(tmp_path: Path) -> None:
    """For each of them zipfile copies all that follow."""
    path = tmp_path / "extra.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(60):
            member = zipfile.ZipInfo(f"a/{number}.png")
            member.extra = b"\0\7\0\0" * 16_000
            archive.writestr(member, b"")
    said, seconds, mib = cost(path)
    assert "over 4 KiB of extra fields" in said and seconds < 1 and mib < 50


def overlapping(count: int, name: bytes, content: bytes) -> bytes:
    """Return a zip whose entries all name one member: a MiB of empty blocks of deflate, and then its content."""
    blocks = b"\0\0\0\xff\xff" * (MIB // 5) + struct.pack("<BHH", 1, len(content), len(content) ^ 0xFFFF) + content
    sizes = struct.pack("<3I", zlib.crc32(content), len(blocks), len(content))
    head = struct.pack("<5H", 20, 0, 8, 0, 0x21) + sizes + struct.pack("<2H", len(name), 0)
    data = b"PK\3\4" + head + name + blocks
    listed = (b"PK\1\2\x14\0" + head + bytes(14) + name) * count
    return data + listed + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(listed), len(data), 0)


@pytest.mark.parametrize("kind", ["zip", "npz"])
def test_zip_whose_entries_share_bytes_is_refused_before_they_are_unpacked(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(overlapping(2000, *((b"q.npy", labels(1)) if kind == "npz" else (b"cat/1.png", b"a"))))
    said, seconds, mib = cost(path)
    assert "has files that share bytes" in said and seconds < 1 and mib < 50, (said, seconds, mib)


def test_zip_whose_members_are_longer_together_than_the_file_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {f"cat/{number}.png": picture(number) for number in range(3)})
    data = bytearray(path.read_bytes())
    at = -1
    while (at := data.find(b"PK\1\2", at + 1)) >= 0:
        struct.pack_into("<L", data, at + 20, len(data) // 2)
    path.write_bytes(data)
    assert "has files that share bytes" in cost(path)[0]


def empty_members(names: list[tuple[bytes, bytes]]) -> bytes:
    """Return a zip of empty members with these names and extra fields, in no encoding that it tells."""
    head = struct.pack("<5H3I", 20, 0, 0, 0, 0x21, 0, 0, 0)
    data = [b"PK\3\4" + head + struct.pack("<2H", len(name), 0) + name for name, _ in names]
    at = itertools.accumulate(map(len, data), initial=0)
    listed = b"".join(
        b"PK\1\2\x14\0" + head + struct.pack("<5H2I", len(name), len(more), 0, 0, 0, 0, place) + name + more
        for place, (name, more) in zip(at, names, strict=False)
    )
    count, start = len(names) & 0xFFFF, sum(map(len, data))
    return b"".join(data) + listed + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(listed), start, 0)


BESIDE = struct.pack("<HHBI", 0x7075, 3925, 1, 0) + ("/".join(["\U0001f431" + "x" * 241] * 16)).encode()[:3920]
ZIP_NAMES = {
    "backslashes": [(b"%06x" % n + b"\\ab" * 61 + b"\\1.png", b"") for n in range(12_000)],
    "long names beside short ones": [(b"\xe9%05x" % n, BESIDE) for n in range(12_000)],
    "no names to speak of": [(b"%06x" % n, b"") for n in range(170_000)],
}


@pytest.mark.parametrize("kind", ZIP_NAMES)
def test_names_of_a_zip_count_as_they_are_read(kind: str) -> None:
    """A backslash is a folder, a name beside the one in a code page may be far longer, and each is an object."""
    file = io.BytesIO(empty_members(ZIP_NAMES[kind]))
    with pytest.raises(DataError, match="unpacks to over 128 MiB"):
        archive.unpack(file, 1, "a.zip", archive.UnpackBudget("a.zip", 1))


@pytest.mark.parametrize("name", ["a.zip", "a.npz"])
def test_names_in_the_list_of_a_zip_count_before_they_are_letters(tmp_path: Path, name: str) -> None:
    """One letter of four bytes makes all of them so, and zipfile keeps what stands before a zero beside the whole."""
    data = empty_members([(b"%06d\xf0\x9f\x90\xb1%b\0b" % (n, b"a" * 65_000), b"") for n in range(480)])
    flagged = data.replace(b"PK\1\2\x14\0\x14\0\0\0", b"PK\1\2\x14\0\x14\0\0\x08")  # UTF-8
    assert len(flagged) == len(data) and flagged != data
    said, seconds, mib = cost(make_tar(tmp_path / "a.tar.gz", {name: flagged}))
    assert "unpacks to over 128 MiB" in said and seconds < 3 and mib < 250, (said, seconds, mib)


@pytest.mark.parametrize("name", [b"", b"\0x"])
def test_member_of_a_zip_without_a_name_is_passed_over(name: bytes) -> None:
    file = io.BytesIO(empty_members([(b"cat/1.png", b""), (name, b""), (b"dog/", b"")]))
    found = archive.unpack(file, 1, "a.zip", archive.UnpackBudget("a.zip", 1))
    assert [item.name for item in found.entries] == ["cat/1.png"] and not found.skipped


def test_names_of_the_same_folders_are_looked_at_once() -> None:
    folders = ("aB" * 31,) * 61
    found = [files.SourceFile((*folders, f"{number}.png"), b"") for number in range(3_000)]
    begun = time.process_time()
    assert masks.task_of_masks(found) == ""
    assert time.process_time() - begun < 1


def deep_folders(count: int) -> str:
    """Return a path of so many folders, whose letters take four bytes each."""
    return "/".join(f"\U0001f431{number:02d}{'a' * 58}" for number in range(count))


@pytest.mark.parametrize("place", ["an archive", "a folder"])
def test_names_of_an_archive_within_others_count_with_its_folders(tmp_path: Path, place: str) -> None:
    inner = make_tar(tmp_path / "in.tar", {f"{number}.png": b"" for number in range(20_000)}).read_bytes()
    within = {f"{pet}/{deep_folders(62 if place == 'an archive' else 15)}/in.tar": inner for pet in ("cat", "dog")}
    path = tmp_path / "data"
    if place == "an archive":
        path = make_tar(tmp_path / "a.tar.gz", within)
    else:
        for name, data in within.items():
            (path / name).parent.mkdir(parents=True)
            (path / name).write_bytes(gzip.compress(data))
    said, seconds, mib = cost(path)
    assert "unpacks to over 128 MiB" in said and seconds < 5 and mib < 250, (said, seconds, mib)


def test_folders_of_an_archive_within_others_are_limited_with_its_own(tmp_path: Path) -> None:
    deep, long = "/".join("a" * 40), "/".join(["b" * 200] * 15)
    pets = {f"{pet}/{number}.png": picture(number) for pet in ("cat", "dog") for number in range(2)}
    inner = make_zip(tmp_path / "in.zip", pets | {f"cat/{deep}/1.png": picture(), f"cat/{long}/1.png": picture()})
    outer = {f"x/{deep}/in.zip": inner.read_bytes(), f"y/{'/'.join(['c' * 200] * 10)}/in.zip": inner.read_bytes()}
    found = DataSource(make_zip(tmp_path / "a.zip", outer)).files
    reasons = sorted((item.name[0], item.reason.partition(" ")[2][:4]) for item in found.skipped)
    assert reasons == [("x", "lies"), ("y", "name")] and len(found.entries) == 2 * 4 + 2
    assert all(len(item.parts) <= 65 and len(item.name) <= 4096 for item in found.entries)


@pytest.mark.parametrize("letters", [250, 160])
def test_folders_of_longer_paths_than_the_system_takes_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letters: int
) -> None:
    monkeypatch.chdir(tmp_path)
    for pet in ("cat", "dog"):
        (tmp_path / pet).mkdir()
        (tmp_path / pet / "1.png").write_bytes(picture())
    os.chdir("cat")
    for _ in range(26):
        Path("a" * letters).mkdir()
        os.chdir("a" * letters)
        Path("b" * 250 + ".png").write_bytes(picture())
    os.chdir(tmp_path)
    found = DataSource(tmp_path).files
    assert len(found.entries) > 10 and all(item.name.startswith("cat/aaa") for item in found.skipped)
    assert found.skipped and all("File name too long" in item.reason for item in found.skipped)


def test_archives_within_archives_are_opened_one_level_deep(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "0.zip", {"a/1.png": picture(1), "b/1.png": picture(2)}).read_bytes()
    for depth in range(1, 30):
        inner = make_zip(tmp_path / f"{depth}.zip", {"x.zip": inner, "y.zip": b"PK\x03\x04"}).read_bytes()
    said, seconds, _ = cost(tmp_path / "29.zip")
    assert said.startswith(f"{tmp_path / '29.zip'}: ") and seconds < 1


def test_sparse_and_large_members_are_left_out(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "pets.tar", {"cat/1.png": picture(1), "dog/1.png": picture(2)})
    huge = tarfile.TarInfo("dog/2.png")
    huge.type, huge.size = tarfile.GNUTYPE_SPARSE, 0
    block = bytearray(huge.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"\x80" + (8 << 40).to_bytes(11, "big")  # its real size
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    path.write_bytes(bytes(block) + path.read_bytes())
    splits = load_dataset(path, 8, cache=tmp_path / "cache")
    assert [item.name for item in splits.skipped] == ["dog/2.png"] and len(splits.train) == 2
    assert "64 are read at most" in splits.skipped[0].reason


def test_what_an_archive_within_an_archive_unpacks_to_is_measured_by_what_came(tmp_path: Path) -> None:
    """Of 5 MiB it might unpack to 500: and those 5 are a few hundred bytes themselves."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(5):
            archive.writestr(f"a/{number}.png", bytes(40 * MIB))
        archive.writestr("pad.txt", bytes(5 * MIB), compress_type=zipfile.ZIP_STORED)
    path = make_tar(tmp_path / "a.tar.xz", {"a.zip": inner.getvalue()})
    assert "unpacks to over 128 MiB" in cost(path)[0]
    arrays_file = io.BytesIO()
    with zipfile.ZipFile(arrays_file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("x.npy", header_of((200, 1024, 1024)) + bytes(200 * MIB))
        archive.writestr("y.npy", labels(200))
        archive.writestr("pad.txt", bytes(5 * MIB), compress_type=zipfile.ZIP_STORED)
    path = make_tar(tmp_path / "b.tar.xz", {"a.npz": arrays_file.getvalue()})
    assert "unpacks to over 128 MiB" in cost(path)[0]


def test_parquet_within_an_archive_is_measured_by_what_came(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    buffer = io.BytesIO()
    with parquet.ParquetWriter(
        buffer, pyarrow.schema([("image", pyarrow.binary()), ("label", pyarrow.string())]), compression="zstd"
    ) as out:
        for number in range(20):
            out.write_table(pyarrow.table({"image": [bytes(10 * MIB)], "label": ["ab"[number % 2]]}))
        out.add_key_value_metadata({"pad": "a" * 5 * MIB})
    path = make_tar(tmp_path / "a.tar.xz", {"train.parquet": buffer.getvalue()})
    assert "unpack to over 128 MiB" in cost(path)[0]


def test_lists_and_parts_of_nothing_in_parquet_are_refused_before_they_are_objects(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    each = 10_000_000
    nothing = pyarrow.ListArray.from_arrays(pyarrow.array([0, each], pyarrow.int32()), pyarrow.nulls(each))
    image = pyarrow.StructArray.from_arrays([pyarrow.array([b"x"]), nothing], ["bytes", "path"])
    rows = 20_000
    wide = pyarrow.StructArray.from_arrays([pyarrow.nulls(rows)] * 500, [f"{number}" for number in range(500)])
    for name, columns in {
        "image": {"image": image, "label": ["cat"]}, "label": {"image": [b"x"], "label": nothing},
        "image: wide": {"image": wide, "label": ["cat"] * rows},
    }.items():  # fmt: skip
        path = tmp_path / f"{name}.parquet"
        name = name.partition(":")[0]
        parquet.write_table(pyarrow.table(columns), path, row_group_size=1_000)
        said, seconds, mib = cost(path)
        assert f"has lists or over 20 parts in the column '{name}'" in said and seconds < 2 and mib < 100, (said, mib)


def test_links_to_a_picture_that_takes_long_are_decoded_once(tmp_path: Path) -> None:
    slow = io.BytesIO()
    Image.new("1", (7_000, 7_000)).save(slow, "PNG")
    path = make_tar(tmp_path / "a.tar", {"cat/0.png": slow.getvalue(), "dog/0.png": picture()})
    with tarfile.open(path, "a") as archive:
        for number in range(1, 200):
            link = tarfile.TarInfo(f"cat/{number}.png")
            link.type, link.linkname = tarfile.LNKTYPE, "cat/0.png"
            archive.addfile(link)
    said, seconds, _ = cost(path)
    assert said == "('cat', 'dog')" and seconds < 3


def test_links_count_as_what_they_name(tmp_path: Path) -> None:
    """One table under thousands of names was read for each."""
    table = b"path,label\n" + b"x,y,z\n" * (30 * MIB // 6)
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in {"cat/0.png": picture(), "dog/0.png": picture(), "0.csv": table}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for number in range(1, 100):
            link = tarfile.TarInfo(f"{number}.csv")
            link.type, link.linkname = tarfile.LNKTYPE, "0.csv"
            archive.addfile(link)
    said, seconds, _ = cost(path)
    assert "has links to over 128 MiB of its files" in said and seconds < 3, (said, seconds)


def test_parquet_that_repeats_one_large_picture_stays_within_memory(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    image = pyarrow.DictionaryArray.from_arrays(np.zeros(200_000, dtype=np.int32), [bytes(MIB)])
    table = pyarrow.table({"image": image, "label": pyarrow.array(["cat"] * 200_000)})
    parquet.write_table(table, tmp_path / "train.parquet")
    said, seconds, mib = cost(tmp_path / "train.parquet")
    assert "needs far more memory than its size" in said and seconds < 5 and mib < 1500


def test_parquet_files_of_one_data_set_have_one_budget(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    image = pyarrow.array([bytes(MIB)] * 60)
    table = pyarrow.table({"image": image, "label": pyarrow.array(["cat", "dog"] * 30)})
    for number in range(20):
        parquet.write_table(table, tmp_path / f"train-{number}.parquet", compression="zstd")
    said, seconds, mib = cost(tmp_path)
    assert "unpack to over 128 MiB, far more than its files have" in said and seconds < 5 and mib < 500


def number_of_thrift(number: int) -> bytes:
    """Return a number as the description of a parquet file has it."""
    number, found = 2 * number, b""
    while number > 127:
        number, found = number >> 7, found + bytes([number & 127 | 128])
    return found + bytes([number])


def test_rows_of_parquet_are_counted_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 12 KB said that it had fewer."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    count, said_count = 2_200, 1_100
    monkeypatch.setattr(decode, "MAX_ROWS", 2_000)
    path = tmp_path / "train.parquet"
    columns = {"image": pyarrow.nulls(count, pyarrow.binary()), "label": pyarrow.nulls(count, pyarrow.string())}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=1_000)
    data = path.read_bytes()
    about = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:about] + data[about:].replace(number_of_thrift(count), number_of_thrift(said_count)))
    assert parquet.ParquetFile(path).metadata.num_rows == said_count
    with pytest.raises(DataError, match="has over 2,000 rows"):
        load_dataset(path, 8, cache=tmp_path / "cache")


def test_parquet_that_has_fewer_rows_than_it_says_is_damaged(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    data = parquet_file([picture(number, 8, 8) for number in range(8)])
    at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    begin = data.index(b"\x16\x10\x19", at)  # the number of rows, before the list of their groups
    (tmp_path / "a.parquet").write_bytes(data[:begin] + b"\x16\x12\x19" + data[begin + 3 :])
    assert "it has 8 rows, and says 9" in cost(tmp_path / "a.parquet")[0]


def test_small_parquet_is_read_by_the_command_within_its_limit_of_memory(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "pets.parquet").write_bytes(parquet_file([picture(number, 8, 8) for number in range(8)]))
    command = [sys.executable, "-m", "pupila", "data", str(tmp_path / "pets.parquet")]
    environment = {key: value for key, value in os.environ.items() if key != "ARROW_DEFAULT_MEMORY_POOL"}
    environment |= {"PUPILA_CACHE": str(tmp_path / "cache"), "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert "balanced enough" in done.stdout and done.returncode == 0, done.stderr


TABLES = {
    "deep.json": b"[" * 500_000,
    "wide.csv": b"path,label" + b"," * 3 * MIB + b"\n",
    "long.csv": b"path,label\n" + b"a" * 3 * MIB,
    "quotes.csv": b'path,label\n"' + b"a\n" * MIB,
    "many.csv": b"path,label\n" + b"a,b\n" * 2_100_000,
    "many.jsonl": b'{"file_name":"a","label":1}\n' * 500_000,
    "large.json": b"[" + b"[]," * 3 * MIB + b"[]]",
    "deep.jsonl": b'{"file_name":' * 100_000,
    "long.jsonl": b"[" + b"{}," * 20 * MIB + b"{}]",
    "many.txt": b"ab\n" * 20 * MIB,
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_cost_much_are_passed_over(tmp_path: Path, name: str) -> None:
    files = {f"pets/{pet}/{n}.png": picture(n) for pet in ("cat", "dog") for n in range(2)}
    for path, data in {**files, f"pets/{name}": TABLES[name]}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    said, seconds, mib = cost(tmp_path / "pets")
    assert said == "('cat', 'dog')" and seconds < 8 and mib < 600, (said, seconds, mib)


def test_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000, 3)}
    )
    path = make_zip(tmp_path / "x.npz", {"x.npy": buffer.getvalue(), "y.npy": buffer.getvalue()})
    said, seconds, mib = cost(path)
    assert "unpacks to over" in said and seconds < 1 and mib < 50


def long_names(count: int, letter: str) -> tuple[dict[str, bytes], int]:
    """Return so many pictures with names of 4,000 letters, and the letters of all."""
    names = ["/".join(["cd"[n % 2], *[letter * 250] * 16, f"{n}.png"]) for n in range(count)]
    return dict.fromkeys(names, picture(1, 8, 8)), sum(map(len, names))


def test_long_names_take_no_more_memory_than_is_asked_for(tmp_path: Path) -> None:
    """They are in the data set, its fingerprint, and the cache, where each letter took 24 bytes alone."""
    files, letters = long_names(1500, "\U0001f431")
    said, seconds, mib = cost(make_tar(tmp_path / "names.tar.gz", files))
    assert said == "('c', 'd')" and mib < NAME_BYTES * letters / MIB + 20 and seconds < 20, (seconds, mib)


def test_memory_for_long_names_is_asked_for_before_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, letters = long_names(400, "x")
    path = make_tar(tmp_path / "names.tar.gz", files)
    monkeypatch.setattr(archive, "free_memory", lambda: NAME_BYTES * letters - 10_000_000)
    with pytest.raises(DataError, match=r"The names of 400 pictures need .* GiB of memory"):
        load_dataset(path, 8, cache=tmp_path / "cache")


def test_names_count_where_the_disk_is_asked_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = long_names(200, "x")
    free = cache.ROOM + 200 * 8 * 8 * 3 + 100_000
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    load_dataset(make_tar(tmp_path / "names.tar.gz", files), 8, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.db"))


def header_of(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """Return how an array of this shape begins in a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s, }"
HEADERS = {
    "many fields": (HEADER % ([(f"a{n}", "i1") for n in range(815)], (4,)), "a header of 1[0-9],[0-9]{3} bytes"),
    "few fields": (HEADER % ([("a", "i4"), ("b", "f4")], (4,)), "holds an array of records"),
    "fields in fields": (HEADER % ("[('a'," * 80 + "'i1'" + ")]" * 80, (4,)), "holds an array of records"),
    "numbers of Python 2": (HEADER % ("'<i8'", f"({'1L, ' * 3000})"), "a header of"),
    "brackets": ("[" * 990, "holds an array of records"),
    "brackets in the shape": (HEADER % ("'<i8'", "(" * 900), "holds an array of records"),
    "digits": (HEADER % ("'<i8'", f"({'1' * 900}"), "holds an array of records"),
    "sizes": (HEADER % ("'<i8'", f"({'1, ' * 270}"), "holds an array of records"),
    "a type that is none": (HEADER % ("'<f3'", "(4,)"), "numbers of the type <f3"),
    "objects": (HEADER % ("'|O'", "(4,)"), "an array of objects, which is not read"),
    "raw bytes, several for each": (HEADER % ("'|V2'", "(4, 3)"), "holds labels of the type .V2"),
    "times in steps of nothing": (HEADER % ("'<m8[0s]'", "(4,)"), "an array of records, or"),
    "half letters": (HEADER % ("'<U4'", "(4,)"), "a text of what are no letters"),
    "more than letters": (HEADER % ("'>U4'", "(4,)"), "a text of what are no letters"),
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("version", [1, 2])
def test_headers_of_arrays_that_cost_time_are_refused_at_once(name: str, version: int, tmp_path: Path) -> None:
    text, words = HEADERS[name]
    start = b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text))
    odd = start + text.encode() + b"\0\xd8\0\0" * 16
    members = {"x.npy": header_of((4, 8, 8)) + bytes(256)} | {f"more{n}.npy": labels(4) for n in range(300)}
    path = make_zip(tmp_path / "x.npz", {**members, "y.npy": odd})
    begun = time.process_time()
    with pytest.raises(DataError, match=words):
        load_dataset(path, 8, cache=tmp_path / "cache")
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    "header",
    [
        "{'descr':'<i8','fortran_order':False,'shape':(4,)}",
        '{"shape": (4,), "fortran_order": false, "descr": "<i8"}'.replace("false", "True"),
        "{'descr': '<i8', 'fortran_order': False, 'shape': (4L, 1L), }" + " " * 60 + "\n",
    ],
)
def test_headers_as_other_programs_write_them_are_read(header: str, tmp_path: Path) -> None:
    array = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + np.arange(4).tobytes()
    dates = io.BytesIO()
    np.save(dates, np.array(["2024-01-01"] * 4, "M8[D]"))
    members = {"x.npy": header_of((4, 8, 8)) + bytes(256), "y.npy": array, "dates.npy": dates.getvalue()}
    splits = load_dataset(make_zip(tmp_path / "x.npz", members), 8, cache=tmp_path / "cache")
    assert splits.train.classes == ("0", "1", "2", "3")


def test_classes_are_counted_before_their_names_are_looked_at_closely(tmp_path: Path) -> None:
    names = [(f"{number:06d}{' t_' * 80}"[:247] + "/1.png").encode() for number in range(20_001)]
    path = tmp_path / "a.zip"
    path.write_bytes(empty_members([(name, b"") for name in names]))
    said, seconds, _ = cost(path)
    assert "has over 20,000 classes" in said and seconds < 8, (said, seconds)


def labels(count: int) -> bytes:
    return header_of((count,)) + (b"\0\1" * count)[:count]


def labelled(count: int, side: int, label: bytes, kind: str, times: int) -> dict[str, bytes]:
    """Return so many pictures, each with this label, which stands there so many times."""
    pictures = header_of((count, side, side)) + bytes(count * side * side)
    return {"x.npy": pictures, "y.npy": header_of((count,), kind) + label * times}


ARRAYS = {
    "labels of ever so many pictures of nothing": (
        lambda: labelled(8 * MIB, 0, bytes(2), "<f2", 8 * MIB), "over 2,000,000 rows"
    ),
    "labels of pictures of nothing": (lambda: labelled(2, 0, bytes(2), "<f2", 2), "pictures of the shape [0, 0]"),
    "labels of a million letters": (
        lambda: labelled(20, 8, b"\xff" * MIB, f"|S{MIB}", 20), "letters, and a model has 1,000 at most"
    ),
    "more labels than classes": (
        lambda: {
            "x.npy": header_of((21_000, 1, 1)) + bytes(21_000),
            "y.npy": header_of((21_000,), "<U300") + b"".join(
                f"{n:0300d}".encode("utf-32-le") for n in range(21_000)
            ),
        },
        "over 20,000 classes",
    ),
    "names of a million letters": (
        lambda: {
            **labelled(2, 8, b"\0\1", "|u1", 1),
            "names.npy": header_of((20,), f"|S{MIB}") + b"\xff" * 20 * MIB,
        },
        "letters, and a model has 1,000 at most",
    ),
    "a size below zero": (lambda: {"x.npy": header_of((-300 * MIB,)) + bytes(300 * MIB)}, "an array of records, or"),
    "a header without end": (
        lambda: {"x.npy": b"\x93NUMPY\2\0" + struct.pack("<I", 300 * MIB) + bytes(300 * MIB)},
        "a header of 314,572,800 bytes",
    ),
    "ever so many pictures of one pixel": (
        lambda: {"x.npy": header_of((2_000_001, 1, 1)) + bytes(2_000_001), "y.npy": labels(2_000_001)},
        "over 2,000,000 rows",
    ),
    "more names than pictures": (
        lambda: {
            "x.npy": header_of((2, 8, 8)) + bytes(128), "y.npy": labels(2),
            "names.npy": header_of((20 * MIB,), "|S1") + b"a" * 20 * MIB,
        },
        "over 2,000,000 rows",
    ),
    "more labels than are read": (
        lambda: {
            "x.npy": header_of((8 * MIB, 1, 1)) + bytes(8 * MIB), "y.npy": labels(8 * MIB),
            "names.npy": header_of((2,), "|S1") + b"ab",
        },
        "over 2,000,000 rows",
    ),
    "words for pictures": (
        lambda: {"x.npy": header_of((2, 8, 8), "|S1") + bytes(128), "y.npy": labels(2)}, "of the type |S1 are not read"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_array_is_refused_before_what_it_holds_is_read(tmp_path: Path, name: str) -> None:
    make, words = ARRAYS[name]
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        for member, data in make().items():
            packed.writestr(member, data)
    said, seconds, mib = cost(tmp_path / "x.npz")
    assert words in said and seconds < 2 and mib < 50, (said, seconds, mib)


def test_pictures_of_an_array_that_would_not_fit_when_enlarged_are_refused(tmp_path: Path) -> None:
    """Each of one pixel, and asked for at 4,096: no machine has so much memory."""
    path = make_zip(tmp_path / "x.npz", {"x.npy": header_of((10**6, 1, 1)) + bytes(10**6), "y.npy": labels(10**6)})
    with pytest.raises(DataError, match=r"pictures of 4096 x 4096 pixels need [\d,.]+ GiB of memory"):
        load_dataset(path, 4096, cache=tmp_path / "cache")


@pytest.mark.parametrize("kind", ["labels", "names", "a table"])
def test_names_of_classes_are_no_longer_than_in_a_model(tmp_path: Path, kind: str) -> None:
    """Each letter took 72 bytes while they were put in order, and each label the room of the longest name."""
    path = tmp_path / "x.npz"
    if kind == "a table":
        rows = [f"{number}.png,{'b' if number > 40 else f'{number}a' + '1a' * 60_000}" for number in range(100)]
        table = "\n".join(["path,label", *rows]).encode()
        path = make_tar(tmp_path / "x.tar", {"a.csv": table, **{f"{row}.png": picture(row) for row in range(100)}})
    elif kind == "names":
        names = np.array([b"a" * 100_000, b"b"])
        np.savez_compressed(path, x=np.zeros((4000, 1, 1), np.uint8), y=np.arange(4000) % 2, names=names)
    else:
        np.savez_compressed(path, x=np.zeros((2, 8, 8), np.uint8), y=np.array([b"1a" * 2_000_000, b"b"]))
    said, seconds, mib = cost(path)
    assert "letters, and a model has 1,000 at most" in said and seconds < 3 and mib < 200, (said, seconds, mib)


@pytest.mark.parametrize(("order", "name"), [("F", b""), ("C", b"\xff" * 2_000)])
def test_names_of_classes_take_little_time_a_label(tmp_path: Path, order: str, name: bytes) -> None:
    """By columns all of them were copied for each label; and each byte that is no letter took a microsecond."""
    names = np.full((2, 2_000), name, "S2000", order=order)
    labels = np.arange(names.size, dtype=np.uint16)
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((names.size, 1, 1), np.uint8), y=labels, class_names=names)
    said, seconds, _ = cost(tmp_path / "x.npz")
    assert "class" in said and seconds < 2, (said, seconds)


def test_gray_pictures_of_signed_numbers_take_little_more_than_themselves(tmp_path: Path) -> None:
    count, side = 1500, 256
    data = {"x.npy": header_of((count, side, side), "|i1") + bytes(count * side * side), "y.npy": labels(count)}
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        for member, content in data.items():
            packed.writestr(member, content)
    said, _, mib = cost(tmp_path / "x.npz")
    assert said == "('0', '1')" and mib < 2.7 * count * side * side / MIB


@pytest.mark.parametrize("kind", ["|i1", "<f4", "|u1"])
def test_array_of_one_large_picture_takes_little_more_than_itself(tmp_path: Path, kind: str) -> None:
    side = 5000
    size = side * side * int(kind[2])
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x.npy", header_of((1, side, side), kind) + bytes(size))
        packed.writestr("y.npy", labels(1))
    said, _, mib = cost(tmp_path / "x.npz")
    assert "has one class only" in said and mib < 2 * side * side / MIB + 2.2 * size / MIB, (said, mib)


def test_array_of_a_larger_picture_than_a_file_may_hold_is_refused(tmp_path: Path) -> None:
    side = 11_500
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x.npy", header_of((1, side, side), "|i1") + bytes(side * side))
        packed.writestr("y.npy", labels(1))
    said, seconds, mib = cost(tmp_path / "x.npz")
    assert "11500 x 11500 pixels are over the limit of 50 megapixels" in said
    assert seconds < 2 and mib < 2.2 * side * side / MIB, (seconds, mib)


LABELS = {
    "two zeros": (np.array([0.0, -0.0, 0.5, 1, 2, 3]), "'0.5', '1.0', '2.0', '3.0')"),
    "numbers that are none": (np.array([np.nan, np.nan, 1, 2, 3, 4]), "('1.0', '2.0', '3.0', '4.0', 'nan')"),
    "complex ones": (np.array([complex(np.nan, 1), complex(np.nan, 2), 1, 2, 3, 4]), "labels of the type complex128."),
    "bytes": (np.frombuffer(bytes(range(24)), "V4"), "labels of the type |V4."),
    "numbers that no processor writes": (
        np.frombuffer(b"".join(bytes([n] + [0] * 7) + b"\0\x40" + bytes(6) for n in range(6)), np.longdouble), "'2.0'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_every_type_are_read_or_named(tmp_path: Path, name: str) -> None:
    values, words = LABELS[name]
    np.savez(tmp_path / "x.npz", x=np.zeros((6, 8, 8), np.uint8), y=values)
    assert words in cost(tmp_path / "x.npz")[0]


def test_labels_of_small_fractions_are_read_without_a_warning(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.array([1, 2, 1, 2], np.float16))
    assert load_dataset(tmp_path / "x.npz", 8, cache=tmp_path / "cache").train.classes == ("1", "2")


@pytest.mark.parametrize("large", [1e300, np.inf])
def test_labels_beyond_whole_numbers_are_read_without_a_warning(tmp_path: Path, large: float) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.array([1, 1, large, large]))
    assert str(large) in load_dataset(tmp_path / "x.npz", 8, cache=tmp_path / "cache").train.classes


def test_labels_and_names_of_bytes_are_texts(tmp_path: Path) -> None:
    pictures = np.zeros((2, 8, 8), np.uint8)
    odd = np.array(["caf\u00e9".encode(), b"\xff"])
    np.savez(tmp_path / "x.npz", x=pictures, y=odd)
    np.savez(tmp_path / "named.npz", x=pictures, y=np.arange(2), names=odd)
    for file in ("x.npz", "named.npz"):
        assert load_dataset(tmp_path / file, 8, cache=tmp_path / "cache").train.classes == ("\\xff", "caf\u00e9")


def test_idx_files_of_other_axes_than_their_names_say_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\1" + struct.pack(">I", 4) + bytes(4))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\1" + struct.pack(">I", 4) + bytes(4))
    with pytest.raises(DataError, match="no idx file of bytes in 3 axes"):
        load_dataset(tmp_path, 8, cache=tmp_path / "cache")


def test_tiny_pictures_of_idx_files_are_counted(tmp_path: Path) -> None:
    count = 2_000_001
    images = b"\0\0\x08\3" + struct.pack(">3I", count, 1, 1) + bytes(count)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, 1))
    numbers = b"\0\0\x08\1" + struct.pack(">I", count) + bytes(count)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(numbers, 1))
    said, seconds, _ = cost(tmp_path)
    assert "over 2,000,000 rows" in said and seconds < 2


def idx(*shape: int) -> bytes:
    return b"\0\0\x08" + struct.pack(f">B{len(shape)}I", len(shape), *shape)


def test_crowds_of_pictures_that_are_alike_from_afar_are_compared_with_few() -> None:
    scan = np.linspace(0, 250, 32 * 32 * 3).reshape(1, 32, 32, 3)
    crowd = (scan + np.random.default_rng(0).uniform(0, 5, (2000, 32, 32, 3))).astype(np.uint8)
    begun = time.process_time()
    copies = copies_of(crowd[:1010], crowd[1000:])
    assert copies[1000:].all() and time.process_time() - begun < 10


def test_idx_file_that_is_a_hole_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "train-images-idx3-ubyte").open("wb") as file:
        file.write(idx(3000, 1000, 1000))
        file.truncate(3 * 1024 * MIB)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(3000) + bytes(3000))
    said, seconds, mib = cost(tmp_path)
    assert "it has 3,072 MiB, and 1024 are read at most" in said and seconds < 1 and mib < 50


def test_idx_files_of_a_data_set_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MAX_BYTES", 1000)
    for split, side in (("train", 10), ("t10k", 9)):
        images = gzip.compress(idx(6, side, side) + bytes(6 * side**2))
        (tmp_path / f"{split}-images-idx3-ubyte.gz").write_bytes(images)
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(idx(6) + b"\0\1" * 3)
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(tmp_path, 8, cache=tmp_path / "cache")
    monkeypatch.setattr(arrays, "MAX_BYTES", 1250)
    assert len(load_dataset(tmp_path, 8, cache=tmp_path / "cache").train) == 6


def test_idx_files_count_as_what_they_unpack_to(tmp_path: Path) -> None:
    """Of which they may use one picture: links made it thousands of times."""
    members = {"train-images-idx3-ubyte.gz": gzip.compress(idx(1, 1, 1) + bytes(126 * MIB))}
    path = make_tar(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as archive:
        for number in range(50):
            link = tarfile.TarInfo(f"train-{number}-images-idx3-ubyte.gz")
            link.type, link.linkname = tarfile.LNKTYPE, "train-images-idx3-ubyte.gz"
            archive.addfile(link)
    said, seconds, _ = cost(path)
    assert "cannot be read" in said and seconds < 10, (said, seconds)


def test_array_names_are_compared_in_time_that_grows_with_them(tmp_path: Path) -> None:
    none, wide = header_of((0, 1, 1)), header_of((1, 4 * MIB), "<i8")
    makers: dict[str, Callable[[], dict[str, bytes]]] = {
        "long": lambda: {"x_" * 30_000 + "!.npy": none},
        "long and many": lambda: {f"{number:06d}{'_x' * 121}!.npy": none for number in range(10_000)},
        "many": lambda: {f"tra{'_' * (number % 100)}in{'_' * (number // 100)}_x.npy": none for number in range(10_000)},
        "one row of labels": lambda: {
            "train_y.npy": wide + bytes(32 * MIB),
            **{
                f"{name}_x.npy": header_of((1, 1, 1)) + b"1"
                for name in map("".join, itertools.product("tT", "rR", "aA", "iI", "nN"))
            },
        },
    }
    for name, make in makers.items():
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w", zipfile.ZIP_DEFLATED) as packed:
            for member, data in make().items():
                packed.writestr(member, data)
        said, seconds, _ = cost(tmp_path / f"{name}.npz")
        assert seconds < 4, (name, said[:200], seconds)


def test_cifar_files_of_a_folder_have_a_limit(tmp_path: Path) -> None:
    for name in ("train.bin", "test.bin", "fine_label_names.txt"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(200 * MIB)
    said, seconds, mib = cost(tmp_path)
    assert "it has 600 MiB, and 256 are read at most" in said and seconds < 1 and mib < 50


def parquet_file(pictures: list[bytes]) -> bytes:
    """Return a parquet file of these pictures in two classes."""
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    labels = [str(number % 2) for number in range(len(pictures))]
    parquet.write_table(pyarrow.table({"image": pictures, "label": labels}), buffer)
    return buffer.getvalue()


def test_names_of_cifar_classes_are_counted_before_they_are_split(tmp_path: Path) -> None:
    row = bytes(2 + 3 * 32 * 32)
    names = b"ab " * (10 * MIB)
    files = {"train.bin": row + row, "test.bin": row, "fine_label_names.txt": names}
    said, seconds, mib = cost(make_tar(tmp_path / "c.tar.gz", files))
    assert "its fine_label_names.txt has over 64 KiB" in said
    assert seconds < 3 and mib < 2.5 * len(names) / MIB, (seconds, mib)


def test_of_what_a_pickle_asks_for_few_letters_are_quoted(tmp_path: Path) -> None:
    asks = b"c" + b"\x1b[31mA" * 600 + b"\nb\n."
    files = dict.fromkeys(arrays.BATCHES, b".") | {"data_batch_1": asks, "test_batch": b".", "batches.meta": b"."}
    said, seconds, mib = cost(make_tar(tmp_path / "c.tar.gz", files))
    assert "its pickle asks for" in said and len(said) < 1_000 and seconds < 3, (len(said), seconds)
    assert mib < 10, mib


PICKLES = {
    "a long text": (lambda: b"X" + struct.pack("<I", 30 * MIB) + b"\xf0\x9f\x98\x80" + b"a" * (30 * MIB - 4), "bytes"),
    "a long line": (lambda: b"V\\U0001f600" + b"a" * 30 * MIB + b"\n", "bytes"),
    "many texts": (lambda: (b"X" + struct.pack("<I", 4004) + "\U0001f600".encode() + b"a" * 4000) * 8000, "letters"),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_names_of_a_pickle_are_bounded_before_they_are_texts(tmp_path: Path, kind: str) -> None:
    """One letter beyond the first plane of Unicode makes a text take four bytes for each, in every copy."""
    make, words = PICKLES[kind]
    batch = b"\x80\x02}(U\x09filenames" + make() + b"u."
    files = dict.fromkeys(arrays.BATCHES, b".") | {"data_batch_1": batch, "test_batch": b".", "batches.meta": b"."}
    said, seconds, mib = cost(make_tar(tmp_path / "c.tar.gz", files))
    assert f",{'096' if words == 'bytes' else '304'} {words}" in said, said
    assert seconds < 3 and mib < 3.5 * len(batch) / MIB, (seconds, mib)


@pytest.mark.parametrize("instruction", [b"S" + b"x" * 4000 + b"\n.", b"F" + b"x" * 4000 + b"\n."])
def test_of_what_an_error_of_a_pickle_quotes_few_letters_are_shown(tmp_path: Path, instruction: bytes) -> None:
    files = dict.fromkeys(arrays.BATCHES, instruction) | {"test_batch": b".", "batches.meta": b"."}
    said, _, _ = cost(make_tar(tmp_path / "c.tar.gz", files))
    assert "xxx" in said and len(said) < 1_000


def test_of_the_columns_of_a_parquet_few_letters_are_quoted(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"\x01" * 5_000_000: [1]}), tmp_path / "train.parquet")
    said, seconds, _ = cost(tmp_path / "train.parquet")
    assert "has the columns" in said and len(said) < 3_000 and seconds < 1, (len(said), seconds)


def test_array_packed_in_a_way_that_is_not_known_is_refused(tmp_path: Path) -> None:
    data = bytearray(make_zip(tmp_path / "x.npz", {"x.npy": b"", "y.npy": b""}).read_bytes())
    data[8] = data[data.index(b"PK\x01\x02") + 10] = 97
    (tmp_path / "x.npz").write_bytes(data)
    assert "is packed in another way than deflate" in cost(tmp_path / "x.npz")[0]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("name", ["cat/1.png", "x.npy"])
def test_zip_packed_so_that_python_unpacks_it_without_a_limit_is_refused(
    tmp_path: Path, method: int, name: str
) -> None:
    path = tmp_path / ("a.npz" if name == "x.npy" else "a.zip")
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, bytes(120 * MIB))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    struct.pack_into("<2L", data, at + 20, struct.unpack_from("<L", data, at + 20)[0], 1)  # it says that it has a byte
    path.write_bytes(data)
    said, seconds, mib = cost(path)
    assert "is packed in another way than deflate" in said and mib < 50 and seconds < 1, (said, seconds, mib)


def seeds(folder: Path) -> dict[str, bytes]:
    """Return a small data set in each kind of file."""
    files = {f"{pet}/{n}.png": picture(n, 8, 8) for pet in ("cat", "dog") for n in range(2)}
    tar = make_tar(folder / "a.tar", files).read_bytes()
    array = io.BytesIO()
    np.savez_compressed(array, x=np.zeros((4, 8, 8), dtype=np.uint8), y=np.arange(4))
    found = {f"a.{kind}": pack(tar) for kind, pack in PACKERS.items()}
    if find_spec("pyarrow"):
        found["a.parquet"] = parquet_file(list(files.values()))
    return found | {"a.zip": make_zip(folder / "a.zip", files).read_bytes(), "a.npz": array.getvalue()}


def test_damaged_archives_end_in_a_sentence(tmp_path: Path) -> None:
    draw = random.Random(7)
    for round_ in range(15):
        for name, data in seeds(tmp_path).items():
            changed = bytearray(data)
            for _ in range(draw.randrange(1, 6)):
                at = draw.randrange(len(changed))
                if draw.random() < 0.3:
                    changed[at:at] = changed[at : at + draw.randrange(600)]
                elif draw.random() < 0.2:
                    del changed[at : at + draw.randrange(600)]
                else:
                    changed[at] = draw.choice((0, 255, draw.randrange(256)))
                if not changed:
                    break
            path = tmp_path / f"{round_}-{name}"
            path.write_bytes(changed)
            try:
                load_dataset(path, 8, cache=tmp_path / "cache")
            except DataError as error:
                assert str(path) in str(error) or json.dumps(str(error))
