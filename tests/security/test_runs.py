"""A folder of runs that somebody else made: its files are bounded, are not waited for, and are shown only if sound."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from pupila._files import DEEPEST_JSON, SMALL, json_object, read_small
from pupila.errors import TrainingError
from pupila.evaluation.comparison import read_runs
from pupila.recipe import Recipe
from pupila.server.model_versions import latest
from pupila.training.loop.checkpoint import load_checkpoint
from pupila.training.run_folder import forget, is_finished, read_record, unfinished
from pupila.training.sweeps.definition import Trial, load_definition, plan
from pupila.training.sweeps.run import _check_folder, run_sweep
from pupila.training.sweeps.trial import FIGURES, Job, Result, read_result

ROW = {"epoch": 1, "seconds": 30.0, "validation_accuracy": 0.5, "network_size": 64}
TRIAL = Trial("a", Recipe(), {})


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 600 * 2**20)


ODD = pytest.mark.parametrize("odd", [pipe, endless, sparse])


def make_run(folder: Path, **row: object) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, **row}))
    (folder / "recipe.json").write_text("{}")


def pupila(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command, which is not to wait for anything."""
    return subprocess.run([sys.executable, "-m", "pupila", *arguments], capture_output=True, text=True, timeout=30)


@ODD
@pytest.mark.parametrize("name", ["metrics.jsonl", "recipe.json"])
def test_run_whose_files_are_none_is_passed_over(tmp_path: Path, name: str, odd: Callable[[Path], None]) -> None:
    for run in ("good", "odd"):
        make_run(tmp_path / run)
    (tmp_path / "odd" / name).unlink()
    odd(tmp_path / "odd" / name)
    done = pupila("compare", "--runs", str(tmp_path))
    assert done.returncode == 0 and "good" in done.stdout and "odd" not in done.stdout


@ODD
def test_record_that_is_no_file_is_named(tmp_path: Path, odd: Callable[[Path], None]) -> None:
    odd(tmp_path / "run.json")
    assert not is_finished(tmp_path)
    with pytest.raises(TrainingError, match=r"run.json: is no record of a run \(it "):
        read_record(tmp_path)


@ODD
def test_results_of_a_sweep_that_are_no_files_are_named(tmp_path: Path, odd: Callable[[Path], None]) -> None:
    odd(tmp_path / "result.json")
    odd(tmp_path / "results.json")
    with pytest.raises(TrainingError, match=r"result.json: cannot be read"):
        read_result(Job(TRIAL, "digits", tmp_path, "f", None, 60.0))
    with pytest.raises(TrainingError, match=r"results.json: cannot be read"):
        _check_folder(tmp_path, [TRIAL])


@ODD
def test_checkpoint_that_is_no_file_is_refused(tmp_path: Path, odd: Callable[[Path], None]) -> None:
    odd(tmp_path / "checkpoint.safetensors")
    with pytest.raises(TrainingError, match=r"is not a whole checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.safetensors", {})


@ODD
def test_history_of_a_model_that_is_no_file_counts_as_empty(tmp_path: Path, odd: Callable[[Path], None]) -> None:
    (tmp_path / "model.onnx.versions").mkdir()
    odd(tmp_path / "model.onnx.versions" / "history.json")
    assert latest(tmp_path / "model.onnx") is None


def test_header_of_a_checkpoint_is_not_parsed_beyond_a_bound(tmp_path: Path) -> None:
    """Lists in lists take fifty times their bytes, and safetensors lets a header have 100 MB."""
    position = "[" + ",".join(["[" * 700 + "]" * 700] * 7_000) + "]"
    head = json.dumps({"__metadata__": {"position": position, "identity": "{}"}}).encode()
    (tmp_path / "c").write_bytes(len(head).to_bytes(8, "little") + head)
    tracemalloc.start()
    try:
        with pytest.raises(TrainingError, match=r"is not a whole checkpoint \(a header of over 8,388,608 bytes"):
            load_checkpoint(tmp_path / "c", {})
        assert tracemalloc.get_traced_memory()[1] < SMALL
    finally:
        tracemalloc.stop()


def test_long_text_in_json_is_not_parsed() -> None:
    with pytest.raises(ValueError, match="it has 8,388,610 letters, over the limit of 8,388,608"):
        json_object("{}" + " " * SMALL)


