"""`pupila models`: list, activate, rollback."""

import json
from pathlib import Path

import click

from pupila.cli.group import json_lines_option


@click.group()
def models() -> None:
    """The versions of a served model file: list them, activate one, go back to the one before."""


@models.command("list")
@click.argument("model", type=click.Path(path_type=Path))
@json_lines_option
def models_list(model: Path, as_json: bool) -> None:
    """List the versions that MODEL had while it was served."""
    from pupila.server.model_versions import versions

    for version in versions(model):
        click.echo(json.dumps(vars(version)) if as_json else version.to_text())


@models.command("activate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("version")
def models_activate(model: Path, version: str) -> None:
    """Put VERSION in the place of MODEL; running servers verify it and take it over."""
    from pupila.server.model_versions import activate

    click.echo(activate(model, version).to_text())


@models.command("rollback")
@click.argument("model", type=click.Path(path_type=Path))
def models_rollback(model: Path) -> None:
    """Put back the version that MODEL had before."""
    from pupila.server.model_versions import roll_back

    click.echo(roll_back(model).to_text())
