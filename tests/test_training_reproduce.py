"""A run made again: the same weights, or a sentence on what differs."""

import json
import shutil

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file
from server_kit import write_model
from training_kit import write_photos

from pupila.cli import main
from pupila.errors import TrainingError
from pupila.training.loop.checkpoint import check_identity
from pupila.training.loop.resnet import ResNet18

pytestmark = pytest.mark.usefixtures("narrow")


def pupila(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the last layer alone on a small folder: seconds, and all of a run's files."""
    root = tmp_path_factory.mktemp("again")
    write_photos(root / "photos", 60)
    weights = root / "backbone.safetensors"
    save_file({k: v for k, v in ResNet18(3).state_dict().items() if not k.startswith("fc.")}, weights)
    done = pupila(
        "train", root / "photos", "--weights", weights, "--epochs", 1, "--runs", root, "--name", "run",
        *(f"--set={pair}" for pair in ("trains=head", "network_size=32", "progressive=[]", "export=float32")),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return root / "run"


def test_same_run_gives_the_same_weights_and_leaves_nothing_behind(finished):
    before = sorted(path.name for path in finished.parent.iterdir())
    done = pupila("reproduce", finished)
    assert done.exit_code == 0, done.output
    assert "The same weights and scores came out, bit for bit." in done.output
    assert sorted(path.name for path in finished.parent.iterdir()) == before


def changed(finished, tmp_path, name, /, **values):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    old = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**old, **values}))
    return folder


@pytest.mark.parametrize("text", ["{", "[1]", "", None])
def test_recipe_that_is_none_is_named(finished, tmp_path, text):
    folder = changed(finished, tmp_path, "recipe.json")
    (folder / "recipe.json").unlink() if text is None else (folder / "recipe.json").write_text(text)
    done = pupila("reproduce", folder)
    assert done.exit_code == 1 and "recipe.json: is no recipe of a run" in done.output


@pytest.mark.parametrize(
    "values",
    [
        {"source": ["photos"]}, {"size": "large"}, {"size": True}, {"labels": 5}, {"threads": 1.5}, {"threads": None},
        {"identity": [1]}, {"finished": "yes"}, {"outliers": {}}, {"unheard of": 1},
    ],
)  # fmt: skip
def test_record_of_other_types_is_named(finished, tmp_path, values):
    done = pupila("reproduce", changed(finished, tmp_path, "run.json", **values))
    assert (
        done.exit_code == 1 and f"run.json: is no record of a run (it has no valid {next(iter(values))})" in done.output
    )


@pytest.mark.parametrize("identity", [[1], "text", {"recipe": [1]}])
def test_identity_of_other_types_is_that_of_another_run(tmp_path, identity):
    with pytest.raises(TrainingError, match="is of another run"):
        check_identity(tmp_path, {"recipe": {"seed": 1}, "data": "f"}, identity)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"metrics": {}}, "says no accuracy"), ({"data": {"feedback": 5}}, "no valid data.feedback"),
        ({"data": {"outliers": {"pictures": "1", "fingerprint": "a"}}}, "no valid data.outliers"),
        ({"data": {"teacher": {"version": 5}}}, "no valid data.teacher"),
    ],
)  # fmt: skip
def test_model_file_that_says_too_little_is_named_before_anything_is_trained(finished, tmp_path, said, why):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    write_model(folder / "model.onnx", **said)
    done = pupila("reproduce", folder)
    assert done.exit_code == 1 and why in done.output, done.output
    assert "epoch" not in done.output


def test_another_seed_and_other_threads_are_named(finished, tmp_path):
    folder = changed(finished, tmp_path, "recipe.json", seed=5)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "threads": 99}))
    done = pupila("reproduce", folder)
    assert done.exit_code == 1
    assert "Something else came out" in done.output and "and was 99." in done.output
    assert "seed is 5 and was 0" in done.output


def test_changed_data_is_named_and_nothing_is_trained(finished, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(finished.parent / "photos", photos)
    (photos / "red" / "0.png").unlink()
    done = pupila("reproduce", finished, "--data", photos)
    assert done.exit_code == 1 and "is not the data that the run was trained on" in done.output
    assert "epoch" not in done.output


def test_folder_that_is_no_run_is_named(tmp_path):
    done = pupila("reproduce", tmp_path)
    assert done.exit_code == 1 and "run.json: is no record of a run" in done.output
