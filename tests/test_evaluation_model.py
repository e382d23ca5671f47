"""A real, tiny model file evaluated: binding by name, all batches in order, gallery and report."""

import base64
import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pupila import images
from pupila.data import Dataset
from pupila.errors import DataError
from pupila.evaluation import evaluate as evaluating
from pupila.evaluation import unknown
from pupila.evaluation.evaluate import bind, predict_features, predict_scores, score_dataset, threads_for
from pupila.evaluation.pages import gallery
from pupila.evaluation.pages.report import ProgressPage, write_report
from pupila.manifest import METADATA_KEY, GoldenPicture, Manifest
from pupila.predictor import Predictor

CLASSES = ("red <script>alert(1)</script>", "green & $co$", "blue")
HEAD = 30.0 * np.eye(3, dtype=np.float32) - 10.0


def graph():
    """Mean colour of each 8 x 8 tile -> activation maps -> logits: a linear classifier of colours."""
    maps = (TensorProto.FLOAT, ["n", 3, 4, 4])
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["tiles"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["tiles", "head"], ["cam"]),
        helper.make_node("ReduceMean", ["tiles"], ["features"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["cam"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    outputs = {"logits": (TensorProto.FLOAT, ["n", 3]), "features": (TensorProto.FLOAT, ["n", 3]), "cam": maps}
    return helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 32, 32, 3])],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [
            numpy_helper.from_array(np.float32(1 / 255), "scale"),
            numpy_helper.from_array(HEAD.reshape(3, 3, 1, 1), "head"),
        ],
    )


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    model = helper.make_model(graph(), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    golden = GoldenPicture(
        base64.b64encode(images.encode_png(np.zeros((32, 32, 3), dtype=np.uint8))).decode(), (0.0, 0.0, 0.0)
    )
    manifest = Manifest(
        "colours <1>", CLASSES, 32, 64, "float32", "none", {}, {}, golden=(golden,), temperature=1.5,
        unknown_threshold=-2.0,
    )  # fmt: skip
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    path = tmp_path_factory.mktemp("model") / "colours.onnx"
    onnx.save(model, path)
    return Predictor.load(path)


def colours(n=150, classes=CLASSES, seed=0):
    """Noise with one channel a little stronger: about three in four are told right."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    levels = 90 + 40 * np.eye(3)[labels] + random.normal(0, 25, (n, 3))
    pictures = levels[:, None, None] + random.normal(0, 20, (n, 32, 32, 3))
    return Dataset(np.clip(pictures, 0, 255).astype(np.uint8), labels, tuple(classes))


@pytest.fixture(scope="module")
def dataset():
    return colours()


def test_evaluation_gives_the_logits_of_every_picture_in_order(predictor, dataset):
    evaluation = score_dataset(predictor, dataset, batch=7)
    np.testing.assert_allclose(evaluation.logits, predictor.logits(dataset.images), rtol=1e-5, atol=1e-5)


def test_evaluation_scores_at_the_temperature_of_the_model(predictor, dataset):
    scores = score_dataset(predictor, dataset).scores
    assert (scores.temperature, scores.n) == (1.5, 150)
    assert 0.6 < scores.accuracy < 0.9


def test_classes_in_another_order_are_bound_by_name(predictor, dataset):
    shuffled = Dataset(dataset.images, (dataset.labels + 1) % 3, (CLASSES[2], CLASSES[0], CLASSES[1]))
    again, first = score_dataset(predictor, shuffled), score_dataset(predictor, dataset)
    np.testing.assert_array_equal(again.labels, dataset.labels)
    assert again.scores.to_json() == first.scores.to_json()


def test_thousands_of_classes_are_bound_at_once():
    """By their square it took seconds."""
    classes = tuple(f"class {i}" for i in range(20_000))
    labels = np.arange(20_000)
    started = time.process_time()
    bound = bind(Dataset(np.zeros((20_000, 1, 1, 3), np.uint8), labels, classes), classes[::-1])
    assert time.process_time() - started < 1
    np.testing.assert_array_equal(bound, labels[::-1])


@pytest.mark.parametrize(
    ("share", "cores", "free", "threads"),
    [(1, 64, 4.5 * 2**30, 4), (1, 64, 2**29, 1), (0.01, 64, 4 * 2**30, 64), (1, 2, float("inf"), 2)],
)
def test_threads_that_compute_fit_into_the_free_memory(share, cores, free, threads):
    """On 64 cores a model of the largest kind took 64 GiB."""
    assert threads_for(share, cores, free) == threads


def test_other_classes_are_an_error_that_names_the_difference(predictor, dataset):
    other = replace(dataset, classes=(CLASSES[0], CLASSES[1], "purple"))
    with pytest.raises(DataError, match=r"only the model has: 'blue'; only the data set has: 'purple'"):
        score_dataset(predictor, other)


def test_a_data_set_may_lack_classes_of_the_model(predictor, dataset):
    two = dataset.take(np.flatnonzero(dataset.labels < 2))
    whole, part = score_dataset(predictor, dataset), score_dataset(predictor, replace(two, classes=CLASSES[:2]))
    assert part.scores.n == len(two) < whole.scores.n
    assert [row.recall for row in part.scores.classes[:2]] == [row.recall for row in whole.scores.classes[:2]]


def test_pictures_of_another_size_are_an_error_that_names_both(predictor, dataset):
    with pytest.raises(DataError, match="16 x 16, the model takes 32 x 32"):
        score_dataset(predictor, replace(dataset, images=dataset.images[:, ::2, ::2]))


def test_features_come_with_their_logits_where_there_is_room_for_both(predictor, dataset, monkeypatch):
    asked: list[float] = []
    monkeypatch.setattr(evaluating, "check_memory", lambda needed, *_: asked.append(needed))
    logits, features = predict_features(predictor, dataset.images, batch=64)
    assert asked == [2 * (logits.nbytes + features.nbytes)]
    np.testing.assert_allclose(logits, 3 * features @ HEAD / 3, rtol=1e-4, atol=1e-4)


def test_file_without_an_unknown_output_is_scored_by_its_energy(predictor, dataset):
    scores = predict_scores(predictor, dataset.images)
    logits = predictor.logits(dataset.images)
    np.testing.assert_allclose(scores[:, :-1], logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores[:, -1], unknown.energy(logits, 1.5), rtol=1e-4)


def test_confident_mistakes_are_wrong_and_sorted(predictor, dataset):
    probabilities = predictor.probabilities(predictor.logits(dataset.images))
    indices = gallery.confident_mistakes(probabilities, dataset.labels, 10)
    assert len(indices) == 10
    assert (probabilities[indices].argmax(axis=1) != dataset.labels[indices]).all()
    assert (np.diff(probabilities[indices].max(axis=1)) <= 0).all()


def test_confused_pairs_count_both_directions_and_skip_those_never_confused():
    confusion = np.array([[9, 1, 0], [2, 9, 0], [4, 0, 9]])
    assert gallery.confused_pairs(confusion, 5) == [(0, 2), (0, 1)]


def test_mistakes_of_a_pair_are_of_that_pair(predictor, dataset):
    evaluation = score_dataset(predictor, dataset)
    confusion = evaluation.scores.confusion
    pair = gallery.confused_pairs(confusion, 1)[0]
    probabilities = predictor.probabilities(evaluation.logits)
    indices = gallery.confident_mistakes(probabilities, dataset.labels, 1000, pair)
    assert len(indices) == confusion[pair] + confusion[pair[::-1]]
    assert set(dataset.labels[indices]) <= set(pair)


def test_exhibit_is_hot_where_the_answered_colour_is(predictor):
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    picture[:16, :16, 0] = 255
    one = Dataset(picture[None], np.array([2]), CLASSES)
    (shown,) = gallery.exhibits(predictor, one, one.labels, [0], {"picture 0": "file:///0"})
    picture, overlay = shown.pictures
    change = np.abs(overlay.astype(int) - picture).sum(axis=2)
    assert shown.caption.startswith(f"blue → {CLASSES[0]}, ") and shown.link == "file:///0"
    assert picture.shape == (96, 96, 3)
    assert change[:32, :32].min() > 50
    assert change[64:, 64:].max() == 0


def test_large_picture_is_shown_smaller():
    assert gallery.enlarge(np.full((224, 224, 3), 7, dtype=np.uint8)).shape == (96, 96, 3)


def test_activation_map_without_a_positive_place_leaves_the_picture_as_it_is():
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    np.testing.assert_array_equal(gallery.overlaid(picture, np.full((2, 2), -1.0)), picture)


ROWS = [{"epoch": e, "train_loss": 1 / e, "train_accuracy": 0.5, "validation_accuracy": 0.4} for e in (1, 2, 3)]


@pytest.fixture(scope="module")
def report(predictor, dataset, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("run"), predictor, dataset, ROWS)


class Elements(HTMLParser):
    """Lists what a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br", "source"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_lies_with_its_plots_in_the_folder(report):
    assert sorted(path.name for path in report.parent.iterdir()) == [
        "confusion.png", "curves.png", "reliability.png", "report.html",
    ]  # fmt: skip


def test_report_asks_for_nothing_from_outside(report):
    elements = Elements(report.read_text("utf-8"))
    sources = [attrs["src"] for tag, attrs in elements.seen if tag == "img"]
    assert len(sources) > 20
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in elements.seen}
    assert not elements.open


