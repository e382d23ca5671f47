"""`pupila drift` is raised by pictures of another kind, not by chance; its statistics agree with slow, obvious ones."""

import contextlib
import itertools
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from server_kit import CLASSES, write_model

from pupila import images
from pupila.cli import main
from pupila.data import load_dataset
from pupila.errors import DataError, ImageError
from pupila.evaluation.drift import (
    ALPHA,
    BINS,
    ENOUGH,
    QUANTILES,
    ServedAnswers,
    answers_of,
    binned,
    compare,
    g_test,
    quantiles,
    reference_of,
)
from pupila.evaluation.evaluate import predict_scores
from pupila.feedback import Answered, Store
from pupila.models import bundled_model
from pupila.predictor import Floats, Predictor

Pictures = NDArray[np.uint8]
DATA = Path(os.environ.get("PUPILA_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def answers(seed: int, count: int, sure: float = 8.0, mix: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)) -> ServedAnswers:
    """Answers of a model that is mostly sure: confidences of a beta distribution, classes of this mix."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(len(mix), count, p=mix).astype(np.int64)
    return ServedAnswers(labels, draw.beta(sure, 1, count), int((draw.random(count) < 0.05).sum()))


REFERENCE = reference_of(answers(1000, 2500), CLASSES, "validation")


# The numbers


@pytest.mark.parametrize("seed", range(5))
def test_bins_hold_about_as_many_of_both_together_and_each_picture_once(seed: int) -> None:
    draw = np.random.default_rng(seed)
    served, other = draw.beta(4, 1, 300), draw.beta(8, 1, 2000)
    now, before = binned(served.astype(np.float32), quantiles(other, QUANTILES), len(other))
    assert now.sum() == 300 and abs(before.sum() - 2000) <= BINS
    np.testing.assert_allclose(now / 300 + before / 2000, 2 / BINS, atol=0.02)
    edges = [float(np.quantile(other, share)) for share in np.cumsum(before / 2000)[:-1]]  # where the bins must end
    slow = [int(((low < served) & (served <= high)).sum()) for low, high in itertools.pairwise([0.0, *edges, 1.0])]
    np.testing.assert_allclose(now, slow, atol=6)


def test_confidences_of_one_value_are_in_bins_of_their_own() -> None:
    half = np.where(np.arange(500) % 5 < 2, 0.4, 1.0).astype(np.float32)
    now, before = binned(half, np.ones(QUANTILES), 100)
    assert (now[now + before > 0].tolist(), before[now + before > 0].tolist()) == ([200, 300], [0, 100])


def test_g_and_its_probability_are_those_of_scipy_where_counts_are_large() -> None:
    special = pytest.importorskip("scipy.special")
    served, reference = np.array([60, 50, 40]), np.array([500, 520, 480])
    table = np.array([served, reference])
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    value, p = g_test(served, reference)
    assert value == pytest.approx(2 * (table * np.log(table / expected)).sum())
    assert p == pytest.approx(float(special.chdtrc(2, value)), abs=0.02)


def test_classes_that_never_occur_do_no_harm() -> None:
    value, p = g_test(np.array([0, 10, 0]), np.array([0, 100, 0]))
    assert (value, p) == (0.0, 1.0)


# False alarms, and changes


def test_chance_raises_nothing_in_any_of_20_seeds() -> None:
    raised = [seed for seed in range(20) if compare(answers(seed, 400), REFERENCE, CLASSES).changed]
    assert raised == []


def test_probabilities_under_chance_are_uniform_or_larger() -> None:
    """A test that is too eager shows here: of 60 samples hardly more than a tenth may have p below 0.1."""
    found = [compare(answers(seed, 200), REFERENCE, CLASSES) for seed in range(60)]
    for place in range(3):
        assert sum(drift.findings[place].p < 0.1 for drift in found) < 16  # mean 6, 4 standard deviations above


@pytest.mark.parametrize(
    ("served", "what"),
    [
        (answers(1, 400, sure=3.0), "Confidence"),
        (answers(2, 400, sure=30.0), "Confidence"),
        (answers(3, 400, mix=(0.1, 0.2, 0.3, 0.4)), "Class mix"),
        (ServedAnswers(answers(4, 400).labels, answers(4, 400).confidences, 80), "Unknown"),
    ],
)
def test_change_is_raised_and_named(served: ServedAnswers, what: str) -> None:
    drift = compare(served, REFERENCE, CLASSES)
    assert [finding.what for finding in drift.findings if finding.changed] == [what]


def test_a_few_unsure_answers_are_found_where_the_others_are_all_sure() -> None:
    sure = ServedAnswers(answers(1, 500).labels, np.ones(500, dtype=np.float32), 0)
    half = ServedAnswers(sure.labels, np.where(np.arange(500) % 5 < 2, 0.4, 1.0).astype(np.float32), 0)
    for served, reference, words in (
        (half, sure, "0.76, in the reference 1.00."),
        (sure, half, "1.00, in the reference 0.76."),
    ):
        finding = compare(served, reference_of(reference, CLASSES, "validation"), CLASSES).findings[0]
        assert finding.changed and finding.words == f"The mean is {words}"


def test_small_reference_raises_no_false_alarm() -> None:
    for seed in range(20):
        reference = reference_of(answers(1000 + seed, 6), CLASSES, "validation")
        assert not compare(answers(seed, 60), reference, CLASSES).changed, seed


def test_tiny_change_is_not_raised_however_many_pictures_prove_it() -> None:
    large = reference_of(answers(1000, 50_000), CLASSES, "validation")
    drift = compare(answers(5, 100_000, sure=7.5, mix=(0.41, 0.3, 0.19, 0.1)), large, CLASSES)
    assert max(drift.findings[0].p, drift.findings[1].p) < ALPHA
    assert not drift.changed


def test_too_few_pictures_say_nothing() -> None:
    with pytest.raises(DataError, match="too few"):
        compare(answers(1, ENOUGH - 1), REFERENCE, CLASSES)


# The command


def collected(folder: Path, version: str, served: ServedAnswers) -> Path:
    store = Store(folder, create=True)
    pixels = np.random.default_rng(0).integers(0, 256, (len(served.labels), 4, 4, 3), dtype=np.uint8)
    rows = [
        Answered(
            f"r{i}", 0, images.encode_png(pixels[i]), CLASSES[served.labels[i]], float(served.confidences[i]),
            i < served.unknown, version, 0.0,
        )
        for i in range(len(served.labels))
    ]  # fmt: skip
    store.add(rows)
    store.close()
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "colours.onnx")


def colours(folder: Path) -> Path:
    """A data set in class folders of what the model of the tests knows."""
    draw = np.random.default_rng(5)
    for index, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            pixels[:, :, index % 3] += 120
            (folder / name / f"{number}.png").write_bytes(images.encode_png(pixels))
    return folder


def test_model_without_reference_says_what_to_do(model: Path, tmp_path: Path) -> None:
    folder = collected(tmp_path / "kept", Predictor.load(model).version, answers(1, 60))
    done = CliRunner().invoke(main, ["drift", str(model), str(folder)])
    assert done.exit_code == 1
    assert "--reference DATA" in done.output


def test_pictures_unlike_the_reference_given_are_told_in_words(model: Path, tmp_path: Path) -> None:
    folder = collected(tmp_path / "kept", Predictor.load(model).version, answers(1, 60))
    data = colours(tmp_path / "data")
    done = CliRunner().invoke(main, ["drift", str(model), str(folder), "--reference", str(data)])
    assert done.exit_code == 0, done.output
    assert "60 served pictures against 80 of the reference" in done.output
    assert "Confidence: changed." in done.output
    assert "(G = " in done.output
    told = CliRunner().invoke(main, ["drift", str(model), str(folder), "--reference", str(data), "--json"])
    assert json.loads(told.output.splitlines()[-1])["changed"] is True


def test_pictures_that_the_model_was_trained_on_are_no_reference(tmp_path: Path) -> None:
    data = colours(tmp_path / "data")
    trained_on = {"fingerprint": load_dataset(data, 32).fingerprint}
    model = write_model(tmp_path / "colours.onnx", data=trained_on)
    folder = collected(tmp_path / "kept", Predictor.load(model).version, answers(1, 60))
    done = CliRunner().invoke(main, ["drift", str(model), str(folder), "--reference", str(data)])
    assert done.exit_code == 1
    assert "was trained on these pictures" in done.output


def test_answers_of_another_version_are_not_mixed_in(model: Path, tmp_path: Path) -> None:
    folder = collected(tmp_path / "kept", "0123456789ab", answers(1, 60))
    data = colours(tmp_path / "data")
    done = CliRunner().invoke(main, ["drift", str(model), str(folder), "--reference", str(data)])
    assert done.exit_code == 1
    assert "only of 0123456789ab" in done.output


# Real pictures and the bundled model


def blurred(pictures: Pictures) -> Pictures:
    return np.stack([np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(1.5))) for p in pictures])


def at_night(pictures: Pictures) -> Pictures:
    return (pictures * 0.2).astype(np.uint8)


def digits(pictures: Pictures) -> Pictures:
    return load_dataset("digits", 32).train.images[: len(pictures)]


def tiny_imagenet(pictures: Pictures) -> Pictures:
    """As many pictures of the first hundred classes, read one after the other: the whole archive would take long."""
    found: list[Pictures] = []
    with tarfile.open(DATA / "tiny-imagenet-64.tar.xz", "r|xz") as archive:
        for number, member in enumerate(member for member in archive if member.isfile()):
            if number % 40 == 0 and (file := archive.extractfile(member)) is not None:
                with contextlib.suppress(ImageError):
                    found.append(images.decode(file.read(), 32))
            if len(found) == len(pictures):
                break
    return np.stack(found)


@pytest.fixture(scope="module")
def real() -> tuple[Predictor, Pictures]:
    archive = DATA / "cifar10.tar.xz"
    if not archive.exists() or not (DATA / "tiny-imagenet-64.tar.xz").exists() or not bundled_model().exists():
        pytest.skip("CIFAR-10, Tiny ImageNet or the bundled model is not here")
    test = load_dataset(archive).test
    assert test is not None
    order = np.random.default_rng(0).permutation(len(test))
    return Predictor.load(bundled_model()), test.images[order[:2200]]


def served(predictor: Predictor, scores: Floats) -> ServedAnswers:
    return answers_of(scores, predictor.manifest.temperature, predictor.manifest.unknown_threshold)


@pytest.mark.slow
def test_real_pictures_raise_nothing_and_shifts_are_raised(real: tuple[Predictor, Pictures]) -> None:
    predictor, pictures = real
    classes = predictor.manifest.classes
    scores = predict_scores(predictor, pictures)
    reference = reference_of(served(predictor, scores[:1200]), classes, "test")
    for seed in range(20):
        rows = np.random.default_rng(seed).choice(1000, 200, replace=False) + 1200
        assert not compare(served(predictor, scores[rows]), reference, classes).changed, seed
    shifts: list[Callable[[Pictures], Pictures]] = [blurred, at_night, digits, tiny_imagenet]
    for shift in shifts:
        shifted = served(predictor, predict_scores(predictor, shift(pictures[1200:1400])))
        assert compare(shifted, reference, classes).changed, shift.__name__
