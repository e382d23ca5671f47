"""`pupila recipes`."""

import dataclasses
import json

import click

from pupila.cli.group import field_docs


@click.command()
@click.argument("name", required=False)
@click.option("--keys", is_flag=True, help="Explain every key that a recipe can have.")
def recipes(name: str | None, keys: bool) -> None:
    """List the shipped recipes, or show one."""
    from pupila.recipe import Recipe, read_shipped, shipped

    if keys:
        docs = field_docs(Recipe)
        for field in dataclasses.fields(Recipe):
            click.echo(f"{field.name} = {json.dumps(field.default)}  {docs.get(field.name, '')}".rstrip())
        return
    if name is not None:
        click.echo(read_shipped(name), nl=False)
        return
    for shipped_name in shipped():
        click.echo(f"{shipped_name:10} {read_shipped(shipped_name).splitlines()[0].lstrip('# ')}")
