"""Nothing that was trained is lost or replaced: kills, Ctrl-C, resumes, names, and two trainings of one folder.

PUPILA_KILLS=300 kills so many processes at random moments; a few are killed by default.
"""

import contextlib
import itertools
import json
import os
import random
import re
import shlex
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from feedback_kit import ask_and_correct, check_acknowledged, check_files
from process_kit import OUTPUT, ended, interrupted, printed, started, wait_for
from server_kit import wait_until, write_model
from training_kit import write_photos

import pupila
from pupila.cli import main
from pupila.feedback import Store
from pupila.training.run_folder import left_by

pytestmark = pytest.mark.usefixtures("narrow")

KILLS = int(os.environ.get("PUPILA_KILLS", "4"))
TINY = [
    "--set", "weights=none", "--set", "batch_size=16", "--set", "network_size=32", "--set", "progressive=[]",
    "--set", "export=float32", "--set", "precision=float32",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 60)


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_runs_count_up_and_an_ended_one_is_never_touched(photos, there):
    first = invoke("train", photos, *TINY, "--epochs", 1, "--name", "a b")
    assert first.exit_code == 0, first.output
    assert shlex.split(first.output.splitlines()[-1])[-1] == "runs/a b/model.onnx"
    before = (there / "runs/a b/model.onnx").read_bytes()
    second = invoke("train", photos, *TINY, "--epochs", 1, "--name", "a b")
    assert "runs/a b is there already: this run goes to runs/a b-2" in second.output
    assert (there / "runs/a b/model.onnx").read_bytes() == before and (there / "runs/a b-2/model.onnx").exists()
    assert not list(there.glob("runs/*/checkpoint.safetensors")) and not list(there.glob("runs/*/.lock"))
    assert "is finished" in invoke("train", photos, *TINY, "--epochs", 1, "--name", "a b", "--resume").output
    assert "there is no unfinished run" in invoke("train", "--resume").output


def test_ctrl_c_before_the_first_checkpoint_goes_on_where_it_was(photos, there):
    run = there / "runs/s"
    with started(there, "train", photos, *TINY, "--epochs", 6, "--name", "s") as process:
        wait_for((run / "metrics.jsonl").exists, process, there)
        os.kill(process.pid, signal.SIGINT)
        ended(process, there)
    done = len(rows(run))
    assert 1 <= done < 6 and (run / "model.onnx").exists() and (run / "checkpoint.safetensors").exists()
    other = write_photos(there / "other", 30, ("cat", "dog"))
    model = (run / "model.onnx").read_bytes()
    for more in (["--name", "s", other], ["--name", "s", photos, "--epochs", 9], ["--name", "s", photos, "--seed", 3]):
        refused = invoke("train", *more, *TINY, "--resume")
        assert refused.exit_code == 1 and "is of another run (" in refused.output
        assert (run / "model.onnx").read_bytes() == model
    again = invoke("train", "--resume")
    assert again.exit_code == 0, again.output
    assert f"epoch {done + 1} at" in again.output and f"epoch {done} at" not in again.output
    assert [row["epoch"] for row in rows(run)] == [1, 2, 3, 4, 5, 6]


def test_ctrl_c_before_a_training_begins_says_that_there_is_nothing_to_go_on_with(photos, there):
    with interrupted(there, "pictures to train on", 1, "train", photos, *TINY, "--epochs", 1, "--name", "s") as process:
        process.join(300)
        assert process.exitcode == 130, printed(there)
    said = "Stopped before there was anything to go on with. Give the same command again."
    assert said in printed(there).splitlines() and not (there / "runs/s").exists()


def test_ctrl_c_while_the_model_file_is_written_waits_for_it(photos, there):
    run = there / "runs/s"
    with interrupted(there, "examples/sec on", 1, "train", photos, *TINY, "--epochs", 1, "--name", "s") as process:
        output = ended(process, there)
    assert "It ends when the model file and the report are written. A second Ctrl-C stops it at once." in output
    assert finished(run) and (run / "report.html").exists() and not (run / "checkpoint.safetensors").exists()


def test_second_ctrl_c_while_the_model_file_is_written_says_how_to_go_on(photos, there):
    line = ["train", photos, *TINY, "--epochs", 1, "--name", "a b", "--runs", "my runs"]
    with interrupted(there, "examples/sec on", 2, *line) as process:
        process.join(300)
        assert process.exitcode == 130, printed(there)
    again = "pupila train --resume --name 'a b' --runs 'my runs'"
    said = f"my runs/a b: has a checkpoint, and no model file yet. Go on with: {again}"
    assert {said, "pupila: stopped."} <= set(printed(there).splitlines())
    done = invoke(*shlex.split(again)[1:])
    assert done.exit_code == 0 and finished(there / "my runs/a b"), done.output


