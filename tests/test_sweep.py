"""Sweeps: what is tried, what is chosen and by what, and that a killed sweep goes on where it was."""

import csv
import json
import os
import signal
import time
from dataclasses import asdict, replace

import psutil
import pytest
from click.testing import CliRunner
from process_kit import ended, printed, started, wait_for
from server_kit import wait_until
from training_kit import TINY, colours, write_photos

from pupila.cli import main
from pupila.errors import RecipeError, TrainingError
from pupila.recipe import shipped
from pupila.training.run_folder import read_json, read_record
from pupila.training.sweeps.definition import load_definition, parse_grid, plan
from pupila.training.sweeps.run import _check_folder, as_csv, as_text, best_of, groups_of, judged_by
from pupila.training.sweeps.trial import BALANCED, FIGURES, PLAIN, Failure, Job, Result, read_result, run_job

pytestmark = pytest.mark.usefixtures("narrow")

SMALL = ["weights=none", "sample=60", "batch_size=25", "network_size=32", "progressive=[]", "precision=float32"]
SMALL = [word for pair in [*SMALL, "export=float32"] for word in ("--set", pair)]


def planned(*grid, definition=None, **options):
    options = {"recipe": "standard", "overrides": [], **options}
    return plan(load_definition(definition), grid, **options)


def result(group, seed, accuracy, test=None, loss=1.0, balanced=None):
    """A finished trial with one epoch."""
    row = {"epoch": 1, "train_loss": loss, "train_accuracy": 0.5, "validation_loss": loss}
    row["validation_accuracy"], row["validation_balanced_accuracy"] = accuracy, balanced or accuracy
    recipe = replace(TINY, seed=seed).to_dict()
    model = f"{group}-{seed}.onnx"
    return Result(f"{group}-{seed}", group, {}, recipe, "f", model, [row], 0, test, 10, 100.0, 1.0, "loss")


def test_grid_tries_every_combination():
    trials = planned("lr=0.01,0.001", "epochs=2,3")
    assert [(t.recipe.learning_rate, t.recipe.epochs) for t in trials] == [(0.01, 2), (0.01, 3), (0.001, 2), (0.001, 3)]


def test_seeds_are_trials_of_one_group():
    trials = planned("lr=0.01", seeds=3, overrides=["seed=5"])
    assert [t.recipe.seed for t in trials] == [5, 6, 7]
    assert len({t.group for t in trials}) == 1 and len({t.name for t in trials}) == 3


def test_asking_for_epochs_leaves_the_budget_in_minutes_out():
    assert planned("epochs=2")[0].recipe.minutes == 0
    assert planned("lr=0.1")[0].recipe.minutes > 0


def test_values_are_read_as_toml_or_as_words():
    assert parse_grid(["progressive=[[32, 0.5]],[]"]) == {"progressive": ([[32, 0.5]], [])}
    assert parse_grid(["weights=none,bundled"]) == {"weights": ("none", "bundled")}


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ("lrr=0.1", "Did you mean 'lr'"),
        ("learning-rate=0.1", "Did you mean 'learning_rate'"),
        ("lr", "is not KEY=VALUE"),
        ("lr=fast", "learning_rate must be a number"),
        ("lr=0.1,0.1", "the same"),
        ("seed=1,2", "Use --seeds"),
    ],
)
def test_mistake_in_the_grid_is_named(grid, words):
    with pytest.raises(RecipeError, match=words):
        planned(grid)


def test_key_both_in_the_grid_and_set_is_refused():
    with pytest.raises(RecipeError, match="learning_rate is in the grid and set too"):
        planned("lr=0.1,0.2", overrides=["lr=0.3"])


def test_unknown_sweep_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="Did you mean 'classic-four'"):
        load_definition("clasic-four")


@pytest.mark.parametrize("name", shipped("sweeps"))
def test_shipped_sweep_can_be_laid_out(name):
    assert planned(definition=name)


def test_classic_four_is_what_the_study_did():
    trials = planned(definition="classic-four", overrides=["weights=none"], seeds=1)
    studied = [(t.recipe.epochs, t.recipe.learning_rate) for t in trials[:4]]
    assert studied == [(30, 0.001), (30, 0.0001), (50, 0.001), (20, 0.001)]
    for recipe in (trial.recipe for trial in trials[:4]):
        assert (recipe.momentum, recipe.weight_decay, recipe.batch_size) == (0.9, 5e-4, 32)
        assert (recipe.schedule, recipe.lr_period, recipe.lr_decay, recipe.sample) == ("step", 4, 0.9, 1000)


def test_own_way_in_classic_four_takes_the_recipe_that_is_asked_for():
    trials = planned(definition="classic-four", recipe="quick")
    assert {t.recipe.name for t in trials} == {"classic", "quick"}
    assert {t.recipe.sample for t in trials} == {1000}


def test_best_is_the_best_group_on_average_and_its_best_trial():
    lucky = [result("a", 0, 0.9), result("a", 1, 0.1)]
    steady = [result("b", 0, 0.6), result("b", 1, 0.7)]
    assert best_of([*lucky, *steady]).trial == "b-1"


