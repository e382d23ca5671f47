"""Those who come from version 0.1 find that their files and their commands still work, as the changelog says.

tests/version1.zip was made by version 0.1 (commit 2a16a34): a model file (a small network), a table of doubtful labels,
a recipe with every key that there was, a file of API keys, a finished run without its large files, one that was killed
in its second epoch (the tensors of its checkpoint left out), and a batch prediction that was killed.
"""

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from server_kit import picture, serving
from test_documents import ROOT
from test_documents_commands import Told, commands, mistakes
from training_kit import write_photos

import pupila
from pupila.cli import main
from pupila.recipe import load_recipe

NOTES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("### Coming from 0.1")[2].partition("\n## ")[0]
COMMANDS = """
    pupila train DATA --recipe quick --set epochs=3 --weights none --epochs 3 --minutes 1 --seed 1 --size 32
    pupila train DATA --labels fixes.csv --name x --runs runs --checkpoint-seconds 60
    pupila train DATA --log tensorboard --outliers others --explain --workers 2 --cluster --resume
    pupila sweep classic-four DATA --grid epochs=1,2 --recipe quick --set seed=1 --seeds 2 --cluster
    pupila sweep DATA --jobs 2 --size 32 --name x --runs runs --checkpoint-seconds 60 --json
    pupila data DATA --report page.html --size 32 --organise out --validation-fraction 0.1 --equal-validation --seed 1
    pupila data DATA --json
    pupila mislabelled DATA out --model m.onnx --weights bundled --size 32 --most 100 --json
    pupila evaluate m.onnx DATA --split test --report folder --json
    pupila compare a.onnx b.onnx DATA --split all --report page.html --json
    pupila drift m.onnx kept --last 100 --reference DATA --json
    pupila predict m.onnx a.jpg b.jpg --top 3 --json
    pupila predict m.onnx photos --out x.csv --kaggle --cluster
    pupila predict m.onnx photos --sort-into out --link --min-confidence 0.5 --apply
    pupila reproduce runs/x --data DATA --json
    pupila recipes quick
    pupila recipes --keys
    pupila inspect m.onnx --json
    pupila models list m.onnx --json
    pupila models activate m.onnx 0123abcd
    pupila models rollback m.onnx
    pupila feedback show kept --json
    pupila feedback delete kept --request r1 --picture 0
    pupila feedback delete kept --everything
    pupila serve m.onnx --host 127.0.0.1 --port 3000 --workers 1
    pupila serve m.onnx --max-waiting 1 --max-buffered-bytes 1 --max-parts 1 --max-part-bytes 1 --max-body-bytes 1
    pupila serve --max-pixels 1 --api-keys keys.txt --cors-origins https://a.example --access-log log --traces http://a:1
    pupila serve --cluster
    python -m pupila --version
"""
"""Every command of version 0.1 with all its options but those of other names, and those that the notes call gone."""
RENAMED = {
    "--deadline": "--request-timeout", "--idle": "--keepalive-timeout", "--drain": "--graceful-timeout",
    "--connections": "--max-connections", "--collect": "--feedback-dir", "--collect-max-bytes": "--feedback-max-bytes",
    "--feedback": "--feedback-dir",
}  # fmt: skip


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of version 0.1, and the pictures that they are about."""
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(Path(__file__).with_name("version1.zip")) as archive:
        archive.extractall(folder)
    write_photos(folder / "photos", 45)
    return folder


@pytest.mark.parametrize("line", COMMANDS.strip().splitlines())
def test_command_of_before_is_taken_with_all_its_options(line: str) -> None:
    (words,) = commands(line.strip())
    assert mistakes([Told("version 0.1", words)]) == []


@pytest.mark.parametrize(("before", "now"), RENAMED.items())
def test_old_name_of_an_option_is_taken_but_not_shown_and_the_notes_name_the_new_one(before: str, now: str) -> None:
    command = "train" if before == "--feedback" else "serve"
    assert mistakes([Told("the notes", ("pupila", command, "photos", name, "31")) for name in (before, now)]) == []
    assert before not in CliRunner().invoke(main, [command, "--help"]).output.split()
    assert f"`{before}`" in NOTES and (f"`{now}`" in NOTES or f"{command} {now}`" in NOTES)


def test_model_file_of_before_answers_and_is_inspected(old: Path) -> None:
    (old / "red.png").write_bytes(picture("red"))
    assert pupila.load(old / "colours.onnx").predict(old / "red.png").category == "red"
    shown = CliRunner().invoke(main, ["inspect", str(old / "colours.onnx")])
    assert shown.exit_code == 0 and "red, green, blue, white" in shown.output
    scored = CliRunner().invoke(main, ["evaluate", str(old / "colours.onnx"), str(old / "photos"), "--json"])
    assert json.loads(scored.output)["n"] == 45


def test_keys_of_before_predict_and_send_feedback_and_no_more(old: Path) -> None:
    settings = json.dumps({"port": 0, "workers": 1, "api_keys": (old / "keys.txt").read_text().splitlines()})
    secrets = json.loads((old / "secrets.json").read_text())
    with serving(old / "colours.onnx", old / "log", settings) as running:
        for name in ("shop", "kiosk"):
            headers = {"Authorization": f"Bearer {secrets[name]}"}
            answer = requests.post(
                f"{running.url}/predict", files={"file": picture("blue")}, headers=headers, timeout=60
            )
            assert answer.json()["predictions"][0]["category"] == "blue"
            assert requests.get(f"{running.url}/metrics", headers=headers, timeout=60).status_code == 403
        assert requests.get(f"{running.url}/card", timeout=60).status_code == 401
    listed = CliRunner().invoke(main, ["keys", "list", str(old / "keys.txt")]).output
    assert re.search(r"kiosk .*2\.5", listed) and "shop" in listed


def test_recipe_of_before_is_read_with_every_key(old: Path) -> None:
    recipe = load_recipe(old / "mine.toml")
    assert (recipe.name, recipe.minutes, recipe.flip_average, recipe.progressive) == ("mine", 3.0, "on", ((32, 0.5),))


def test_run_of_before_is_compared_and_told_to_be_finished(old: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(old / "runs" / "photos-standard", runs / "photos-standard")
    shutil.copy(old / "colours.onnx", runs / "photos-standard" / "model.onnx")
    listed = CliRunner().invoke(main, ["compare", "--runs", str(runs)])
    assert listed.exit_code == 0 and "photos-standard" in listed.output, listed.output
    resumed = CliRunner().invoke(main, ["train", "--resume", "--name", "photos-standard", "--runs", str(runs)])
    assert resumed.exit_code == 1 and "is finished" in resumed.output


def test_training_that_version_1_left_unfinished_is_refused_with_the_fix(old: Path) -> None:
    options = ["--runs", str(old / "runs"), "--name", "photos-cut"]
    done = CliRunner().invoke(main, ["train", str(old / "photos"), *options, "--resume"])
    assert done.exit_code == 1 and done.output.count("Traceback") == 0
    assert "or another --name." in done.output.splitlines()[-1]


def test_table_of_doubtful_labels_of_before_is_taken_by_training(old: Path) -> None:
    photo = next((old / "photos" / "red").iterdir()).name
    with (old / "doubts" / "fixes.csv").open("a") as table:  # nothing was doubtful
        table.write(f"red/{photo},red,green,0.9\n")
    options = ["--labels", str(old / "doubts" / "fixes.csv"), "--weights", "none", "--epochs", "1", "--explain"]
    done = CliRunner().invoke(main, ["train", str(old / "photos"), *options])
    assert done.exit_code == 0 and "changed the labels of 1 picture." in done.output, done.output


def test_batch_job_of_before_begins_anew(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old)
    assert list(old.glob("answers.csv.*/job.json")) and not (old / "answers.csv").exists()
    done = CliRunner().invoke(main, ["predict", "colours.onnx", "photos", "--out", "answers.csv"])
    assert done.exit_code == 0, done.output
    assert len((old / "answers.csv").read_text().splitlines()) == 46