def test_small_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("é" * (SMALL // 2))
    assert len(read_small(tmp_path / "a")) == SMALL // 2
    with (tmp_path / "a").open("a") as file:
        file.write("a")
    with pytest.raises(OSError, match=r"over the limit of 8,388,608"):
        read_small(tmp_path / "a")


def test_object_of_deep_lists_is_none() -> None:
    """Python reads some that it cannot write again."""
    for levels, valid in ((DEEPEST_JSON, True), (DEEPEST_JSON + 1, False), (900, False)):
        text = '{"a":' * levels + "1" + "}" * levels
        if valid:
            assert json_object(text)
        else:
            with pytest.raises(ValueError, match="nests too deeply"):
                json_object(text)


@pytest.mark.parametrize("value", [1e308, -1e308, float("nan"), float("inf"), 1.5, -0.1, 10**400, "0.5"])
@pytest.mark.parametrize("name", ["validation_accuracy", "seconds"])
def test_run_with_figures_that_are_none_is_passed_over(tmp_path: Path, name: str, value: object) -> None:
    """Of 1e308 and -1e308 no axis can be made."""
    make_run(tmp_path / "good")
    make_run(tmp_path / "odd", **{name: value})
    valid = name == "seconds" and value == 1.5
    assert [run.name for run in read_runs(tmp_path)] == (["good", "odd"] if valid else ["good"])


def test_page_of_runs_is_written_beside_figures_that_are_none(tmp_path: Path) -> None:
    make_run(tmp_path / "good")
    make_run(tmp_path / "odd", validation_accuracy=1e308)
    make_run(tmp_path / "odder", validation_accuracy=-1e308)
    done = pupila("compare", "--runs", str(tmp_path), "--report", str(tmp_path / "c.html"))
    assert (done.returncode, done.stderr) == (0, "") and (tmp_path / "c.html").exists()


def test_sweep_removes_and_writes_nothing_through_a_linked_trial(tmp_path: Path) -> None:
    """Another finished run lost its record, its metrics and its model."""
    victim = tmp_path / "runs" / "victim"
    make_run(victim)
    (victim / "run.json").write_text('{"finished": true}')
    before = {path.name: path.read_bytes() for path in victim.iterdir()}
    (trial,) = plan(load_definition(None), ["learning_rate=0.01"], "quick", ["weights=/none"], seeds=1)
    (tmp_path / "runs" / "s").mkdir()
    (tmp_path / "runs" / "s" / trial.name).symlink_to("../victim")
    with pytest.raises(TrainingError, match=r"seed0: is a link, and nothing is written through it"):
        run_sweep("digits", [trial], tmp_path / "runs" / "s")
    assert {path.name: path.read_bytes() for path in victim.iterdir()} == before


def test_resume_enters_no_linked_run(tmp_path: Path) -> None:
    make_run(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "run.json").write_text('{"source": "digits"}')
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a").symlink_to("../elsewhere")
    with pytest.raises(TrainingError, match=r"there is no unfinished run"):
        unfinished(tmp_path / "runs")


@pytest.mark.parametrize("name", ["photos", "photos.npz"])
def test_resume_does_not_wait_for_a_pipe_that_a_record_names(tmp_path: Path, name: str) -> None:
    pipe(tmp_path / name)
    make_run(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "a" / "run.json").write_text(json.dumps({"source": str(tmp_path / name)}))
    done = pupila("train", "--resume", "--runs", str(tmp_path / "runs"))
    assert done.returncode == 1 and f"{name}: is neither a file nor a folder. Check the path." in done.stderr


def test_table_of_labels_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe(tmp_path / "labels.csv")
    done = pupila("train", "digits", "--labels", str(tmp_path / "labels.csv"), "--runs", str(tmp_path / "runs"))
    assert done.returncode == 1 and "cannot be read as a table of labels (it is no file)" in done.stderr


def test_folder_in_place_of_a_file_of_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(TrainingError, match=r"metrics.jsonl: cannot be written"):
        forget(tmp_path)


def test_resume_passes_over_a_record_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "run.json").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"there is no unfinished run"):
        unfinished(tmp_path)


@pytest.mark.parametrize("name", ["best_epoch", "test_pictures"])
def test_result_of_a_trial_whose_count_is_no_whole_number_is_named(tmp_path: Path, name: str) -> None:
    """The number of an epoch that is 0.0 finds no row."""
    row = dict.fromkeys(FIGURES, 1)
    fields = asdict(Result("a", "a", {}, Recipe().to_dict(), "f", "", [row], 0, None, 0, 1.0, 1.0, "c"))
    (tmp_path / "result.json").write_text(json.dumps({**fields, name: 0.0}))
    with pytest.raises(TrainingError, match=rf"cannot be read \(it has no valid {name}\)"):
        read_result(Job(TRIAL, "digits", tmp_path, "f", None, 60.0))
