"""`pupila inspect`."""

import json
from pathlib import Path

import click

from pupila.cli.group import json_option


@click.command("inspect")
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
