"""`pupila mislabelled`."""

import json
from pathlib import Path

import click

from pupila.cli.group import json_option


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
    from pupila.evaluation.pages.mislabelled import to_json, write_mislabelled
    from pupila.training.mislabelled import find_mislabelled

    found = find_mislabelled(source, weights=weights, model=model, size=size, most=most)
    page, table = write_mislabelled(out, found)
    if as_json:
        click.echo(json.dumps({**to_json(found), "page": str(page), "table": str(table)}))
        return
    click.echo(found.text())
    click.echo(f"wrote {page} and {table}: correct the table, then: pupila train {source} --labels {table}")
