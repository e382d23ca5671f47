"""tar and zip archives give just what the unpacked folder gives, and never touch the disk."""

import io
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_kit import files_of, make_folder, make_tar, make_zip, picture

from pupila.data import Splits, load_dataset
from pupila.data.sources.archive import stem
from pupila.errors import DataError

COUNTS = {"train/cat": 3, "train/dog": 2, "val/dog": 1, "test/cat": 2}


def load(path: Path) -> Splits:
    return load_dataset(path, 16, cache=path.parent / "cache")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "tar.bz2", "zip"])
def test_archive_gives_the_same_as_its_folder(tmp_path: Path, ending: str) -> None:
    folder = make_folder(tmp_path / "pets", COUNTS)
    backwards = dict(sorted(files_of(folder).items(), reverse=True))
    path = tmp_path / f"pets.{ending}"
    packed = load(make_zip(path, backwards) if ending == "zip" else make_tar(path, backwards))
    unpacked = load(folder)
    assert packed.name == unpacked.name == "pets"
    assert packed.fingerprint == unpacked.fingerprint
    assert np.array_equal(packed.train.images, unpacked.train.images)


def test_fingerprint_tells_a_changed_picture_name_or_class(tmp_path: Path) -> None:
    files = {"cat/1.png": picture(1), "dog/1.png": picture(2)}
    variants = [
        files,
        {**files, "dog/1.png": picture(3)},
        {"cat/1.png": picture(1), "dog/2.png": picture(2)},
        {"cat/1.png": picture(1), "eel/1.png": picture(2)},
        {"cat/1.png": picture(2), "dog/1.png": picture(1)},
    ]
    paths = [make_tar(tmp_path / f"{index}.tar", variant) for index, variant in enumerate(variants)]
    assert len({load(path).fingerprint for path in paths}) == len(variants)


def test_archive_is_recognised_by_content_and_not_by_name(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.tar.gz", {"cat/1.png": picture(1), "dog/1.png": picture(2)})
    assert load(path).train.classes == ("cat", "dog")


def test_zip_with_backslashes_is_read(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"pets\\cat\\1.png": picture(1), "pets\\dog\\1.png": picture(2)})
    assert load(path).train.classes == ("cat", "dog")


def test_zip_of_a_folder_beside_is_read(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"../pets/cat/1.png": picture(1), "../pets/dog/./1.png": picture(2)})
    assert load(path).train.classes == ("cat", "dog")


def test_zip_that_is_packed_in_another_way_is_not_called_damaged(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pets.zip", {"cat/1.png": picture(1), "dog/1.png": picture(2)})
    data = bytearray(path.read_bytes())
    for sign, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        for member in re.finditer(re.escape(sign), bytes(data)):
            struct.pack_into("<H", data, member.start() + at, 9)  # deflate64: what Windows makes of over 2 GB
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"packed in another way than deflate.* Unpack it and give the folder\.$"):
        load(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty (0 bytes)"),
        (b"Rar!\x1a\x07\x01\0", "is a RAR archive"),
        (b"<!DOCTYPE html><html>", "is a web page (HTML)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "pets.zip").write_bytes(content)
    with pytest.raises(DataError) as error:
        load(tmp_path / "pets.zip")
    assert f"pets.zip: {what}, and no archive that is read. Give a folder, or one of .tar" in str(error.value)


def test_tar_that_holds_a_zip_is_still_a_tar(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"x/1.png": picture(3)}).read_bytes()
    path = make_tar(tmp_path / "pets.tar", {"cat/1.png": picture(1), "dog/1.png": picture(2), "z.zip": inner})
    assert load(path).train.classes == ("cat", "dog")


def test_members_with_unsafe_names_and_links_never_reach_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "in" / "pets.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        for name in ("cat/1.png", "dog/1.png", "../../escaped/1.png", "/tmp/pupila-escaped/1.png"):  # noqa: S108
            member = tarfile.TarInfo(name)
            member.size = len(picture())
            archive.addfile(member, io.BytesIO(picture()))
        link = tarfile.TarInfo("dog/passwords.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    load(path)
    assert not (tmp_path / "escaped").exists() and not Path("/tmp/pupila-escaped").exists()  # noqa: S108
    assert sorted(item.name for item in path.parent.iterdir()) == ["cache", "pets.tar"]


def test_later_of_two_members_with_one_name_counts(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "pets.tar", {"cat/1.png": picture(1), "dog/1.png": picture(2)})
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("cat/1.png")
        member.size = len(picture(9))
        archive.addfile(member, io.BytesIO(picture(9)))
    expected = make_tar(tmp_path / "other.tar", {"cat/1.png": picture(9), "dog/1.png": picture(2)})
    assert load(path).fingerprint == load(expected).fingerprint


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "tar.bz2", "zip"])
def test_archive_cut_off_says_so(tmp_path: Path, ending: str) -> None:
    files = {"cat/1.png": picture(1, 90, 90), "dog/1.png": picture(2, 90, 90)}
    path = tmp_path / f"pets.{ending}"
    data = (make_zip(path, files) if ending == "zip" else make_tar(path, files)).read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5])
    with pytest.raises(DataError, match=r"pets\.\S+: the archive is cut off or damaged"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"hello", picture()])
def test_file_that_is_no_archive_says_what_can_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pets.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"pets.bin: is .*, and no archive that is read. Give a folder, or one of .tar"):
        load(path)


@pytest.mark.parametrize(("name", "method"), [("pets.zip", 0), ("pets.zip", 99), ("pets.npz", 0)])
def test_encrypted_zip_says_so(tmp_path: Path, name: str, method: int) -> None:
    path = make_zip(tmp_path / name, {"cat/1.png" if name.endswith("zip") else "x.npy": picture(1)})
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag for encryption, in the member's own header and in the directory
    data[start + 8] |= 1
    if method:  # 7-Zip's and WinZip's AES
        data[8], data[start + 10] = method, method
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}: is encrypted\. Unpack it and give the folder"):
        load(path)


@pytest.mark.parametrize(
    ("name", "expected"), [("a.tar.xz", "a"), ("b.v2.zip", "b.v2"), ("c.TGZ", "c"), (".tar", ".tar"), ("d.bin", "d")]
)
def test_name_of_the_data_set_is_the_archives_without_its_endings(name: str, expected: str) -> None:
    assert stem(Path(name)) == expected
