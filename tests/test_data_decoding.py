"""Bad pictures among good ones, and the same result however many processes decode."""

import os
import signal
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from batch_kit import children_of
from data_kit import make_folder, picture, write_files

from pupila import images
from pupila._workers import usable_cores
from pupila.data import load_dataset
from pupila.data.decode import CHUNK, FEW, decode_pictures, read_pictures, resize_pictures
from pupila.data.layouts.detect import detect_layout
from pupila.data.sources.files import list_folder
from pupila.errors import DataError
from pupila.images import DEFAULT_LIMITS, ImageLimits


def test_unreadable_pictures_are_skipped_listed_and_counted(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"cat": 3, "dog": 3})
    (root / "cat" / "000.png").write_bytes(b"")
    (root / "dog" / "001.png").write_bytes(picture()[:100])
    (root / "dog" / "text.png").write_text("not a picture")
    splits = load_dataset(root, 32, cache=tmp_path / "cache")
    assert [(item.name, item.reason.split(".")[0]) for item in splits.skipped] == [
        ("cat/000.png", "The picture is empty (0 bytes)"),
        ("dog/001.png", "The picture is cut off or damaged"),
        ("dog/text.png", "Not a picture that can be read: it is text"),
    ]
    assert splits.train.counts().tolist() == [2, 2]
    expected = images.decode(root / "dog" / "002.png", 32)
    assert np.array_equal(splits.train.images[3], expected)


def test_one_picture_that_cannot_be_read_costs_no_copy_of_the_others(tmp_path: Path) -> None:
    files = {f"{pet}/{number}.png": picture(number) for pet in ("cat", "dog") for number in range(120)}
    root = tmp_path / "pets"
    write_files(root, files | {"cat/15.png": b"", "dog/0.png": b"", "dog/99.png": b""})
    arranged = detect_layout(list_folder(root), "pets")
    tracemalloc.start()
    splits = read_pictures(arranged, "pets", "pets", 224, DEFAULT_LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(splits.train) == 237 and peak < 1.75 * 240 * 224 * 224 * 3  # one of them takes 0.5 while it is decoded
    for index in (3, 118, 119, 236):
        expected = images.decode((root / splits.train.names[index]).read_bytes(), 224)
        assert (splits.train.images[index] == expected).all()


def test_picture_over_the_limits_is_skipped(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"cat": 1, "dog": 2})
    (root / "dog" / "000.png").write_bytes(picture(0, 200, 200))
    splits = load_dataset(root, 32, cache=tmp_path / "cache", limits=ImageLimits(max_pixels=10_000))
    assert [(item.name, "over the limit" in item.reason) for item in splits.skipped] == [("dog/000.png", True)]


def test_class_without_a_readable_picture_is_an_error(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"train/cat": 2, "train/dog": 1, "test/cat": 1})
    (root / "train" / "dog" / "000.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="pets: train: none of the pictures of 'dog' can be read"):
        load_dataset(root, 32, cache=tmp_path / "cache")


def test_many_pictures_are_decoded_by_several_processes_in_order(tmp_path: Path) -> None:
    sources: list[bytes | str] = [picture(index, 9, 9) for index in range(FEW + CHUNK + 7)]
    sources[5] = b"broken"
    sources[FEW] = str(tmp_path / "missing.png")
    on_disk = tmp_path / "caf\u00e9.png"
    on_disk.write_bytes(picture(1, 9, 9))
    sources[-1] = str(on_disk)
    pixels, failed = decode_pictures(sources, 9, DEFAULT_LIMITS)
    assert sorted(failed) == [5, FEW]
    assert "No such file" in failed[FEW]
    for index in (0, CHUNK - 1, CHUNK, FEW + 1, len(sources) - 2):
        assert np.array_equal(pixels[index], images.decode(picture(index, 9, 9), 9))
    assert np.array_equal(pixels[-1], pixels[1])


def test_pictures_too_many_for_memory_are_an_error() -> None:
    with pytest.raises(DataError, match="GiB of memory"):
        decode_pictures([b""] * 10, 10**8, DEFAULT_LIMITS)


def test_pixels_that_are_no_files_are_resized_as_files_are() -> None:
    data = picture(3, 20, 20)
    pixels = images.decode(data, 20)[np.newaxis]
    assert np.array_equal(resize_pictures(pixels, 13)[0], images.decode(data, 13))
    assert resize_pictures(pixels, 20) is pixels


def test_equal_pictures_are_decoded_once_and_stand_in_each_place() -> None:
    one, two, bad = picture(1), picture(2), b"bad"
    sources = [one, bytes(bytearray(one)), bad, two, one, bad, two, picture(3)]
    pixels, failed = decode_pictures(sources, 9, DEFAULT_LIMITS)
    assert set(failed) == {2, 5}
    for source, found in zip(sources, pixels, strict=True):
        assert (found == (0 if source == bad else images.decode(source, 9))).all()


def test_process_that_is_killed_costs_no_picture() -> None:
    if usable_cores() < 2:
        pytest.skip("there is one core only, so nothing is decoded in other processes")
    before = set(children_of(os.getpid()))

    def kill_one() -> None:
        limit = time.monotonic() + 60
        while not (started := set(children_of(os.getpid())) - before) and time.monotonic() < limit:
            time.sleep(0.001)
        os.kill(max(started), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    pixels, failed = decode_pictures([picture() + b"%d" % number for number in range(8 * FEW)], 9, DEFAULT_LIMITS)
    killer.join()
    assert not failed
    assert (pixels == images.decode(picture(), 9)).all()
    assert set(children_of(os.getpid())) == before
