"""What training starts from and on: weights of runs, models and files, a sample, what is held out, and the framing."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from process_kit import interrupted, printed
from training_kit import TINY, colours, write_photos

from pupila.data import Dataset, Splits
from pupila.errors import DataError, ModelError, TrainingError
from pupila.predictor import Predictor
from pupila.training.loop.head import LONG, choose_framing
from pupila.training.loop.resnet import ResNet18
from pupila.training.prepare import prepare, training_split
from pupila.training.run_folder import TrainingData
from pupila.training.train import TrainJob, train
from pupila.training.weights import Start, read_weights, save_backbone, starting_network, weights_file


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(7)
    return ResNet18(4).state_dict()


@pytest.fixture(scope="module")
def run(state, tmp_path_factory):
    """A run's folder: its model file, which nobody reads here, and its trained weights."""
    folder = tmp_path_factory.mktemp("runs") / "photos-standard"
    folder.mkdir()
    network = ResNet18(4)
    network.load_state_dict(state)
    save_backbone(network, folder / "backbone.safetensors")
    (folder / "model.onnx").write_bytes(b"rounded")
    return folder


def test_run_its_model_and_its_weights_name_the_same_start(run, state):
    found = [starting_network(str(path), 3, 0) for path in (run, run / "model.onnx", run / "backbone.safetensors")]
    digest = hashlib.sha256((run / "backbone.safetensors").read_bytes()).hexdigest()[:12]
    assert {start.origin for start in found} == {f"backbone.safetensors {digest}"}
    for start in found:
        own = start.network.state_dict()
        rounded = {name: value.half().float() if value.is_floating_point() else value for name, value in state.items()}
        assert all(torch.equal(own[name], rounded[name]) for name in own if not name.startswith("fc."))


@pytest.mark.parametrize("name", ["", "model.onnx"])
def test_run_without_trained_weights_says_what_to_give(tmp_path, name):
    (tmp_path / "model.onnx").write_bytes(b"alone")
    with pytest.raises(ModelError, match=r"there is no backbone\.safetensors with it\. Give the folder of a run, or"):
        weights_file(tmp_path / name)


def test_head_is_new_even_for_as_many_classes_and_the_seed_alone_decides_it(state, tmp_path):
    torch.save(state, tmp_path / "whole.pth")
    starts = [starting_network(str(tmp_path / "whole.pth"), 4, seed).network for seed in (0, 0, 1)]
    assert not torch.equal(starts[0].fc.weight, state["fc.weight"])
    assert torch.equal(starts[0].fc.weight, starts[1].fc.weight)
    assert not torch.equal(starts[0].fc.weight, starts[2].fc.weight)
    assert torch.equal(starts[0].conv1.weight, starts[2].conv1.weight)
    assert torch.equal(starts[0].conv1.weight, state["conv1.weight"])


def test_weights_from_before_batches_were_counted_and_in_half_precision_are_read(state, tmp_path):
    older = {name: value.half() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(older, tmp_path / "older.pth")
    network = starting_network(str(tmp_path / "older.pth"), 2, 0).network
    assert network.conv1.weight.dtype == torch.float32
    assert torch.equal(network.conv1.weight, state["conv1.weight"].half().float())


def without(name):
    return lambda state: state.pop(name)


def reshaped(name, *sides):
    return lambda state: state.update({name: torch.zeros(sides)})


def deeper(state):
    """ResNet-34 has every tensor of ResNet-18, and further blocks."""
    state.update({f"layer1.2.{name}": value.clone() for name, value in state.items() if name.startswith("conv")})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without("layer3.0.downsample.0.weight"), r"layer3\.0\.downsample\.0\.weight .*\(1 such\)"),
        (reshaped("conv1.weight", 64, 3, 3, 3), r"conv1\.weight .*\(1 such\)"),
        (reshaped("layer4.1.bn2.running_var", 256), r"layer4\.1\.bn2\.running_var .*\(1 such\)"),
        (deeper, r"layer1\.2\.conv1\.weight .*\(1 such\)"),
        (dict.clear, r"conv1\.weight .*\(100 such\)"),
    ],
)
def test_weights_of_another_network_name_the_first_that_is_wrong(state, tmp_path, change, named):
    other = {name: value.half() for name, value in state.items()}
    change(other)
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=rf"^other\.pth [0-9a-f]{{12}}: is not a ResNet-18: {named}"):
        starting_network(str(tmp_path / "other.pth"), 2, 0)


