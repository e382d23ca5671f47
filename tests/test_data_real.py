"""The real archives, where they are at hand."""

import tarfile
import time
from itertools import islice
from pathlib import Path

import pytest
from data_kit import real_data

from pupila.data import load_dataset, split
from pupila.data.layouts.detect import detect_layout
from pupila.data.layouts.labelled import class_names
from pupila.data.sources.files import SourceFile, SourceFiles, parts_of


@pytest.mark.slow
def test_cifar10_loads_whole_and_the_second_time_within_a_second(tmp_path: Path) -> None:
    path = real_data("cifar10.tar.xz")
    first = load_dataset(path, cache=tmp_path)
    assert first.test is not None and first.skipped == ()
    assert (first.train.size, first.train.counts().tolist()) == (32, [5000] * 10)
    assert first.test.counts().tolist() == [1000] * 10
    assert first.train.classes[7] == "horse"
    _, validation = split(first.train, 0.1, seed=0)
    assert validation.counts().tolist() == [500] * 10
    assert min(_seconds_to_load(path, tmp_path) for _ in range(3)) < 1.0


def _seconds_to_load(path: Path, cache: Path) -> float:
    """Return processor time: what other programs do meanwhile is not to be measured."""
    start = time.process_time()
    load_dataset(path, cache=cache)
    return time.process_time() - start


def test_tiny_imagenet_is_found_inside_its_wrapping_folder() -> None:
    with tarfile.open(real_data("tiny-imagenet-64.tar.xz")) as archive:  # its beginning: all of it takes seconds
        entries = [SourceFile(parts_of(member.name), b"") for member in islice(archive, 2000) if member.isreg()]
    arranged = detect_layout(SourceFiles(entries), "tiny")
    assert set(class_names(arranged.splits, "tiny")) == {entry.parts[2] for entry in entries if len(entry.parts) > 2}
    assert (list(arranged.splits), list(arranged.strays)) == (["train"], [])
