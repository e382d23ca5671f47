"""The model file answers as the network in torch does, at every precision, or is not published."""

import copy
import functools
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_kit import TINY, colours, noise

from pupila import images
from pupila.data import Splits
from pupila.errors import ModelError, TrainingError
from pupila.evaluation import evaluate
from pupila.images.decoder import BARS
from pupila.predictor import Predictor
from pupila.training.export import export as exporting
from pupila.training.export import graph
from pupila.training.export.export import export
from pupila.training.export.graph import int8
from pupila.training.loop.fit import Fitted
from pupila.training.loop.resnet import ResNet18, enlarged

TRAINING, VALIDATION = colours(90), colours(30, seed=1)
JUDGED_BESIDES = len(TRAINING)
"""Training pictures that the gate looks at besides: all, as there are fewer than it wants."""
SPLITS = Splits("colours", TRAINING, VALIDATION, None, (), "0" * 64)


def random_network(classes=3, seed=0):
    """A network whose batch-norm statistics are not the ones it was born with."""
    torch.manual_seed(seed)
    network = ResNet18(classes).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network


@pytest.fixture(scope="module")
def trained():
    """A random backbone, and a last layer that tells the classes apart by their mean features: int8 turns no answer."""
    network = random_network()
    with torch.no_grad():
        features = network.features(enlarged(torch.from_numpy(TRAINING.images), 32))
        means = torch.stack([features[torch.from_numpy(TRAINING.labels) == k].mean(0) for k in range(3)])
        network.fc.weight.copy_(means - means.mean(0))
        network.fc.bias.copy_(-network.fc.weight @ means.mean(0))
    return Fitted(network, network_size=32, best_epoch=0, rows=[], examples_per_second=0.0)


