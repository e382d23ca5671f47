"""`pupila train`, `pupila reproduce`, `pupila recipes`."""

import dataclasses
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pupila._language import translated
from pupila.cli.group import (
    RenamedOption,
    cluster_option,
    data_sets,
    examples,
    field_docs,
    json_option,
    say,
    shipped_recipes,
)
from pupila.errors import serve_command
from pupila.progress import shown

if TYPE_CHECKING:
    from pupila.training.run_folder import Record, TrainingData
    from pupila.training.train import TrainJob

PATH = click.Path(path_type=Path)


@click.command(
    epilog=examples(
        "pupila train photos",
        "pupila train digits --recipe quick",
        "pupila train photos --minutes 2 --set lr=0.02",
        "pupila train --resume",
    )
)
@click.argument("data", required=False, shell_complete=data_sets)
@click.option(
    "--recipe", shell_complete=shipped_recipes, help="A shipped recipe's name, or a .toml file [default: standard]."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one value of the recipe.")
@click.option(
    "--weights", help="Start from auto, imagenet, bundled, none, a run of yours, or a .pth or .safetensors file."
)
@click.option("--epochs", type=int, help="Times to go through the pictures, in place of a budget in minutes.")
@click.option("--minutes", type=float, help="Wall-clock budget that the schedule is fitted to, in place of epochs.")
@click.option("--seed", type=int, help="Decides the split, the order and the augmentation.")
@click.option(
    "--size", type=click.IntRange(8, 512), help="Pixels a side that pictures are stored at [default: by the data]."
)
@click.option("--labels", type=PATH, help="Take these labels from a CSV of path,label.")
@click.option(
    "--name", help="Name of the run, its folder in --runs; a taken one counts up [default: by data and recipe]."
)
@click.option("--runs", type=PATH, default=Path("runs"), show_default=True, help="Folder of runs.")
@click.option(
    "--checkpoint-seconds", type=click.FloatRange(0), default=60.0, show_default=True,
    help="Save a checkpoint at least this often.",
)  # fmt: skip
@click.option("--log", type=click.Choice(["tensorboard"]), help="Where else each epoch's metrics are written.")
@click.option(
    "--feedback-dir", "--feedback", "feedback", cls=RenamedOption, type=PATH,
    help="Folder of a server's --feedback-dir: adds its corrected pictures.",
)  # fmt: skip
@click.option("--outliers", type=PATH, help="Folder or archive of pictures of none of the classes.")
@click.option("--teacher", type=PATH, help="Model file that knows the classes: its answers are learned, too.")
@click.option("--explain", is_flag=True, help="Say what would be chosen and why, and train nothing.")
@click.option("--workers", type=click.IntRange(1, 4096), default=1, help="Processes that share each batch.")
@cluster_option("Put the workers {where}.")
@click.option("--resume", is_flag=True, help="Go on with the run of this name, or with the last unfinished one.")
def train(
    data: str | None,
    recipe: str | None,
    overrides: tuple[str, ...],
    weights: str | None,
    epochs: int | None,
    minutes: float | None,
    seed: int | None,
    size: int | None,
    labels: Path | None,
    name: str | None,
    runs: Path,
    checkpoint_seconds: float,
    log: str | None,
    feedback: Path | None,
    outliers: Path | None,
    teacher: Path | None,
    explain: bool,
    workers: int,
    cluster: str | None,
    resume: bool,
) -> None:
    """Train on DATA (a folder or archive of class folders, `cifar10`, or `digits`) and write a model file.

    `pupila train --resume` goes on with the last unfinished run, with its data and settings.
    """
    from pupila.recipe import Recipe, load_recipe
    from pupila.training.prepare import prepare
    from pupila.training.run_folder import TrainingData, default_name, folder_of, new_folder, read_json
    from pupila.training.train import TrainJob

    given = {"weights": weights, "epochs": epochs, "minutes": minutes, "seed": seed}
    values = {key: value for key, value in given.items() if value is not None}
    pictures = TrainingData(data or "", size, labels, feedback, outliers, teacher)
    job = partial(TrainJob, checkpoint_seconds=checkpoint_seconds, tensorboard=bool(log))
    if resume:
        folder, record = _to_resume(runs, name, data)
        pictures = _data_to_resume(record, pictures)
        if not (recipe or overrides or values):
            chosen = Recipe.from_dict(read_json(folder / "recipe.json"), f"{folder / 'recipe.json'}")
        else:
            chosen = load_recipe(recipe or "standard", overrides).with_budget(values)
        _run(job(pictures, chosen, folder, resume=True), workers, cluster)
        return
    if data is None:
        raise click.UsageError("Missing argument 'DATA'. Give a folder of class folders, `cifar10`, or `digits`.")
    chosen = load_recipe(recipe or "standard", overrides).with_budget(values)
    if explain:
        say(*prepare(pictures, chosen).resolved.given)
        return
    wanted = name or default_name(data, chosen.name)
    if "RANK" in os.environ:  # one of the processes that torchrun has started: all of them write to one folder
        _run(job(pictures, chosen, folder_of(runs, wanted)), workers, cluster)
        return
    with new_folder(runs, wanted) as folder:
        if folder != runs / wanted:
            say(f"{runs / wanted} is there already: this run goes to {folder}. (--resume goes on with a run.)")
        _run(job(pictures, chosen, folder), workers, cluster)


def _run(job: "TrainJob", workers: int, cluster: str | None) -> None:
    """Train, and say how to serve the model; after Ctrl-C say what is left, and how to go on."""
    from pupila.training.run_folder import left_by

    try:
        model = _trained(job, workers, cluster)
    except KeyboardInterrupt:
        click.echo(shown(left_by(job.folder)), err=True)
        raise
    if model is not None:
        say(f"Serve it with: {serve_command(model)}")


def _trained(job: "TrainJob", workers: int, cluster: str | None) -> Path | None:
    """Train in one process, in several, or on a cluster; return the model, None if another process leads."""
    from pupila.training.distributed.ranks import take_part, train_with_workers

    if cluster is not None:
        from pupila.cluster.train import train_on_cluster

        return train_on_cluster(job, workers, cluster)
    return train_with_workers(job, workers) if workers > 1 else take_part(job)


def _to_resume(runs: Path, name: str | None, data: str | None) -> "tuple[Path, Record]":
    """Return the folder of the run to go on with, and its record."""
    from pupila.errors import TrainingError
    from pupila.training.run_folder import folder_of, holds_run, read_record, source_of, unfinished

    folder = folder_of(runs, name) if name else unfinished(runs, source_of(data) if data else None)
    if not holds_run(folder):
        raise TrainingError(f"{folder}: there is no run to go on with. Check --name and --runs, or leave --resume out.")
    return folder, read_record(folder)


def _data_to_resume(record: "Record", given: "TrainingData") -> "TrainingData":
    """Return what the run was trained on, with what the command line gives in its place."""
    from pupila.training.run_folder import TrainingData

    kept = {key: getattr(record, key) for key in vars(given)}
    return TrainingData(**kept | {key: value for key, value in vars(given).items() if value})


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", help="Where the data lies now [default: where it lay].")
@json_option
def reproduce(run: Path, data: str | None, as_json: bool) -> None:
    """Train again as the run in the folder RUN was trained, and say whether the same came out, or what differs."""
    from pupila.training.reproduce import reproduce as again

    done = again(run, data)
    click.echo(json.dumps(dataclasses.asdict(done)) if as_json else translated(done.text()))
    if not done.same:
        sys.exit(1)


@click.command()
@click.argument("name", required=False)
@click.option("--keys", is_flag=True, help="Explain every key that a recipe can have.")
def recipes(name: str | None, keys: bool) -> None:
    """List the shipped recipes, or show one."""
    from pupila.recipe import Recipe, read_shipped, shipped

    if keys:
        docs = field_docs(Recipe)
        for field in dataclasses.fields(Recipe):
            meaning = translated(docs.get(field.name, ""))
            click.echo(f"{field.name} = {json.dumps(field.default)}  {meaning}".rstrip())
        return
    if name is not None:
        click.echo(read_shipped(name), nl=False)
        return
    for shipped_name in shipped():
        purpose = read_shipped(shipped_name).splitlines()[0].lstrip("# ")
        click.echo(f"{shipped_name:10} {translated(purpose)}")
