"""The command line: each command parses, calls one function, and prints. Heavy imports are inside the commands.

Exit codes: 0 done, 1 a PupilaError (one sentence on standard error), 2 wrong usage, 130 stopped by Ctrl-C.
"""

import ast
import dataclasses
import inspect
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from pupila import __version__
from pupila.errors import PupilaError

Command = TypeVar("Command", bound=Callable[..., Any])


class PupilaGroup(click.Group):
    """Turns the errors that a user can act on into one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; see the module's docstring for the exit codes."""
        try:
            return super().invoke(ctx)
        except PupilaError as error:
            click.echo(f"pupila: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("pupila: stopped.", err=True)
            sys.exit(130)


@click.group(cls=PupilaGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pupila")
def main() -> None:
    """Photos in, answers out: train a ResNet-18 on any folder of photos, and serve it."""


def json_option(command: Command) -> Command:
    """The one --json flag."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")(command)


@main.command()
@click.argument("data")
@click.option("--recipe", default="standard", show_default=True, help="A shipped recipe's name, or a .toml file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one value of the recipe.")
@click.option("--weights", help="Start from auto, imagenet, none, or a .pth or .safetensors file.")
@click.option("--epochs", type=int, help="Times to go through the pictures, in place of a budget in minutes.")
@click.option("--minutes", type=float, help="Wall-clock budget that the schedule is fitted to, in place of epochs.")
@click.option("--seed", type=int, help="Decides the split, the order and the augmentation.")
@click.option(
    "--size", type=click.IntRange(8, 512), help="Pixels a side that pictures are stored at [default: by the data]."
)
@click.option("--name", help="Name of the run [default: the data's and the recipe's].")
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of runs."
)
@click.option("--checkpoint-seconds", type=float, default=60.0, show_default=True, help="What a kill may cost at most.")
@click.option("--resume", is_flag=True, help="Go on with the run of this name from its last checkpoint.")
def train(
    data: str,
    recipe: str,
    overrides: tuple[str, ...],
    weights: str | None,
    epochs: int | None,
    minutes: float | None,
    seed: int | None,
    size: int | None,
    name: str | None,
    runs: Path,
    checkpoint_seconds: float,
    resume: bool,
) -> None:
    """Train on DATA (a folder or archive of class folders, `cifar10`, or `digits`) and write a model file."""
    from pupila.recipe import load_recipe
    from pupila.training.train import train as run

    if epochs is not None and minutes is None:
        minutes = 0.0  # asked for epochs, a person does not want the recipe's budget in minutes
    given = {"weights": weights, "epochs": epochs, "minutes": minutes, "seed": seed}
    pairs = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    chosen = load_recipe(recipe, [*overrides, *pairs])
    folder = runs / (name or f"{Path(data).name.split('.')[0]}-{chosen.name}")
    trained = run(data, chosen, folder, size=size, resume=resume, checkpoint_seconds=checkpoint_seconds)
    click.echo(f"Serve it with: pupila serve {trained.model}")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option(
    "--split", "part", type=click.Choice(["train", "validation", "test", "all"]), help="[default: test, or all]"
)
@click.option("--report", type=click.Path(path_type=Path), help="Write a report page and its plots into this folder.")
@json_option
def evaluate(model: Path, data: str, part: str | None, report: Path | None, as_json: bool) -> None:
    """Score MODEL on DATA: accuracy with its 95 % interval, per class, calibration."""
    from pupila.data import load_dataset
    from pupila.evaluation.evaluate import evaluate as run
    from pupila.evaluation.report import write_report
    from pupila.predictor import Predictor

    predictor = Predictor.load(model)
    dataset, part = load_dataset(data, predictor.manifest.input_size).part(part)
    evaluation = run(predictor, dataset)
    result = {**evaluation.scores.to_json(), "split": part, "model": str(model), "version": predictor.version}
    if report is not None:
        result["report"] = str(write_report(report, predictor, dataset, [], evaluation))
    click.echo(json.dumps(result) if as_json else _scores_text(result))


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="Choices a picture.")
@click.option("--out", type=click.Path(path_type=Path), help="Write a table: a .csv, .jsonl or .parquet file.")
@click.option("--kaggle", is_flag=True, help="Make --out a submission to Kaggle's CIFAR-10 competition: id,label.")
@click.option("--sort-into", type=click.Path(path_type=Path), help="Say how pictures would be copied by class.")
@click.option("--link", is_flag=True, help="With --sort-into: link in place of copying.")
@click.option("--min-confidence", type=click.FloatRange(0, 1), default=0.0, help="Below it: into `_unsure`.")
@click.option("--apply", "applies", is_flag=True, help="With --sort-into: do it.")
@json_option
def predict(
    model: Path,
    paths: tuple[Path, ...],
    top: int,
    out: Path | None,
    kaggle: bool,
    sort_into: Path | None,
    link: bool,
    min_confidence: float,
    applies: bool,
    as_json: bool,
) -> None:
    """Say what is on the pictures at PATHS and in the folders there; one that cannot be read gets its reason.

    A line a picture, or with --out a table of any number of them, which goes on where it stopped if it is killed.
    """
    from pupila.batch import Sorting, predict_all

    if kaggle and out is None:
        raise click.UsageError("--kaggle needs --out.")
    if sort_into is None and (link or min_confidence or applies):
        raise click.UsageError("--link, --min-confidence and --apply need --sort-into.")
    if out is None and sort_into is None:
        failed = _print_answers(model, paths, top, as_json)
    else:
        sorting = None if sort_into is None else Sorting(sort_into, link, min_confidence, applies)
        say = _say_nothing if as_json else click.echo
        summary = predict_all(model, paths, out, top=top, kaggle_format=kaggle, sorting=sorting, say=say)
        click.echo(json.dumps(summary.to_json()) if as_json else summary.to_text())
        failed = bool(summary.failed)
    if failed:
        sys.exit(1)


def _print_answers(model: Path, paths: Sequence[Path], top: int, as_json: bool) -> bool:
    """Print a line a picture, and return whether one could not be read."""
    from pupila.batch import files_below
    from pupila.predictor import Predictor, predict_files

    failed = False
    for path, answer in predict_files(Predictor.load(model), files_below(paths), top):
        failed |= isinstance(answer, PupilaError)
        click.echo(_answer_json(path, answer) if as_json else _answer_text(path, answer))
    return failed


def _say_nothing(_: str) -> None:
    """Takes the place of printing where JSON is wanted."""


@main.command()
@click.argument("source", metavar="DATA")
@click.option("--report", type=click.Path(path_type=Path), help="Write a self-contained page to this file.")
@click.option("--size", type=click.IntRange(8, 512), help="Pixels a side [default: by the data].")
@click.option("--organise", "out", type=click.Path(path_type=Path), help="Write train/valid/test class folders here.")
@click.option("--validation-fraction", type=float, default=0.1, show_default=True, help="Share of train for valid.")
@click.option("--equal-validation", is_flag=True, help="As many of each class, by the smallest.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the split.")
@json_option
def data(
    source: str,
    report: Path | None,
    size: int | None,
    out: Path | None,
    validation_fraction: float,
    equal_validation: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Say what is wrong with DATA, leaks first; or write it as class folders with --organise."""
    if out is not None:
        from pupila.data.organise import organise

        done = organise(source, out, validation_fraction, seed, equal=equal_validation)
        summary = {"folder": str(done.folder), "counts": done.counts, "linked": done.linked}
        click.echo(json.dumps(summary) if as_json else done.text())
        return
    from pupila.evaluation.data_report import data_text, report_dataset

    inspection = report_dataset(source, report, size)
    click.echo(json.dumps(inspection.to_json()) if as_json else data_text(inspection))


@main.group()
def models() -> None:
    """The versions of a served model file: list them, activate one, go back to the one before."""


@models.command("list")
@click.argument("model", type=click.Path(path_type=Path))
@json_option
def models_list(model: Path, as_json: bool) -> None:
    """List the versions that MODEL had while it was served."""
    from pupila.server.models import versions

    for version in versions(model):
        click.echo(json.dumps(vars(version)) if as_json else version.to_text())


@models.command("activate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("version")
def models_activate(model: Path, version: str) -> None:
    """Put VERSION in the place of MODEL; running servers verify it and take it over."""
    from pupila.server.models import activate

    click.echo(activate(model, version).to_text())


@models.command("rollback")
@click.argument("model", type=click.Path(path_type=Path))
def models_rollback(model: Path) -> None:
    """Put back the version that MODEL had before."""
    from pupila.server.models import roll_back

    click.echo(roll_back(model).to_text())


@main.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@json_option
def inspect_(model: Path, as_json: bool) -> None:
    """Verify MODEL and show its manifest."""
    from pupila.predictor import Predictor

    predictor = Predictor.load(model)
    manifest = {**predictor.manifest.without_golden(), "version": predictor.version}
    if as_json:
        click.echo(json.dumps(manifest))
        return
    for key, value in manifest.items():
        click.echo(f"{key}: {json.dumps(value)}")


@main.command()
@click.argument("name", required=False)
@click.option("--keys", is_flag=True, help="Explain every key that a recipe can have.")
def recipes(name: str | None, keys: bool) -> None:
    """List the shipped recipes, or show one."""
    from pupila.recipe import Recipe, read_shipped, shipped

    if keys:
        docs = field_docs(Recipe)
        for field in dataclasses.fields(Recipe):
            click.echo(f"{field.name} = {json.dumps(field.default)}  {docs.get(field.name, '')}".rstrip())
        return
    if name is not None:
        click.echo(read_shipped(name), nl=False)
        return
    for shipped_name in shipped():
        click.echo(f"{shipped_name:10} {read_shipped(shipped_name).splitlines()[0].lstrip('# ')}")


def _scores_text(result: dict[str, Any]) -> str:
    low, high = result["interval"]
    lines = [
        f"{result['split']}: accuracy {result['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}), "
        f"n = {result['n']:,}, expected calibration error {result['ece']:.4f}",
        f"{'class':20} {'precision':>9} {'recall':>7} {'f1':>7} {'pictures':>9}",
    ]
    for row in result["classes"]:
        lines.append(
            f"{row['category']:20} {row['precision']:9.3f} {row['recall']:7.3f} {row['f1']:7.3f} {row['support']:9,}"
        )
    return "\n".join(lines)


def _answer_text(path: Path, answer: Any) -> str:
    if isinstance(answer, PupilaError):
        return f"{path}: {answer}"
    return f"{path}: " + ", ".join(f"{choice.category} {choice.confidence:.3f}" for choice in answer.top)


def _answer_json(path: Path, answer: Any) -> str:
    if isinstance(answer, PupilaError):
        return json.dumps({"path": str(path), "error": str(answer)})
    return json.dumps({"path": str(path), "unknown": answer.unknown, "top": [vars(choice) for choice in answer.top]})


def field_docs(cls: type) -> dict[str, str]:
    """Return what the docstring under each field of a dataclass says, on one line: help that cannot go stale."""
    body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return docs


class ServeCommand(click.Command):
    """Has one option for each of the server's settings, made when asked for: other commands do not load the server."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the arguments and options, the settings' among them."""
        from pupila.server.settings import Settings

        docs = field_docs(Settings)
        known = {parameter.name for parameter in self.params}
        for field in dataclasses.fields(Settings):
            if field.name not in known:
                self.params.append(_settings_option(field, docs.get(field.name)))
        return super().get_params(ctx)


def _settings_option(field: "dataclasses.Field[Any]", doc: str | None) -> click.Option:
    """A number or a text as it is; a tuple as an option that may be given several times; keys as a file of them."""
    flag = "--" + field.name.replace("_", "-")
    if field.name == "api_keys":
        return click.Option(
            [flag], type=click.Path(path_type=Path), help="File of API keys. Without it everybody may ask."
        )
    if field.default is None:
        return click.Option([flag], type=click.Path(path_type=Path), help=doc)
    if isinstance(field.default, tuple):
        return click.Option([flag], multiple=True, help=f"{doc} May be given several times.")
    return click.Option([flag], type=type(field.default), default=field.default, show_default=True, help=doc)


@main.command(cls=ServeCommand)
@click.argument("model", type=click.Path(path_type=Path), required=False)
def serve(model: Path | None, **chosen: Any) -> None:
    """Serve MODEL, or the bundled CIFAR-10 model, as an HTTP API."""
    from pupila.models import bundled_model
    from pupila.server import Settings
    from pupila.server import serve as run
    from pupila.server.guard import read_keys

    keys = read_keys(chosen["api_keys"]) if chosen["api_keys"] else ()
    run(model or bundled_model(), Settings(**{**chosen, "api_keys": keys}))