def exported(fitted, folder, **changes):
    recipe = replace(TINY, **changes)
    return export(fitted, recipe, TRAINING, VALIDATION, folder / "model.onnx", splits=SPLITS, origin="none")


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """Exports once for each set of changes; who writes to a file copies it first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "TIMED_CALLS", 3)
        yield functools.cache(lambda **changes: exported(trained, tmp_path_factory.mktemp("made"), **changes))


def test_file_names_the_weights_and_not_where_they_lay(trained, tmp_path):
    manifest = exported(
        trained, tmp_path, weights="/home/ana/runs/backbone.safetensors", export="float32"
    ).predictor.manifest
    assert manifest.recipe["weights"] == "backbone.safetensors"


@pytest.mark.parametrize("pooling", ["mean", "root"])
@pytest.mark.parametrize(("size", "network_size"), [(32, 32), (32, 64), (48, 64), (64, 48)])
def test_graph_equals_the_network(size, network_size, pooling):
    network = random_network()
    network.pool(pooling)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    manifest = exporting.Manifest("x", ("a", "b", "c"), size, network_size, "float32", "none", {}, {})
    model = graph.with_metadata(
        graph.build(state, size, network_size, pooling=pooling), {exporting.METADATA_KEY: manifest.to_json()}
    )
    predictor = Predictor.from_bytes(model.SerializeToString())
    pictures = noise(5, size).images
    outputs = predictor.outputs(pictures)
    with torch.inference_mode():
        x = enlarged(torch.from_numpy(pictures), network_size)
        features, logits = network.features(x).numpy(), network(x).numpy()
    assert np.allclose(outputs.logits, logits, atol=1e-4)
    power = 2 if pooling == "root" else 1  # the root of an average of 0 and that of 1e-7 lie far apart
    assert np.allclose(outputs.features**power, features[:, : graph.FEATURES] ** power, atol=1e-4)
    best = logits.argmax(1)
    rest = slice(graph.FEATURES, None)  # of a map that the last one does not show
    earlier = (features[:, rest] * state["fc.weight"][best, rest]).sum(1)
    assert np.allclose(outputs.cam.mean((1, 2)) + earlier + state["fc.bias"][best], logits.max(1), atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_what_few_pictures_are_told_by_is_averaged_over_the_mirror_image_too(trained, tmp_path, precision):
    network = copy.deepcopy(trained.network)
    network.pool("root")
    rooted = replace(trained, network=network)
    predictor = exported(rooted, tmp_path, flip_average="on", export=precision, pooling="root").predictor
    pictures = noise(5).images
    plain, mirrored = predictor.outputs(pictures), predictor.outputs(pictures[:, :, ::-1].copy())
    assert np.allclose(plain.logits, mirrored.logits, atol=1e-4)
    with torch.inference_mode():
        x = enlarged(torch.from_numpy(pictures), predictor.manifest.network_size)
        expected = (network(x) + network(x.flip(3))) / 2
    assert np.allclose(plain.logits, expected.numpy(), atol=1e-4 if precision == "float32" else 0.1)


def test_averaged_over_the_mirror_image_the_answer_is_the_same_for_both(made):
    predictor = made(flip_average="on", export="int8").predictor
    pictures = noise(5).images
    plain, mirrored = predictor.outputs(pictures), predictor.outputs(pictures[:, :, ::-1].copy())
    assert np.allclose(plain.logits, mirrored.logits, atol=1e-4)
    assert np.allclose(plain.features, mirrored.features, atol=1e-4)
    assert np.allclose(plain.cam, mirrored.cam[:, :, ::-1], atol=1e-4)
    assert len(plain.logits) == 5


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_every_precision_is_published_with_its_manifest(made, precision):
    done = made(export=precision)
    manifest = done.predictor.manifest
    assert manifest.precision == precision
    assert manifest.metrics["n"] == 30 and manifest.metrics["split"] == "validation"
    assert manifest.temperature > 0 and manifest.unknown_threshold is not None
    assert len(manifest.golden) == 4 and done.parity < 1e-3


def test_file_marks_what_shows_nothing_and_says_how_much(trained, tmp_path, caplog):
    caplog.set_level("INFO", logger="pupila")
    predictor = exported(trained, tmp_path, export="int8").predictor
    marked = predictor.manifest.metrics["marked_unknown"]
    assert set(marked) == {"validation pictures", "noise", "flat colours", "shuffled patches", "small crops"}
    assert marked["validation pictures"] <= 0.05
    assert f"marked as unknown: {marked['validation pictures']:.0%} of validation pictures, " in caplog.text
    own = predictor.scores(VALIDATION.images)[:, -1] > predictor.manifest.unknown_threshold
    assert own.mean() == pytest.approx(marked["validation pictures"], abs=1e-4)
    assert marked["flat colours"] > 0.9  # in training every picture has noise
    found = predictor.interpret(predictor.scores(np.full((1, 32, 32, 3), 90, np.uint8)))
    assert found[0].unknown


def test_page_of_the_model_file_says_how_many_pictures_stay_below_the_unknown_threshold():
    page = (Path(__file__).parents[1] / "docs" / "model-file.md").read_text(encoding="utf-8")
    assert f"at least {100 * exporting.KNOWN:.0f} % of the validation pictures" in " ".join(page.split())


def test_weights_that_int8_cannot_hold_give_none_and_a_sentence(caplog):
    caplog.set_level("INFO", logger="pupila")
    network = random_network()
    with torch.no_grad():
        for block in network.layer4:
            block.bn2.weight.fill_(1e30)
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    assert int8(graph.build(state, 32, 32), TRAINING.images) is None
    assert "int8 cannot hold these weights" in caplog.text


def test_quantising_leaves_the_root_logger_as_it_was():
    before = list(logging.getLogger().handlers)
    state = {name: value.numpy() for name, value in random_network().state_dict().items()}
    assert int8(graph.build(state, 32, 32), TRAINING.images) is not None
    assert logging.getLogger().handlers == before


def test_int8_is_a_quarter_of_float32(made):
    sizes = {p: made(export=p).path.stat().st_size for p in ("float32", "int8")}
    assert sizes["int8"] < 12e6 < 40e6 < sizes["float32"] < 48e6


def test_gate_keeps_float32_and_says_so(trained, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(exporting, "GATE", -1.1)  # no file passes it
    done = exported(trained, tmp_path, export="int8")
    assert done.predictor.manifest.precision == "float32"
    assert "float32 is kept" in caplog.text


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_of_many_validation_pictures_some_decide_and_the_chosen_file_answers_all_once(
    trained, tmp_path, monkeypatch, precision
):
    asked = []

    def counting(predictor, pictures, *rest):
        asked.append((predictor.manifest.precision, len(pictures)))
        return evaluate.predict_features(predictor, pictures, *rest)

    monkeypatch.setattr(exporting, "MOST_JUDGED", 7)
    monkeypatch.setattr(exporting, "predict_features", counting)
    done = exported(trained, tmp_path, export=precision)
    gate = JUDGED_BESIDES if precision == "int8" else 0
    chosen = done.predictor.manifest.precision
    assert asked[: len(done.candidates)] == [(each.precision, 7 + gate) for each in done.candidates]
    assert asked[len(done.candidates)] == (chosen, len(VALIDATION) - 7)
    again = evaluate.score_dataset(done.predictor, VALIDATION)
    np.testing.assert_allclose(done.evaluation.logits, again.logits, atol=1e-4)
    np.testing.assert_allclose(done.evaluation.unknown, again.unknown, atol=1e-3)
    assert done.evaluation.accuracy == again.accuracy and done.evaluation.interval == again.interval
    assert done.predictor.manifest.metrics["accuracy"] == pytest.approx(again.accuracy)


def test_expected_seconds_grow_with_what_is_asked(monkeypatch):
    network, few, many = random_network(), colours(30), colours(3000)
    parts = []

    def features(predictor, pictures, batch):
        parts.append(batch)
        return evaluate.predict_features(predictor, pictures, batch)

    monkeypatch.setattr(exporting, "predict_features", features)
    monkeypatch.setattr(exporting, "_seconds", lambda call: len(call()[0]) / 1000)  # a busy machine cannot be asked
    monkeypatch.setattr(exporting, "usable_cores", lambda: 4)

    def expected(training, validation):
        return exporting.expected_seconds(network, TINY, training, validation)

    least = expected(few, few)
    assert exporting.FIXED_SECONDS < least < expected(many, few) < expected(many, many)
    assert set(parts) == {8}  # one part of 30 or 32 pictures for each core, as the file is asked afterwards


@pytest.mark.parametrize(
    ("settings", "judged"),
    [({}, 3000), ({"minutes": 1}, 1000), ({"minutes": 4}, 2000), ({"minutes": 60}, 3000), ({"trains": "head"}, 1000)],
)
def test_quick_trainings_ask_fewer_pictures_at_the_gate(settings, judged):
    assert exporting._judged(replace(TINY, **settings), colours(4000)) == judged
    assert exporting._judged(replace(TINY, **settings), colours(500)) == 500


def test_single_validation_picture_does_not_decide_what_is_kept():
    few, many = VALIDATION.take(range(10)), colours(1200)
    pictures = exporting._with_training_pictures(few, many)
    assert len(pictures) == exporting.JUDGED and (pictures.images[:10] == few.images).all()
    assert (pictures.counts() > 250).all()
    assert exporting._with_training_pictures(many, TRAINING) is many
    exact, close, far = (exporting.Candidate("", *[None] * 4, 0.0, judged, 0, 0.0) for judged in (0.9, 0.898, 0.896))
    assert exporting._choose([exact, close], 10, 990) is close
    assert exporting._choose([exact, far], 10, 990) is exact


def test_file_that_differs_from_the_network_is_not_published(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "MEAN", (0.5, 0.5, 0.5))  # as if the graph normalised otherwise than training
    with pytest.raises(TrainingError, match="differs from the trained network"):
        exported(trained, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_golden_pictures_are_nobodys_photos(made):
    import base64

    from pupila import images

    golden = made(export="float32").predictor.manifest.golden
    decoded = [images.decode(base64.b64decode(picture.png), 32) for picture in golden]
    assert not any((picture == own).all() for picture in decoded for own in [*TRAINING.images, *VALIDATION.images])


def test_file_with_a_spoilt_middle_is_refused(made, tmp_path):
    path = tmp_path / "model.onnx"
    data = bytearray(made(export="float32").path.read_bytes())
    weights = np.frombuffer(data, dtype=np.uint8, offset=len(data) // 2, count=4_000_000)
    weights[:] = np.random.default_rng(0).integers(0, 256, len(weights), dtype=np.uint8)
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.onnx: .*(golden set|damaged)"):
        Predictor.load(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file_is_refused(made, tmp_path, share):
    path = tmp_path / "model.onnx"
    data = made(export="float32").path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError, match=r"model\.onnx"):
        Predictor.load(path)


def test_unwritable_place_is_named(trained, tmp_path):
    with pytest.raises(TrainingError, match="cannot be written"):
        exported(trained, tmp_path / "missing")


def test_answers_do_not_depend_on_batch_mates(made):
    predictor = made(export="int8").predictor
    pictures = noise(9).images
    alone = np.concatenate([predictor.logits(picture[None]) for picture in pictures])
    assert np.allclose(predictor.logits(pictures), alone, atol=1e-5)


def test_published_file_is_sealed_against_any_changed_bit(made):
    data = made(export="float32").path.read_bytes()
    assert len(Predictor.from_bytes(data).manifest.sha256) == 64
    for place in (100, len(data) // 2, len(data) - 2):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(ModelError, match="damaged"):
            Predictor.from_bytes(bytes(damaged))


def test_framing_of_the_data_is_in_the_file_and_decodes(trained, tmp_path):
    splits = replace(SPLITS, framing="letterbox")
    done = export(trained, TINY, TRAINING, VALIDATION, tmp_path / "model.onnx", splits=splits, origin="none")
    wide = images.encode_png(np.full((16, 32, 3), 200, dtype=np.uint8))
    pixels = done.predictor.decode(wide)
    assert done.predictor.manifest.framing == "letterbox"
    assert (pixels[8:24] == 200).all() and (pixels[:8] == BARS).all()
