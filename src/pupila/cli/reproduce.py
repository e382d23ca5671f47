"""`pupila reproduce`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from pupila.cli.group import json_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", help="Where the data lies now [default: where it lay].")
@json_option
def reproduce(run: Path, data: str | None, as_json: bool) -> None:
    """Train again as the run in the folder RUN was trained, and say whether the same came out, or what differs."""
    from pupila.training.reproduce import reproduce as again

    done = again(run, data)
    click.echo(json.dumps(asdict(done)) if as_json else done.text())
    if not done.same:
        sys.exit(1)