def test_tie_between_groups_goes_to_the_lower_loss_on_average():
    better = [result("a", 0, 0.6, loss=1.0), result("a", 1, 0.7, loss=1.2)]
    last_by_name = [result("b", 0, 0.6, loss=2.0), result("b", 1, 0.7, loss=0.5)]
    assert best_of([*better, *last_by_name]).trial == "a-1"


def test_uneven_classes_are_chosen_by_balanced_accuracy():
    train = colours(60).take([*range(0, 60, 3), 1, 2])  # 20, 1 and 1
    assert judged_by(train, planned("lr=0.1,0.01")) == BALANCED
    assert judged_by(train, planned("balance=none")) == judged_by(colours(60), planned("lr=0.1")) == PLAIN
    lazy, fair = result("a", 0, 0.95, balanced=0.33), result("b", 0, 0.9, balanced=0.8)
    assert (best_of([lazy, fair], BALANCED), best_of([lazy, fair])) == (fair, lazy)


def test_test_accuracy_is_never_chosen_by():
    assert best_of([result("a", 0, 0.6, test=0.1), result("b", 0, 0.5, test=0.9)]).trial == "a-0"


def test_table_has_a_line_a_group_with_its_spread_and_failures():
    groups = groups_of([result("a", 0, 0.5), result("a", 1, 0.7)], [Failure("b-0", "b", "The loss is nan.")])
    lines = as_text(groups, 0).splitlines()
    assert lines[1].startswith("a ") and "0.600 (0.500 to 0.700)" in lines[1]
    assert "failed" in lines[2] and "1 trial failed" in lines[-1]


def test_csv_has_a_line_a_trial():
    rows = list(csv.DictReader(as_csv([result("a", 0, 0.5), result("a", 1, 0.7)]).splitlines()))
    assert [(row["seed"], row["validation_accuracy"]) for row in rows] == [("0", "0.5"), ("1", "0.7")]


