"""`pupila predict`."""

import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pupila._language import translated
from pupila.cli.group import cluster_option, examples, json_lines_option, load_model, models_here, say
from pupila.errors import PupilaError
from pupila.progress import shown

if TYPE_CHECKING:
    from pupila.batch import Summary
    from pupila.errors import ImageError
    from pupila.prediction import Prediction
    from pupila.predictor import Predictor

STANDARD_INPUT = Path("-")


def location(text: str) -> Path | str:
    """Return a path of this machine; an address, as s3://bucket/photos/, stays a text."""
    return text if "://" in text else Path(text)


@click.command(
    epilog=examples(
        "pupila predict photo.jpg",
        "pupila predict runs/photos-standard/model.onnx photos --out answers.csv",
        "curl -s https://example.org/horse.jpg | pupila predict -",
    )
)
@click.argument(
    "arguments", nargs=-1, required=True, type=location, metavar="[MODEL] PATHS...", shell_complete=models_here
)
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="Choices a picture.")
@click.option("--out", type=click.Path(path_type=Path), help="Write a table: a .csv, .jsonl or .parquet file.")
@click.option("--kaggle", is_flag=True, help="Make --out a submission to Kaggle's CIFAR-10 competition: id,label.")
@click.option("--excel", is_flag=True, help="Make --out a .csv with semicolons and decimal commas, as in Brazil.")
@click.option(
    "--sort-into",
    type=click.Path(path_type=Path),
    help="Say how pictures would be copied by class, unknown ones into `_unknown`.",
)
@click.option("--link", is_flag=True, help="With --sort-into: link in place of copying.")
@click.option("--min-confidence", type=click.FloatRange(0, 1), default=0.0, help="Below it: into `_unsure`.")
@click.option("--apply", "applies", is_flag=True, help="With --sort-into: do it.")
@cluster_option("With --out: on all cores, {where}.")
@json_lines_option
def predict(
    arguments: tuple[Path | str, ...],
    top: int,
    out: Path | None,
    kaggle: bool,
    excel: bool,
    sort_into: Path | None,
    link: bool,
    min_confidence: float,
    applies: bool,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Say what is on the pictures at PATHS and in the folders there; one that cannot be read gets its reason.

    MODEL is a .onnx file or the folder of a run; without one, the CIFAR-10 model that comes with Pupila answers. The
    path - is standard input.

    A line a picture, or with --out a table of any number of them, which goes on where it stopped if it is killed.
    With --out, PATHS may be addresses too, as s3://bucket/photos/.
    """
    from pupila.batch import Sorting

    model, paths = _model_and_paths(arguments)
    here = [path for path in paths if isinstance(path, Path)]
    if (kaggle or excel) and out is None:
        raise click.UsageError("--kaggle and --excel need --out.")
    if sort_into is None and (link or min_confidence or applies):
        raise click.UsageError("--link, --min-confidence and --apply need --sort-into.")
    if out is None and cluster is not None:
        raise click.UsageError("--cluster needs --out.")
    if (out is None or sort_into is not None) and len(here) < len(paths):
        raise click.UsageError("Addresses need --out, and cannot be sorted into folders.")
    if STANDARD_INPUT in here and (out is not None or sort_into is not None):
        raise click.UsageError("Standard input is one picture: it cannot be used with --out or --sort-into.")
    if out is None and sort_into is None:
        failed = _print_answers(model, here, top, as_json)
    else:
        sorting = None if sort_into is None else Sorting(sort_into, link, min_confidence, applies)
        job = functools.partial(_predictor_of(cluster), model, paths, out, top=top, kaggle_format=kaggle, excel=excel)
        summary = job(sorting=sorting, say=(lambda _: None) if as_json else say)
        click.echo(json.dumps(summary.to_json()) if as_json else translated(summary.to_text()))
        failed = bool(summary.failed)
    if failed:
        sys.exit(1)


def _predictor_of(cluster: str | None) -> "Callable[..., Summary]":
    """Return what does the job: this machine, or the cluster at an address."""
    if cluster is None:
        from pupila.batch import predict_all

        return predict_all
    from pupila.cluster.predict import predict_on_cluster

    return functools.partial(predict_on_cluster, address=cluster)


def _print_answers(model: Path, paths: Sequence[Path], top: int, as_json: bool) -> bool:
    """Print a line a picture, and return whether one could not be read."""
    from pupila.batch import files_below

    failed, predictor, named = False, load_model(model), frozenset(paths)
    for path in files_below(paths):
        answer = _answer(predictor, path, top, named=path in named)
        failed |= isinstance(answer, PupilaError)
        click.echo(_answer_json(path, answer) if as_json else shown(_answer_text(path, answer)))
    return failed


def _model_and_paths(arguments: Sequence[Path | str]) -> tuple[Path, Sequence[Path | str]]:
    """Tell the model, if it is the first of the arguments, from the pictures."""
    from pupila.models import bundled_model

    first, rest = arguments[0], arguments[1:]
    if isinstance(first, Path) and first.suffix == ".onnx":
        if not rest:
            raise click.UsageError(f"{first} is a model. Give pictures or folders after it.")
        return first, rest
    if rest and isinstance(first, Path) and (first / "model.onnx").is_file():
        return first / "model.onnx", rest
    return bundled_model(), arguments


def _answer(predictor: "Predictor", path: Path, top: int, named: bool) -> "Prediction | ImageError":
    """Answer a picture; a pipe is waited for only if a person has named it, and not if it lies in a folder."""
    from pupila import images
    from pupila.batch.worker import read
    from pupila.errors import ImageError

    try:
        is_piped = path == STANDARD_INPUT
        find = images.read if named else read
        data = sys.stdin.buffer.read(images.DEFAULT_LIMITS.max_bytes + 1) if is_piped else find(str(path))
        return predictor.predict(data, top)
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError.unreadable(error)


def _answer_text(path: Path, answer: Any) -> str:
    if isinstance(answer, PupilaError):
        return f"{path}: {answer}"
    choices = ", ".join(f"{choice.category} {choice.confidence:.3f}" for choice in answer.top)
    return f"{path}: {choices}{' (unknown: it looks like none of the classes)' if answer.unknown else ''}"


def _answer_json(path: Path, answer: Any) -> str:
    if isinstance(answer, PupilaError):
        return json.dumps({"path": str(path), "error": str(answer)})
    return json.dumps({"path": str(path), "unknown": answer.unknown, "top": [vars(choice) for choice in answer.top]})
