"""The command line as a person uses it: from data to a model file and back, and what it says of mistakes."""

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from training_kit import colours

from pupila.cli import main
from pupila.errors import install_command

VALUES = ["batch_size=16", "network_size=32", "progressive=[]", "precision=float32", "export=float32"]
SMALL = ["--weights", "none", "--epochs", "2", *(word for value in VALUES for word in ("--set", value))]


def pupila(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders of 90 pictures, one of them broken."""
    root = tmp_path_factory.mktemp("photos") / "colours"
    data = colours(90)
    for number, (picture, label) in enumerate(zip(data.images, data.labels, strict=True)):
        path = root / data.classes[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (root / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """What `pupila train` printed, and the run folder that it left."""
    runs = tmp_path_factory.mktemp("runs")
    done = pupila("train", folder, "--runs", runs, "--name", "first", *SMALL)
    assert done.exit_code == 0, done.output
    return done.output, runs / "first"


def test_training_ends_with_the_two_closing_lines(run):
    lines = run[0].splitlines()
    closing = next(number for number, line in enumerate(lines) if line.startswith("loss "))
    assert ", train acc " in lines[closing] and ", valid acc " in lines[closing]
    assert lines[closing + 1].endswith(" examples/sec on cpu")


def test_run_folder_holds_all_that_is_promised(run):
    promised = {
        "recipe.json",
        "metrics.jsonl",
        "backbone.safetensors",
        "model.onnx",
        "curves.png",
    }
    left = {path.name for path in run[1].iterdir()}
    assert promised | {"report.html"} <= left and "checkpoint.safetensors" not in left


def test_metrics_have_one_line_an_epoch(run):
    rows = [json.loads(line) for line in (run[1] / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]


def test_unreadable_picture_is_listed_and_skipped(run):
    assert "skipped 1 unreadable" in run[0] and "red/broken.jpg" in run[0]


def test_evaluate_prints_accuracy_first_as_json(run, folder):
    done = pupila("evaluate", run[1] / "model.onnx", folder, "--json")
    result = json.loads(done.output.splitlines()[-1])
    assert list(result)[:2] == ["accuracy", "n"]
    assert (result["n"], result["split"]) == (9, "held out") and "training held out" in result["caution"]


def test_evaluate_prints_a_line_a_class(run, folder):
    output = pupila("evaluate", run[1] / "model.onnx", folder).output
    assert all(f"\n{name} " in output for name in ("red", "green", "blue"))


def test_evaluate_says_that_the_model_was_trained_on_these_pictures(run, folder):
    done = pupila("evaluate", run[1] / "model.onnx", folder, "--split", "all")
    assert "It was trained on pictures among these" in done.output and "n = 90" in done.output


def test_evaluate_says_which_splits_there_are(run, folder):
    done = pupila("evaluate", run[1] / "model.onnx", folder, "--split", "test")
    assert done.exit_code == 1 and "has no test part" in done.output


def test_inspect_shows_the_manifest(run):
    manifest = json.loads(pupila("inspect", run[1] / "model.onnx", "--json").output)
    assert manifest["classes"] == ["blue", "green", "red"] and manifest["data"]["source"] == "colours"


def test_predict_answers_good_pictures_and_explains_bad_ones(run, folder):
    done = pupila(
        "predict", run[1] / "model.onnx", folder / "red" / "0.png", folder / "red" / "broken.jpg", folder / "no.png"
    )
    good, broken, missing = done.output.splitlines()
    assert "0.png: " in good and "cut off or damaged" in broken and "No such file" in missing
    assert done.exit_code == 1


def test_head_alone_is_fitted_on_given_weights(run, folder, tmp_path):
    weights = run[1] / "backbone.safetensors"
    done = pupila("train", folder, "--runs", tmp_path, *SMALL, "--weights", weights, "--set", "trains=head")
    assert done.exit_code == 0, done.output
    assert "starting from backbone.safetensors" in done.output


def test_head_alone_needs_weights(folder, tmp_path):
    done = pupila("train", folder, "--runs", tmp_path, *SMALL, "--set", "trains=head")
    assert done.exit_code == 1 and "builds on trained weights" in done.output


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["train", "no-such-folder"], "no-such-folder", 1),
        (["train", "digits", "--set", "epoch=3"], "Did you mean 'epochs'?", 1),
        (["train", "digits", "--recipe", "quik"], "Did you mean 'quick'?", 1),
        (["train"], "Missing argument 'DATA'", 2),
        (["train", "digits", "--epoch", "3"], "--epochs", 2),
        (["evaluate", "no.onnx", "digits"], "no.onnx: cannot be read", 1),
        (["inspect", "Makefile"], "is damaged or not an ONNX file", 1),
        (["serve", "no.onnx", "--port", "99999999"], "port", 1),
        (["serve", "--port", "0", "--access-log", "no-such-folder/log"], "Choose another --access-log", 1),
        (["recipes", "clasic"], "Did you mean 'classic'?", 1),
    ],
)
def test_mistake_is_named_with_its_fix(arguments, words, code, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    done = pupila(*arguments)
    assert words in done.output and done.exit_code == code
    assert "Traceback" not in done.output


def test_explain_gives_a_reason_for_each_choice_and_trains_nothing(tmp_path):
    said = pupila("train", "digits", "--weights", "none", "--explain", "--runs", str(tmp_path / "runs")).output
    assert "batch_size = 64: fewer than 5,000 pictures" in said
    assert not (tmp_path / "runs").exists()


def test_recipes_are_listed_and_shown():
    assert "classic" in pupila("recipes").output
    assert "lr_period = 4" in pupila("recipes", "classic").output


def test_training_without_torch_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None; from pupila.cli import main; main(['train', 'digits'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"Install it with: {install_command('train')}")


def test_python_dash_m_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "pupila", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("pupila, version ")


def test_name_that_steers_a_terminal_is_written_out_in_an_error(tmp_path):
    done = CliRunner().invoke(main, ["data", str(tmp_path / "red\x1b[31m")])
    assert done.exit_code == 1
    assert "red\\x1b[31m: there is no such file" in done.output


PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


def test_predict_without_a_model_uses_the_bundled_one():
    done = pupila("predict", PHOTOS / "horse.jpg", PHOTOS / "ship.jpg")
    assert [line.split(": ")[1].split()[0] for line in done.output.splitlines()] == ["horse", "ship"]


def test_predict_takes_the_folder_of_a_run(run, folder):
    done = pupila("predict", run[1], folder / "red" / "0.png")
    assert done.exit_code == 0 and done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("data", "code", "text"), [(PHOTOS / "frog.jpg", 0, "-: frog "), (None, 1, "-: The picture is")]
)
def test_predict_reads_standard_input(data, code, text):
    done = CliRunner().invoke(main, ["predict", "-"], input=data.read_bytes() if data else b"")
    assert done.exit_code == code and done.output.startswith(text)


def test_predict_prints_unknown(tmp_path):
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")
    done = pupila("predict", tmp_path / "white.png")
    assert done.output.endswith(" (unknown: it looks like none of the classes)\n")
    assert json.loads(pupila("predict", tmp_path / "white.png", "--json").output)["unknown"] is True


def test_predict_takes_no_time_by_the_square_of_its_paths():
    started = time.process_time()
    done = pupila("predict", *(f"nowhere/{number}.png" for number in range(8_000)))
    assert done.output.count("\n") == 8_000 and time.process_time() - started < 6


def test_model_alone_is_no_picture():
    done = pupila("predict", "runs/x/model.onnx")
    assert done.exit_code == 2 and "Give pictures or folders after it" in done.output


def test_inspect_tells_people_what_they_want_to_know(run):
    output = pupila("inspect", run[1] / "model.onnx").output
    assert "classes       3: blue, green, red\n" in output and "2 epochs, seed 0" in output
    assert "95 % interval" in output and "{" not in output


def test_help_lists_whole_sentences_and_examples():
    output = " ".join(pupila("--help").output.split())
    assert (
        output.count("...") == 1
        and "Verify MODEL and show what it knows, how well, and what it was made from." in output
    )
    assert "Examples:\n    pupila train photos\n" in pupila("train", "--help").output


def test_epoch_line_says_how_long_an_epoch_takes_and_what_is_left(run):
    first, last = [line for line in run[0].splitlines() if line.startswith("epoch ")]
    assert re.search(r" s an epoch, \d:\d\d left$", first) and last.endswith(" s an epoch, 0:00 left")


@pytest.mark.parametrize("weights", ["folder", "model"])
def test_training_starts_from_a_run_of_ones_own(run, folder, weights):
    path = run[1] if weights == "folder" else run[1] / "model.onnx"
    options = [*SMALL[2:], "--epochs", "1", "--explain"]
    done = pupila("train", folder, "--weights", path, *options)
    assert done.exit_code == 0 and "starting from backbone.safetensors" in done.output, done.output


def test_short_names_of_keys_are_taken(folder):
    done = pupila("train", folder, *SMALL, "--set", "lr=0.5", "--explain")
    assert "learning_rate = 0.5: the recipe says so." in done.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [("train --recipe qu", "plain,quick"), ("train --recipe s", "plain,standard"), ("train d", "plain,digits")],
)
def test_tab_completion_knows_recipes_and_data_sets(words, expected):
    env = {"_PUPILA_COMPLETE": "bash_complete", "COMP_WORDS": f"pupila {words}", "COMP_CWORD": str(len(words.split()))}
    done = CliRunner().invoke(main, [], env=env, prog_name="pupila")
    assert expected in done.output.splitlines() and "file," in done.output


def test_missing_extra_is_installed_by_a_command_for_this_checkout():
    command = install_command("train")
    assert command.endswith((f" -e '{Path(__file__).parents[1]}[train]'", " -e '.[train]'"))


def test_excel_table_opens_right_where_numbers_have_a_decimal_comma(tmp_path):
    done = pupila("predict", PHOTOS, "--out", tmp_path / "fotos.csv", "--excel")
    assert done.exit_code == 0, done.output
    data = (tmp_path / "fotos.csv").read_bytes()
    rows = list(csv.DictReader(data.decode("utf-8-sig").splitlines(), delimiter=";"))
    assert data.startswith(b"\xef\xbb\xbf") and len(rows) == 5
    assert all(float(row["confidence"].replace(",", ".")) > 0.8 and "," in row["confidence"] for row in rows)
    refused = pupila("predict", PHOTOS, "--out", tmp_path / "fotos.jsonl", "--excel")
    assert refused.exit_code == 1 and "--excel makes a .csv file" in refused.output


def test_nothing_is_printed_twice_with_a_root_handler(folder, tmp_path):
    """The quantiser of ONNX Runtime gives the root logger a handler."""
    code = "import logging, sys; logging.basicConfig(level='INFO'); from pupila.cli import main; main(sys.argv[1:])"
    options = [*SMALL, "--explain", "--runs", str(tmp_path)]
    command = [sys.executable, "-c", code, "train", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "pictures to train on" in done.stdout and "INFO:pupila" not in done.stderr