def command(runs, *more):
    return ["sweep", "digits", "--grid", "lr=0.001,0.002", "--set", "epochs=1", *SMALL, "--runs", str(runs), *more]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A sweep of two trials, and what it printed."""
    runs = tmp_path_factory.mktemp("runs")
    finished = CliRunner().invoke(main, command(runs))
    assert finished.exit_code == 0, finished.output
    return finished.output, runs / "digits-sweep"


def test_sweep_prints_a_closing_line_a_trial_and_one_table(done):
    assert done[0].count("examples/sec on cpu") == 4  # each by its training, and once more with the trial's name
    assert "learning_rate=0.001 " in done[0] and "Best by validation accuracy" in done[0]


def test_sweep_leaves_table_plot_and_the_best_model(done):
    found = json.loads((done[1] / "results.json").read_text())
    assert (done[1] / "model.onnx").read_bytes() == (done[1] / found["best"] / "model.onnx").read_bytes()
    assert len((done[1] / "table.csv").read_text().splitlines()) == 3
    assert (done[1] / "curves.png").exists() and (done[1] / found["best"] / "curves.png").exists()


def test_finished_trials_are_not_repeated(done):
    before = {path: path.stat().st_mtime_ns for path in done[1].glob("*/model.onnx")}
    again = CliRunner().invoke(main, command(done[1].parent, "--json"))
    assert "2 trials, 2 of them done before" in again.stderr
    assert len(json.loads(again.stdout)["trials"]) == 2
    assert {path: path.stat().st_mtime_ns for path in done[1].glob("*/model.onnx")} == before


def test_other_settings_under_the_same_name_are_refused(done):
    again = CliRunner().invoke(main, command(done[1].parent, "--set", "momentum=0.5"))
    assert again.exit_code == 1 and "momentum was 0.9 and is 0.5" in again.output


def test_other_grid_does_not_replace_what_an_earlier_sweep_found(done):
    before = {path.name: path.read_bytes() for path in done[1].iterdir() if path.is_file()}
    folders = sorted(done[1].iterdir())
    line = ["sweep", "digits", "--grid", "momentum=0.5,0.6", "--set", "epochs=1", *SMALL]
    other = CliRunner().invoke(main, [*line, "--runs", str(done[1].parent)])
    assert other.exit_code == 1 and "holds a sweep already" in other.output and "another --name" in other.output
    assert {path.name: path.read_bytes() for path in done[1].iterdir() if path.is_file()} == before
    assert sorted(done[1].iterdir()) == folders


def test_trial_that_cannot_be_trained_is_a_failure_with_its_reason(tmp_path):
    values = ["weights=none", "sample=60", "epochs=30", "batch_size=16", "network_size=32", "progressive=[]"]
    (trial,) = planned("lr=100", overrides=[*values, "schedule=step", "weight_decay=1.0"])
    outcome = run_job(Job(trial, "digits", tmp_path, "", None, 60.0))
    assert isinstance(outcome, Failure) and outcome.reason.startswith("The loss diverged")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"best_epoch": 7}, "lacks its best epoch"),
        ({"rows": [{"epoch": 1}]}, "cannot be read"),
        ({"rows": 3}, "cannot be read"),
        ({"seconds": "long"}, "no valid seconds"),
        ({"seconds": float("nan")}, "no valid seconds"),
        ({"test_accuracy": 1e308}, "no numbers"),
        ({"rows": [{**dict.fromkeys(FIGURES, 1), "train_loss": -1e308}]}, "no numbers"),
        ({"closing": ["x"]}, "no valid closing"),
        ({"recipe": []}, "no valid recipe"),
        ({"recipe": {}}, "is of another run"),
        ({"more": 1}, "cannot be read"),
    ],
)
def test_result_of_somebody_else_is_named(changes, words, tmp_path):
    (trial,) = planned("lr=0.1")
    fields = {**asdict(result("a", 0, 0.5)), "recipe": trial.recipe.to_dict(), **changes}
    (tmp_path / "result.json").write_text(json.dumps(fields))
    with pytest.raises(TrainingError, match=words):
        read_result(Job(trial, "digits", tmp_path, "f", None, 60.0))


@pytest.mark.parametrize("text", ["[]", '"x"', "5", "null", "[" * 100_000])
def test_files_of_a_run_that_hold_no_object_are_named(text, tmp_path):
    (trial,) = planned("lr=0.1")
    for name in ("run.json", "result.json", "results.json"):
        (tmp_path / name).write_text(text)
    assert read_json(tmp_path / "run.json") == {}
    with pytest.raises(TrainingError, match=r"run\.json: is no record of a run \(it "):
        read_record(tmp_path)
    with pytest.raises(TrainingError, match=r"result\.json: cannot be read \(it "):
        read_result(Job(trial, "digits", tmp_path, "f", None, 60.0))
    (tmp_path / "run.json").unlink()
    with pytest.raises(TrainingError, match=r"results\.json: cannot be read \(it "):
        _check_folder(tmp_path, [trial])


def test_trials_whose_names_are_no_text_are_others(tmp_path):
    (tmp_path / "results.json").write_text('{"trials": [{"trial": []}], "failures": []}')
    with pytest.raises(TrainingError, match="holds a sweep already"):
        _check_folder(tmp_path, planned("lr=0.1"))


def test_result_names_no_model_but_that_of_its_folder(tmp_path):
    (trial,) = planned("lr=0.1")
    fields = {**asdict(result("a", 0, 0.5)), "recipe": trial.recipe.to_dict(), "model": "/etc/passwd"}
    (tmp_path / "run.json").write_text('{"finished": true}')
    (tmp_path / "result.json").write_text(json.dumps(fields))
    job = Job(trial, "digits", tmp_path, "f", None, 60.0)
    assert read_result(job).model == str(tmp_path / "model.onnx")
    assert (read_result(job).trial, read_result(job).group) == (trial.name, trial.group)
    (tmp_path / "model.onnx").symlink_to("/etc/passwd")
    with pytest.raises(TrainingError, match=r"model.onnx is a link"):
        read_result(job)


@pytest.mark.slow
def test_killed_sweep_leaves_no_process_and_goes_on_from_its_checkpoints(tmp_path):
    one_step = ["--set", "batch_size=64", "--checkpoint-seconds", "0"]  # a step an epoch, and a checkpoint after each
    values = ["--grid", "lr=0.001,0.002", "--set", "epochs=3", *SMALL, *one_step]
    photos, logs = write_photos(tmp_path / "photos", 60), tmp_path / "photos-sweep"
    line = ["sweep", photos, *values, "--jobs", "2", "--runs", "."]
    with started(tmp_path, *line) as first:
        wait_for(lambda: any("epoch 1 at" in log.read_text() for log in logs.glob("*/log.txt")), first, tmp_path)
        workers = psutil.Process(first.pid).children()
    wait_until(lambda: not any(worker.is_running() for worker in workers), 900)
    with started(tmp_path, *line) as second:
        output = ended(second, tmp_path)
    for log in logs.glob("*/log.txt"):
        # No epoch is trained twice. One that ended as the process was killed may lack its line, never its figures.
        assert all(log.read_text().count(f"epoch {epoch} at") <= 1 for epoch in (1, 2, 3))
        rows = log.with_name("metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["epoch"] for row in rows] == [1, 2, 3]
    assert output.count("examples/sec on cpu") == 2


def test_ctrl_c_within_the_first_epoch_of_a_trial_ends_the_sweep(tmp_path):
    values = ["lr=0.001,0.002", "--set", "weights=none", "--set", "epochs=9", "--set", "network_size=160"]
    with started(tmp_path, "sweep", "digits", "--grid", *values, "--runs", ".") as process:
        wait_for(lambda: "largest class of train" in printed(tmp_path), process, tmp_path)
        time.sleep(1)  # so that it has begun; before, it would end just the same
        os.kill(process.pid, signal.SIGINT)
        process.join(300)
    output = printed(tmp_path)
    assert (process.exitcode, output.splitlines()[-1]) == (130, "pupila: stopped.") and "[2/2]" not in output