def test_report_escapes_class_names_and_the_name_of_the_model(report):
    text = report.read_text("utf-8")
    assert "<script>" not in text
    assert "red &lt;script&gt;" in text
    assert "<title>colours &lt;1&gt;: report</title>" in text


def test_report_shows_the_accuracy_and_its_interval(report, predictor, dataset):
    scores = score_dataset(predictor, dataset).scores
    assert f"<b>{scores.accuracy:.2%}</b>accuracy<br><small>{scores.interval[0]:.2%} to" in report.read_text("utf-8")


def test_report_without_rows_has_no_curves(predictor, tmp_path):
    path = write_report(tmp_path / "new" / "folder", predictor, colours(5), [])
    assert "Training" not in path.read_text("utf-8")
    assert not (path.parent / "curves.png").exists()


def test_report_that_cannot_be_written_is_named(predictor, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "confusion.png").mkdir(parents=True)
    for folder, named in (("file", "file"), ("folder", r"folder/confusion\.png")):
        with pytest.raises(DataError, match=rf"/{named}: cannot be written \(.*\)\. Choose another place\."):
            write_report(tmp_path / folder, predictor, colours(5), [])


def test_report_of_a_fitted_last_layer_draws_no_curve_of_one_point(predictor, tmp_path):
    text = write_report(tmp_path, predictor, colours(5), [{**ROWS[0], "epoch": 0}], kept=0).read_text("utf-8")
    assert "Only the last layer was trained, in one step: there are no curves." in text and "1 epoch" not in text
    assert not (tmp_path / "curves.png").exists()


