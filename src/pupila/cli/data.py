"""`pupila data`."""

import json
from pathlib import Path

import click

from pupila.cli.group import json_option


@click.command()
@click.argument("source", metavar="DATA")
@click.option("--report", type=click.Path(path_type=Path), help="Write a self-contained page to this file.")
@click.option("--size", type=click.IntRange(8, 512), help="Pixels a side [default: by the data].")
@click.option("--organise", "out", type=click.Path(path_type=Path), help="Write train/valid/test class folders here.")
@click.option("--validation-fraction", type=float, default=0.1, show_default=True, help="Share of train for valid.")
@click.option("--equal-validation", is_flag=True, help="As many of each class, by the smallest.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides the split.")
@click.option("--name-encoding", metavar="CODE", help="Encoding of file names that are not in UTF-8, like cp850.")
@json_option
def data(
    source: str,
    report: Path | None,
    size: int | None,
    out: Path | None,
    validation_fraction: float,
    equal_validation: bool,
    seed: int,
    name_encoding: str | None,
    as_json: bool,
) -> None:
    """Say what is wrong with DATA, leaks first; or write it as class folders with --organise."""
    if out is not None:
        from pupila.data.quality.organise import organise

        done = organise(source, out, validation_fraction, seed, equal=equal_validation, name_encoding=name_encoding)
        summary = {"folder": str(done.folder), "counts": done.counts, "linked": done.linked}
        click.echo(json.dumps(summary) if as_json else done.text())
        return
    from pupila.evaluation.pages.data_report import data_text, report_dataset

    inspection = report_dataset(source, report, size, name_encoding=name_encoding)
    click.echo(json.dumps(inspection.to_json()) if as_json else data_text(inspection))
