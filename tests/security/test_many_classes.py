"""Memory that goes with the square of the classes is asked for before it is taken: a class is a few bytes of a tar."""

import time
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from server_kit import write_model
from torch.nn.functional import cross_entropy

from pupila.data.layouts.labelled import LabelledFile, check_class_count, natural_order, sort_labelled
from pupila.data.sources import archive
from pupila.data.sources.files import SourceFile
from pupila.errors import DataError
from pupila.evaluation import drift
from pupila.evaluation.evaluate import predict_columns, predict_features, predict_scores
from pupila.evaluation.metrics import confusion_matrix, score
from pupila.manifest import MAX_CLASSES
from pupila.predictor import Predictor
from pupila.training.loop.probe import fit_linear


def test_more_classes_than_a_model_may_have_are_refused_before_a_picture_is_decoded() -> None:
    names = [str(number) for number in range(MAX_CLASSES + 1)]
    check_class_count(names[1:], "pets")
    with pytest.raises(DataError, match=r"^pets: has over 20,000 classes, and a model has no more"):
        check_class_count(names, "pets")


def test_last_layer_that_would_not_fit_is_refused_before_it_is_made() -> None:
    pictures = torch.zeros(1_000, 2)
    with pytest.raises(DataError, match=r"1,000 pictures in 1,000,000,000 classes need [\d,.]+ GiB of memory"):
        fit_linear(pictures, torch.zeros(1_000, dtype=torch.int64), 10**9, cross_entropy, 1.0)


def test_answers_that_would_not_fit_as_probabilities_are_refused_before_they_are() -> None:
    logits = np.broadcast_to(np.zeros(1, dtype=np.float32), (10**6, 10**6))
    with pytest.raises(DataError, match=r"1,000,000 pictures in 1,000,000 classes need [\d,.]+ GiB of memory"):
        score(logits, np.zeros(10**6, dtype=np.int64), [])


def test_answers_that_would_not_fit_are_refused_before_a_model_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.load(write_model(tmp_path / "colours.onnx"))
    pictures = np.zeros((1_000, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(archive, "free_memory", lambda: 2 * 4 * 4 * 1_000 - 1)
    for call in (predict_scores, predict_features):
        with pytest.raises(DataError, match="answers to 1,000 pictures in 4 classes need"):
            call(predictor, pictures)
    with pytest.raises(DataError, match="answers to 1,000 pictures in 5 classes need"):
        predict_columns(predictor, pictures, [0, 1, 2, 3, 0])


def test_confusions_that_would_not_fit_are_refused_before_they_are_counted() -> None:
    none = np.zeros(1, dtype=np.int64)
    with pytest.raises(DataError, match=r"confusions of 1,000,000 classes need [\d,.]+ GiB of memory"):
        confusion_matrix(none, none, 10**6)


def test_shuffles_of_many_classes_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    served, reference = np.arange(1000) % 3, np.arange(1000) % 5 + 1
    tracemalloc.start()
    found = drift.g_test(served, reference)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20
    monkeypatch.setattr(drift, "TOGETHER", 10**8)
    assert drift.g_test(served, reference) == found


def test_putting_names_of_many_numbers_in_order_takes_little_memory() -> None:
    names = [f"{number:04d}" + "a1" * 498 for number in range(200)]
    turned = names[::-1]
    tracemalloc.start()
    assert sorted(turned, key=natural_order) == names
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * sum(map(len, names))


def test_numbers_in_names_of_classes_are_put_in_order_as_numbers() -> None:
    names = ["", "0", "2", "02a", "2a", "10", "a", "a1", "a1b", "a2", "a10", "a10b2", "a10b10", "a-", "ab", "é3", "é12"]
    turned = names[::-1]
    assert sorted(turned, key=natural_order) == names


def test_class_of_many_rows_is_normalised_once() -> None:
    marks = "a" + "\u0345" * 64 + "\u0301" * 64 + "\u0323" * 64 + "\u0334" * 62  # each takes part in the order of all
    rows = [LabelledFile(marks, str(number), SourceFile((str(number),), b"")) for number in range(20_000)]
    begun = time.process_time()
    (found,) = {item.category for item in sort_labelled({"train": rows})["train"]}
    assert time.process_time() - begun < 0.5  # a tenth of a millisecond each before
    assert found == unicodedata.normalize("NFC", marks)