def test_report_counts_epochs_without_the_last_layer_that_they_began_with(predictor, tmp_path):
    rows = [{**ROWS[0], "epoch": 0, "seconds": 1.0}, *({**row, "seconds": 60.0} for row in ROWS)]
    text = write_report(tmp_path, predictor, colours(5), rows, kept=0).read_text("utf-8")
    assert f"epoch 0 of {ROWS[-1]['epoch']} kept" in text and "Epoch 0 is the last layer alone." in text


def test_report_of_a_model_without_mistakes_says_so(predictor, tmp_path):
    pure = Dataset(np.uint8(255) * np.eye(3, dtype=np.uint8)[:, None, None].repeat(32, 1).repeat(32, 2),
                   np.arange(3), CLASSES)  # fmt: skip
    text = write_report(tmp_path, predictor, pure, ROWS).read_text("utf-8")
    assert "There is no mistake." in text
    assert re.search("<b>100.00%</b>accuracy", text)


def test_report_warns_of_few_pictures_and_not_of_many(report, predictor, tmp_path):
    assert "Only 150 pictures" in report.read_text("utf-8")
    assert "Only" not in write_report(tmp_path, predictor, colours(300), []).read_text("utf-8")


def test_report_names_each_mistake_once_and_links_to_its_file(predictor, dataset, tmp_path):
    named = Dataset(dataset.images, dataset.labels, CLASSES, tuple(f"c/{row} <x>.png" for row in range(len(dataset))))
    (tmp_path / "photos" / "validation" / "c").mkdir(parents=True)
    for name in named.names:
        (tmp_path / "photos" / "validation" / name).touch()
    text = write_report(tmp_path / "run", predictor, named, [], source=tmp_path / "photos").read_text("utf-8")
    mistakes = re.findall(r'<a href="([^"]+)">([^<]+)</a>', text)
    assert len(mistakes) > 20
    assert len(set(mistakes)) == len(mistakes)
    assert all(link.startswith("file:///") and "%3Cx%3E.png" in link for link, _ in mistakes)
    assert all(name.endswith("&lt;x&gt;.png") for _, name in mistakes)


def test_page_of_a_running_training_loads_itself_again_and_the_report_does_not(report, tmp_path):
    page = ProgressPage(tmp_path, "photos <1>")
    page.due = 0.0
    page.update([{**ROWS[0], "epoch": 0}])
    assert "of the last layer alone" in page.path.read_text("utf-8")
    page.due = 0.0
    page.update(ROWS[:2])
    text = page.path.read_text("utf-8")
    assert '<meta http-equiv="refresh" content="10">' in text
    assert "<b>2</b>epochs so far" in text
    page.update(ROWS)
    assert page.path.read_text("utf-8") == text  # drawn a moment ago
    assert "refresh" not in report.read_text("utf-8")
