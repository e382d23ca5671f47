"""`pupila compare`."""

import json
from pathlib import Path

import click

from pupila.cli.group import json_option


@click.command()
@click.argument("first", type=click.Path(path_type=Path), required=False)
@click.argument("second", type=click.Path(path_type=Path), required=False)
@click.argument("data", required=False)
@click.option(
    "--split", "part", type=click.Choice(["train", "validation", "test", "all"]), help="[default: test, or all]"
)
@click.option(
    "--runs", type=click.Path(path_type=Path),
    help="Compare all trainings in this folder instead.",
)  # fmt: skip
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
    if runs is not None:
        _compare_runs(runs, report, as_json)
    elif first is None or second is None or data is None:
        raise click.UsageError("Give FIRST, SECOND and DATA, or --runs FOLDER.")
    else:
        from pupila.evaluation.comparison import compare_models, write_comparison

        found = compare_models(first, second, data, part)
        if report is not None:
            write_comparison(report, found)
        click.echo(json.dumps(found.to_json()) if as_json else found.to_text())


def _compare_runs(folder: Path, report: Path | None, as_json: bool) -> None:
    from pupila.evaluation.pages.runs import read_runs, runs_json, runs_text, write_runs

    runs = read_runs(folder)
    if report is not None:
        write_runs(report, runs)
    click.echo(json.dumps(runs_json(runs)) if as_json else runs_text(runs))
