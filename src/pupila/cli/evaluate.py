"""`pupila evaluate`, `pupila compare`, `pupila drift`."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pupila._files import text_table
from pupila._language import translated
from pupila.cli.group import data_sets, examples, json_option, load_model, models_here
from pupila.progress import printable, printable_lines

if TYPE_CHECKING:
    from pupila.evaluation.drift import ServedAnswers
    from pupila.predictor import Predictor

PARTS = click.Choice(["train", "validation", "test", "all"])


@click.command(epilog=examples("pupila evaluate runs/photos-standard/model.onnx photos --report report"))
@click.argument("model", type=click.Path(path_type=Path), shell_complete=models_here)
@click.argument("data", shell_complete=data_sets)
@click.option(
    "--split", "part", type=PARTS, help="Pictures to score [default: test; else what training held out; else all]."
)
@click.option("--report", type=click.Path(path_type=Path), help="Write a report page and its plots into this folder.")
@json_option
def evaluate(model: Path, data: str, part: str | None, report: Path | None, as_json: bool) -> None:
    """Score MODEL on DATA: accuracy with its 95 % interval, per class, calibration."""
    from pupila.evaluation.evaluate import evaluate as score
    from pupila.evaluation.pages.report import write_report

    found = score(load_model(model), data, part)
    result = {**found.to_json(), "model": str(model), "version": found.predictor.version}
    if report is not None:
        result["report"] = str(write_report(report, found.predictor, found.dataset, [], found, source=Path(data)))
    click.echo(json.dumps(result) if as_json else translated(_scores_text(result)))


def _scores_text(result: dict[str, Any]) -> str:
    low, high = result["interval"]
    score = "{category:20} {precision:9.3f} {recall:7.3f} {f1:7.3f} {support:9,}"
    return printable_lines(
        f"{result['split']}: accuracy {result['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}), "
        f"n = {result['n']:,}, expected calibration error {result['ece']:.4f}",
        *([result["caution"]] if result["caution"] else []),
        f"{'class':20} {'precision':>9} {'recall':>7} {'f1':>7} {'pictures':>9}",
        *(score.format(**row) for row in result["classes"]),
    )


@click.command()
@click.argument("first", type=click.Path(path_type=Path), required=False)
@click.argument("second", type=click.Path(path_type=Path), required=False)
@click.argument("data", required=False)
@click.option("--split", "part", type=PARTS, help="[default: test, or all]")
@click.option("--runs", type=click.Path(path_type=Path), help="Compare all trainings in this folder instead.")
@click.option("--report", type=click.Path(path_type=Path), help="Write a page with the comparison to this file.")
@json_option
def compare(
    first: Path | None,
    second: Path | None,
    data: str | None,
    part: str | None,
    runs: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Compare two models on the same pictures (McNemar test), or all trainings in a folder (--runs).

    FIRST and SECOND are model files, DATA is a data set of their classes.
    """
    from pupila.evaluation import comparison

    if runs is not None:
        found = comparison.read_runs(runs)
        if report is not None:
            comparison.write_runs(report, found)
        table = text_table([comparison.RUN_COLUMNS, *(list(map(printable, run.cells())) for run in found)])
        click.echo(json.dumps([run.to_json() for run in found]) if as_json else table)
    elif first is None or second is None or data is None:
        raise click.UsageError("Give FIRST, SECOND and DATA, or --runs FOLDER.")
    else:
        both = comparison.compare_models(first, second, data, part)
        if report is not None:
            comparison.write_comparison(report, both)
        click.echo(json.dumps(both.to_json()) if as_json else translated(both.to_text()))


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--last", type=click.IntRange(50), default=2000, show_default=True, help="Look at so many pictures.")
@click.option(
    "--reference", metavar="DATA", help="Compare with the answers on this data set, which the model has not seen."
)
@json_option
def drift(model: Path, folder: Path, last: int, reference: str | None, as_json: bool) -> None:
    """Say whether the pictures that MODEL has served, as kept in FOLDER, are still like those it was judged on."""
    from pupila.evaluation import drift as drifting

    predictor = load_model(model)
    expected = drifting.reference_for(predictor, reference)
    found = drifting.compare(_served(predictor, folder, last), expected, predictor.manifest.classes)
    if as_json:
        click.echo(json.dumps({**found.to_json(), "reference": expected["split"], "version": predictor.version}))
    else:
        click.echo(translated(found.to_text(expected["split"])))


def _served(predictor: "Predictor", folder: Path, last: int) -> "ServedAnswers":
    """Return the newest answers of this very model file, each picture once."""
    import numpy as np

    from pupila.errors import DataError
    from pupila.evaluation.drift import ServedAnswers
    from pupila.feedback import Store

    with contextlib.closing(Store(folder)) as store:
        store.check_pages()
        kept, others = store.served(predictor.version, last), store.models()
    if not kept and others:
        known = ", ".join(list(others)[:5])
        raise DataError(
            f"{folder}: has no answer of version {predictor.version}, only of {known}. Give that model file."
        )
    classes = predictor.manifest.classes
    labels = np.array([classes.index(one.category) for one in kept], dtype=np.int64)
    return ServedAnswers(labels, np.array([one.confidence for one in kept]), sum(one.unknown for one in kept))
