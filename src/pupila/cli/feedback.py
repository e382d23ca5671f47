"""`pupila feedback`: show, review, delete."""

import contextlib
import json
import sys
from pathlib import Path

import click

from pupila._arguments import counted
from pupila.cli.group import UncutGroup, json_option, say


@click.group(cls=UncutGroup)
def feedback() -> None:
    """The pictures that a server keeps with --feedback-dir: count, review, delete them."""


@feedback.command("show")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def feedback_show(folder: Path, as_json: bool) -> None:
    """Count what is kept in FOLDER."""
    from pupila.feedback import Store

    store = Store(folder)
    with contextlib.closing(store):
        store.check_pages()
        counts, models = store.counts(), store.models()
    if as_json:
        click.echo(json.dumps({**vars(counts), "models": models}))
        return
    pictures, answers = counted(counts.pictures, "picture"), counted(counts.answers, "answer")
    say(f"{pictures} kept, {answers}, {counts.bytes / 1e6:,.1f} MB in all")
    say(f"{counted(counts.corrected, 'answer')} corrected, {counts.none:,} of them as none of the classes")
    for version, count in models.items():
        say(f"model {version}: {counted(count, 'answer')}")


@feedback.command("review")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--port", type=click.IntRange(0, 65535), default=3001, show_default=True, help="Port of the page.")
def feedback_review(folder: Path, model: Path | None, port: int) -> None:
    """Serve the review page for FOLDER to this machine, with the classes of MODEL; a server may be running, too."""
    from pupila.feedback import Store
    from pupila.models import bundled_model
    from pupila.server import Settings, serve
    from pupila.server.api.auth import new_key

    with contextlib.closing(Store(folder)) as store:  # there must be one
        store.check_pages()
    secret, key = new_key("reviewer", ("review",))
    say(f"Open the page /review at the address below. Its key, good until Ctrl-C: {secret}")
    settings = Settings(port=port, workers=1, api_keys=(key,), feedback_dir=folder, feedback_max_bytes=sys.maxsize)
    serve(model or bundled_model(), settings)  # which makes no room: that is for the server that keeps pictures


@feedback.command("delete")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--request", help="All pictures of the request with this id.")
@click.option("--picture", type=click.IntRange(0), help="Only the picture at this place of the request, from 0.")
@click.option("--everything", is_flag=True, help="All pictures and all that is known of them.")
def feedback_delete(folder: Path, request: str | None, picture: int | None, everything: bool) -> None:
    """Delete pictures in FOLDER, wherever else the same ones were sent, too; a server may be running."""
    from pupila.errors import DataError
    from pupila.feedback import Store

    if everything == (request is not None) or (picture is not None and request is None):
        raise click.UsageError("Say what to delete: --request ID, with or without --picture, or --everything.")
    with contextlib.closing(Store(folder)) as store:
        store.check_pages()
        gone = store.delete(request, picture)
    if not (gone or everything):
        place = "" if picture is None else f" at place {picture}"
        raise DataError(f"{folder}: holds no picture of a request {request!r}{place}. Take X-Request-Id of its answer.")
    say(f"deleted {counted(gone, 'answer')}, pictures included")