@pytest.mark.usefixtures("there")
def test_what_a_stopped_training_has_left_is_told_from_its_files():
    run, again = Path("runs/s"), "pupila train --resume --name s"
    run.mkdir(parents=True)
    (run / "recipe.json").write_text("{}")
    assert left_by(run) == "Stopped before there was anything to go on with. Give the same command again."
    (run / "run.json").write_text('{"finished": false}')
    anew = f"Begin it anew with: {again}"
    assert left_by(run) == f"runs/s: has neither a model file nor a checkpoint yet. {anew}"
    (run / "model.onnx").touch()
    assert left_by(run) == f"runs/s: has a model file, and no checkpoint yet. {anew}"
    (run / "checkpoint.safetensors").touch()
    kinds = {60: "has a checkpoint, and a model file from before it.", -60: "has a checkpoint and a model file."}
    for age, kept in kinds.items():
        os.utime(run / "model.onnx", (time.time() - age, time.time() - age))
        assert left_by(run) == f"runs/s: {kept} Go on with: {again}"
    (run / "run.json").write_text('{"finished": true}')
    assert left_by(run) == "runs/s: is finished. Serve it with: pupila serve runs/s/model.onnx"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end_a_training_leaves_its_checkpoint(photos, there, number):
    run = there / "runs/s"
    with started(there, "train", photos, *TINY, "--epochs", 50, "--name", "s") as process:
        wait_for((run / "metrics.jsonl").exists, process, there)
        os.kill(process.pid, number)
        process.join(120)
        assert process.exitcode == -number and (run / "checkpoint.safetensors").exists()


def test_resume_without_a_checkpoint_says_that_it_begins_anew_and_replaces_no_other_run(photos, there):
    with started(there, "train", photos, *TINY, "--epochs", 2, "--name", "s") as process:
        wait_for((there / "runs/s/run.json").exists, process, there)
        process.kill()
        process.join(60)
    if (there / "runs/s/checkpoint.safetensors").exists():
        pytest.skip("it was faster than the kill")
    other = write_photos(there / "other", 30, ("cat", "dog"))
    refused = invoke("train", other, *TINY, "--epochs", 2, "--name", "s", "--resume")
    assert refused.exit_code == 1 and "the pictures are others" in refused.output
    again = invoke("train", "--resume", "--name", "s")
    assert again.exit_code == 0 and "was stopped before its first checkpoint, and begins anew" in again.output


def test_second_training_of_a_folder_is_told_by_which_process(photos, there):
    with started(there, "train", photos, *TINY, "--epochs", 200, "--name", "d") as process:
        wait_for((there / "runs/d/metrics.jsonl").exists, process, there)
        second = invoke("train", photos, *TINY, "--epochs", 200, "--name", "d", "--resume")
    assert second.exit_code == 1 and f"is being trained by process {process.pid}." in second.output
    assert "is being trained" not in invoke("train", "--resume", "--minutes", "0.01", "--name", "d").output


@pytest.mark.parametrize("name", ["../out", "/out", "..", ".", "a/../../b", "x\0y"])
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_names_stay_inside_runs(photos, there, command, name):
    done = invoke(command, photos, "--name", name, "--set", "weights=none")
    assert done.exit_code == 1 and "--name" in done.output and sorted(path.name for path in there.iterdir()) == []


def test_a_sweep_replaces_no_training(photos, there):
    assert invoke("train", photos, *TINY, "--epochs", 1, "--name", "a").exit_code == 0
    model = (there / "runs/a/model.onnx").read_bytes()
    for name in ("a", "b"):
        done = invoke("sweep", photos, *TINY, "--set", "epochs=1", "--grid", "lr=0.01", "--name", name)
        assert done.exit_code == 1 and f"runs/{name}: holds the model of a training" in done.output
        assert (there / f"runs/{name}/model.onnx").read_bytes() == model
        (there / "runs/b").mkdir(exist_ok=True)
        (there / "runs/b/model.onnx").write_bytes(model)


@pytest.mark.parametrize("option", ["--minutes=0", "--minutes=-1", "--epochs=0", "--epochs=-3", "--minutes=nan"])
def test_budgets_of_nothing_are_refused(photos, there, option):
    done = invoke("train", photos, option)
    assert done.exit_code == 1 and "must be above 0" in done.output and not (there / "runs").exists()


def test_run_of_this_folder_is_named_after_it(photos, there, monkeypatch):
    monkeypatch.chdir(photos)
    done = invoke("train", ".", *TINY, "--epochs", 1, "--runs", there / "runs", "--recipe", "standard")
    assert done.exit_code == 0 and (there / "runs/photos-standard/model.onnx").exists(), done.output


