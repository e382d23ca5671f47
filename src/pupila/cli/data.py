"""`pupila data` and `pupila mislabelled`."""

import json
import shlex
from pathlib import Path

import click

from pupila._language import translated
from pupila.cli.group import json_option, say


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
    """Say what is wrong with DATA, leaks first; or write it as class folders with --organise.

    Of pairs and pictures `--json` lists the first 10,000 of each kind, or 2,000,000 letters, and counts all:
    twins_count, skipped_count, uniform_count, odd_count.
    """
    if out is not None:
        from pupila.data.quality.organise import organise

        done = organise(source, out, validation_fraction, seed, equal=equal_validation, name_encoding=name_encoding)
        summary = {"folder": str(done.folder), "counts": done.counts, "linked": done.linked}
        click.echo(json.dumps(summary) if as_json else translated(done.text()))
        return
    from pupila.data.quality.inspection import inspect_dataset
    from pupila.evaluation.pages.data_report import data_text, write_data_report

    inspection = inspect_dataset(source, size, name_encoding=name_encoding)
    if report is not None:
        write_data_report(report, inspection)
    click.echo(json.dumps(inspection.to_json()) if as_json else translated(data_text(inspection)))


@click.command()
@click.argument("source", metavar="DATA")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="Judge with the features of this model file.")
@click.option("--weights", default="auto", show_default=True, help="Without a model: auto, imagenet, bundled, a file.")
@click.option("--size", type=click.IntRange(8, 512), help="Without a model: pixels a side [default: by the data].")
@click.option("--most", type=click.IntRange(min=1), default=500, show_default=True, help="Pictures to list.")
@json_option
def mislabelled(
    source: str, out: Path, model: Path | None, weights: str, size: int | None, most: int, as_json: bool
) -> None:
    """Find the labels of DATA that are likely wrong: a page and a table to correct, in the folder OUT.

    `pupila train DATA --labels OUT/fixes.csv` takes the table. A model trained on DATA judges best.
    """
    from pupila.evaluation.pages.data_report import to_json, write_mislabelled
    from pupila.training.mislabelled import find_mislabelled

    found = find_mislabelled(source, weights=weights, model=model, size=size, most=most)
    page, table = write_mislabelled(out, found)
    if as_json:
        click.echo(json.dumps({**to_json(found), "page": str(page), "table": str(table)}))
        return
    click.echo(translated(found.text()))
    data, labels = shlex.quote(source), shlex.quote(str(table))
    say(f"wrote {page} and {table}: correct the table, then: pupila train {data} --labels {labels}")