@pytest.mark.parametrize("content", [{"state_dict": {"a": torch.zeros(1)}}, [torch.zeros(1)], torch.zeros(2), {"a": 3}])
def test_file_that_is_no_plain_state_dict_says_how_to_save_one(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ModelError, match=r"odd\.pth: is not a plain state dict\. Save it with: torch\.save"):
        read_weights(tmp_path / "odd.pth")


def counted(*counts, size=8):
    """So many pictures of each class; every picture holds its own number."""
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    images = np.zeros((len(labels), size, size, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    return Dataset(images, labels, tuple("abcdefghijkl"[: len(counts)]))


def splits_of(train, validation=None, **options):
    return Splits("made", train, validation, None, (), "0" * 64, **options)


def numbers(dataset):
    return [int(high) * 256 + int(low) for high, low in dataset.images[:, 0, 0, :2]]


@given(counts=st.lists(st.integers(2, 4), min_size=1, max_size=6), share=st.floats(0.001, 0.9), seed=st.integers(0, 99))
@settings(deadline=None)
def test_classes_of_two_and_three_pictures_are_on_both_sides(counts, share, seed):
    recipe = replace(TINY, validation_fraction=share, seed=seed)
    training, validation = training_split(splits_of(counted(*counts)), recipe)
    assert (training.counts() > 0).all() and (validation.counts() > 0).all()
    assert sorted(numbers(training) + numbers(validation)) == list(range(sum(counts)))


@given(
    counts=st.lists(st.integers(2, 60), min_size=1, max_size=6), share=st.floats(0, 1), seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None)
def test_sample_leaves_every_class_a_picture_on_each_side_however_rare_it_is(counts, share, seed):
    least, total = 2 * len(counts), sum(counts)
    count = least + int(share * (total - least))
    recipe = replace(TINY, sample=count, seed=seed)
    training, validation = training_split(splits_of(counted(*counts)), recipe)
    assert len(training) + len(validation) == count and not set(numbers(training)) & set(numbers(validation))
    taken = training.counts() + validation.counts()
    assert (training.counts() >= 1).all() and (validation.counts() >= 1).all()
    assert all(got <= have * count / total + 1 or got == 2 for got, have in zip(taken, counts, strict=True))


def test_sample_too_small_for_its_classes_says_what_to_ask_for():
    with pytest.raises(DataError, match=r"sample of 5 from 24 pictures of 3 classes\. Ask for 6 to 24"):
        training_split(splits_of(counted(8, 8, 8)), replace(TINY, sample=5))


def test_own_validation_split_is_taken_unless_a_sample_is():
    data, own = counted(20, 20), counted(3, 3)
    assert training_split(splits_of(data, own), TINY) == (data, own)
    assert training_split(splits_of(data, own), replace(TINY, sample=40)) == (data, own)  # that is all there are
    training, validation = training_split(splits_of(data, own), replace(TINY, sample=20))
    assert validation is not own and len(training) + len(validation) == 20


@pytest.fixture(scope="module")
def start(state):
    network = ResNet18(3)
    network.load_state_dict({**network.state_dict(), **{k: v for k, v in state.items() if not k.startswith("fc.")}})
    return Start(network, "a file")


def framed(squashed, boxed, start, aspect=2.0, **changes):
    """Choose between two readings of a data set; returns the framing and what was read besides the first."""
    read = []

    def reader(framing):
        read.append(framing)
        return splits_of(boxed, aspect=aspect, framing=framing)

    recipe = replace(TINY, validation_fraction=0.3, **changes)
    splits, chosen = choose_framing(reader, training_split, splits_of(squashed, aspect=aspect), recipe, start)
    assert chosen == replace(recipe, framing=splits.framing)
    return splits.framing, read


def blank(count=30):
    return replace(colours(count), images=np.full((count, 32, 32, 3), 90, np.uint8))


def test_framing_that_shows_more_is_taken_and_of_two_alike_the_squashed_one(start, caplog):
    assert framed(blank(), colours(30), start) == ("letterbox", ["letterbox"])
    assert "squash gives 0.333 and letterbox" in caplog.text and "letterbox is taken" in caplog.text
    assert framed(colours(30), blank(), start) == ("squash", ["letterbox"])
    assert framed(colours(30), colours(30), start) == ("squash", ["letterbox"])


@pytest.mark.parametrize(("aspect", "read"), [(LONG, ["letterbox"]), (LONG - 0.001, []), (1.0, [])])
def test_only_photos_that_are_clearly_not_square_are_read_twice(start, aspect, read):
    assert framed(colours(30), blank(), start, aspect) == ("squash", read)


def test_framing_that_was_asked_for_is_read_once_and_compared_with_nothing(start):
    assert framed(blank(), colours(30), start, framing="squash") == ("squash", [])
    assert framed(colours(30), blank(), start, framing="letterbox") == ("letterbox", ["letterbox"])


def test_identity_of_a_run_is_its_recipe_its_pictures_and_its_weights(tmp_path, run):
    photos = write_photos(tmp_path / "photos", 12)
    recipe = replace(TINY, validation_fraction=0.3)
    first, again, seed, weights = (
        prepare(TrainingData(str(photos)), changed).identity
        for changed in (recipe, recipe, replace(recipe, seed=1), replace(recipe, weights=str(run)))
    )
    assert first == again and first["weights"] == "none" and len(first["data"]) == 64
    assert seed["data"] == first["data"] and seed["recipe"] != first["recipe"]
    assert weights["weights"].startswith("backbone.safetensors ") and weights["data"] == first["data"]
    next(photos.rglob("*.png")).unlink()
    assert prepare(TrainingData(str(photos)), recipe).identity["data"] != first["data"]


def test_last_layer_alone_needs_trained_weights(tmp_path):
    with pytest.raises(TrainingError, match=r"trains=head builds on trained weights, and there are none"):
        prepare(TrainingData(str(tmp_path)), replace(TINY, trains="head"))


@pytest.mark.parametrize("budget", [{"epochs": 1}, {"minutes": 1.0}, {"minutes": 60.0}])
def test_first_model_is_served_while_training_goes_on_and_the_log_says_how(tmp_path, caplog, budget):
    caplog.set_level("INFO", "pupila")
    values = {"weights": "bundled", "epochs": 0, "max_epochs": 1, "trains": "all", **budget}
    versions = []
    job = TrainJob(TrainingData(str(write_photos(tmp_path / "my photos"))), replace(TINY, **values), tmp_path / "a run")
    model = train(job, watch=lambda _: versions.append(Predictor.load(job.folder / "model.onnx").version)).model
    starts = [line.split(" at ")[0].split(";")[0] for line in caplog.messages]
    assert starts.index("A first model is ready") < starts.index("last layer alone")
    said = next(line for line in caplog.messages if line.startswith("A first model is ready"))
    assert said.endswith(f": pupila serve '{model}'") and len(set(versions)) == 1
    assert Predictor.load(model).version not in versions


@pytest.mark.parametrize(
    ("said", "times", "left"),
    [
        ("A first model is ready", 1, "has a model file, and no checkpoint yet. Begin it anew with:"),
        ("examples/sec on", 2, "has a checkpoint, and a model file from before it. Go on with:"),
    ],
)
def test_training_stopped_after_its_first_model_says_what_is_there(tmp_path, said, times, left):
    values = ["weights=bundled", "max_epochs=1", "network_size=32", "batch_size=16", "progressive=[]"]
    line = ["train", write_photos(tmp_path / "photos"), "--minutes", 60, *(f"--set={value}" for value in values)]
    with interrupted(tmp_path, said, times, *line, "--name", "s") as process:
        process.join(300)
        assert process.exitcode == 130, printed(tmp_path)
    assert f"runs/s: {left} pupila train --resume --name s" in printed(tmp_path).splitlines()
    Predictor.load(tmp_path / "runs/s/model.onnx")
