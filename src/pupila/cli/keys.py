"""`pupila keys`: new, list."""

import json
import os
from pathlib import Path

import click

from pupila._language import translated
from pupila.cli.group import UncutGroup, json_option, say

SCOPES = "predict, feedback, review, metrics, admin"


@click.group(cls=UncutGroup)
def keys() -> None:
    """The API keys of a server: make a new one, list those of a file."""


@keys.command("new")
@click.argument("name")
@click.option("--scope", multiple=True, help=f"What the key may do: {SCOPES} (all). Default: predict, feedback.")
@click.option("--rate", help="Requests a second that the key may send.")
@click.option("--pictures", help="Pictures a second that the key may send.")
@click.option("--add", type=click.Path(path_type=Path), help="Add the line to this file, and print the key alone.")
@json_option
def keys_new(
    name: str, scope: tuple[str, ...], rate: str | None, pictures: str | None, add: Path | None, as_json: bool
) -> None:
    """Print a new key, to give away, and the line with its hash, for the file that --api-keys names."""
    from pupila.server.api import auth

    if not auth.NAME.fullmatch(name):
        raise click.UsageError(f"{name!r} is no name for a key. Use up to 40 letters, digits and . _ -")
    try:
        scopes = auth.parse_scopes(",".join(scope)) if scope else auth.DEFAULT_SCOPES
        rates = [None if text is None else auth.parse_rate(text) for text in (rate, pictures)]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    secret, key = auth.new_key(name, scopes, *rates)
    if add is not None:
        add_line(add, key.line())
    if as_json:
        click.echo(json.dumps({"key": secret, "line": key.line()}))
    elif add is not None:
        click.echo(secret)
    else:
        say(f"key, to give away: {secret}", f"line, to store:    {key.line()}")


def add_line(path: Path, line: str) -> None:
    """Add a line to a file of keys, which is for its owner only if it is new; raises SettingsError."""
    from pupila.errors import SettingsError

    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "rb+") as file:
            if file.seek(0, os.SEEK_END) and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                line = f"\n{line}"  # an editor has left the last line without its end
            file.write(f"{line}\n".encode())
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written ({error.strerror}). Choose another --add.") from error


@keys.command("list")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def keys_list(file: Path, as_json: bool) -> None:
    """List names, scopes and rates of the keys in FILE; the keys themselves are not in it."""
    from pupila.server.api.auth import read_keys, sorted_scopes

    for key in read_keys(file):
        scopes = sorted_scopes(key.scopes)
        if as_json:
            rates = {"rate": key.rate, "pictures": key.picture_rate}
            click.echo(json.dumps({"name": key.name, "scopes": scopes, **rates}))
            continue
        limits = [f"{key.rate:g} requests/s"] if key.rate else []
        limits += [f"{key.picture_rate:g} pictures/s"] if key.picture_rate else []
        click.echo("  ".join([key.name, ",".join(scopes), *map(translated, limits)]))
