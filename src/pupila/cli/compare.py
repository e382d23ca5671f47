"""`pupila compare`."""

import json
from pathlib import Path

import click

from pupila.cli.group import json_option


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.argument("data")
@click.option(
    "--split", "part", type=click.Choice(["train", "validation", "test", "all"]), help="[default: test, or all]"
)
@click.option("--report", type=click.Path(path_type=Path), help="Write a page with the changed pictures to this file.")
@json_option
def compare(first: Path, second: Path, data: str, part: str | None, report: Path | None, as_json: bool) -> None:
    """Say whether model FIRST or SECOND is better on DATA or it was luck, and which answers changed."""
    from pupila.evaluation.comparison import compare_models, write_comparison

    found = compare_models(first, second, data, part)
    if report is not None:
        write_comparison(report, found)
    click.echo(json.dumps(found.to_json()) if as_json else found.to_text())