COMMANDS = {
    "train": ["train", "photos", *TINY, "--epochs", "2", "--checkpoint-seconds", "0"],
    "sweep": ["sweep", "photos", *TINY, "--set", "epochs=1", "--grid", "lr=0.01,0.02", "--checkpoint-seconds", "0"],
    "predict": ["predict", "model.onnx", "photos", "--out", "answers.csv"],
}


SERVE = ["serve", "model.onnx", "--port", "0", "--workers", "2", "--feedback-dir", "kept"]
CASES = list(zip(range(KILLS), itertools.cycle([*COMMANDS, "serve"]), strict=False))


@pytest.mark.parametrize(("number", "command"), CASES)
def test_kill_at_a_random_moment_loses_nothing(photos, tmp_path, number, command):
    draw = random.Random(number)
    if command == "serve":
        kill_servers(tmp_path, draw)
        return
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "model.onnx").symlink_to(Path(pupila.__file__).parent / "models/cifar10.onnx")
    done = False
    for _ in range(draw.randint(1, 3)):
        more = ["--resume"] if command == "train" and list(tmp_path.glob("runs/*/run.json")) else []
        with started(tmp_path, *COMMANDS[command], *more) as process:
            process.join(draw.uniform(0.1, 8))
            if process.is_alive():
                process.kill()
                process.join(60)
            done = process.exitcode == 0
        check_state(tmp_path)
        trained = command == "train" and any(map(finished, tmp_path.glob("runs/*")))
        if done or trained or (tmp_path / "answers.csv").exists():
            done = True
            break
    if not done:
        more = ["--resume"] if command == "train" and list(tmp_path.glob("runs/*/run.json")) else []
        with started(tmp_path, *COMMANDS[command], *more) as process:
            ended(process, tmp_path)
    check_state(tmp_path)
    if command == "train":
        (record,) = tmp_path.glob("runs/*/run.json")  # of photos-standard, or of -2 if that was killed without one
        run = record.parent
        assert [row["epoch"] for row in rows(run)] == [1, 2] and finished(run)
    if command == "predict":
        lines = (tmp_path / "answers.csv").read_text().splitlines()
        assert len(lines) == 61 and len(set(lines)) == 61


def finished(folder):
    record = folder / "run.json"
    return record.exists() and json.loads(record.read_text()).get("finished", False)


def check_state(folder):
    """Every model and checkpoint that has its name is whole, and so is every small file."""
    from safetensors import safe_open

    for model in folder.glob("runs/**/model.onnx"):
        pupila.load(model)
    for checkpoint in folder.glob("runs/**/checkpoint.safetensors"):
        with safe_open(checkpoint, "pt") as file:
            json.loads(file.metadata()["position"])
    for path in folder.glob("runs/**/*.json"):
        json.loads(path.read_text())


def kill_servers(folder, draw):
    """Kill a server with all its processes, often a worker before, while a client sends and corrects pictures."""
    write_model(folder / "model.onnx")
    (folder / OUTPUT).touch()
    acknowledged = {}
    for start in range(draw.randint(2, 4)):
        with asked(folder, start, acknowledged), started(folder, *SERVE) as process:
            time.sleep(draw.uniform(0, 4))  # it may not listen yet, or clear up what the one before has left
            workers = psutil.Process(process.pid).children()
            if workers and draw.random() < 0.5:
                os.kill(draw.choice(workers).pid, signal.SIGKILL)
                time.sleep(draw.uniform(0, 3))
            wait_until(lambda: os.getpgid(process.pid) == process.pid)
            os.killpg(process.pid, signal.SIGKILL)
            process.join(60)
        if (folder / "kept").exists():
            with contextlib.closing(Store(folder / "kept")) as store:
                check_acknowledged(store, acknowledged)
    before = len(acknowledged)
    with asked(folder, -1, acknowledged), started(folder, *SERVE) as process:
        wait_for(lambda: len(acknowledged) > before, process, folder, 60)
        os.kill(process.pid, signal.SIGTERM)
        ended(process, folder, 60)
    with contextlib.closing(Store(folder / "kept")) as store:
        check_acknowledged(store, acknowledged)
        check_files(store)


@contextlib.contextmanager
def asked(folder, start, acknowledged):
    """Send pictures, and corrections, to the server that is about to be started in a folder, until the block ends."""
    over = threading.Event()
    already = printed(folder).count("Listening on")

    def ask():
        for count in itertools.count():
            urls = re.findall(r"Listening on (\S+)", printed(folder))
            if over.is_set():
                return
            if len(urls) > already:
                draw = np.random.default_rng([start + 1, count])
                ask_and_correct(urls[-1], f"s{start}-{count}", draw, acknowledged)
            else:
                time.sleep(0.01)

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield
    finally:
        over.set()
        client.join(60)
