"""`pupila inspect`, and `pupila models`: list, activate, rollback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pupila._arguments import counted
from pupila._language import translated
from pupila.cli.group import UncutGroup, examples, json_lines_option, json_option, load_model, models_here, say
from pupila.progress import shown

if TYPE_CHECKING:
    from pupila.manifest import Manifest


@click.group(cls=UncutGroup)
def models() -> None:
    """The versions of a served model file: list them, activate one, go back to the one before."""


@models.command("list")
@click.argument("model", type=click.Path(path_type=Path))
@json_lines_option
def models_list(model: Path, as_json: bool) -> None:
    """List the versions that MODEL had while it was served."""
    from pupila.server.model_versions import versions

    found = versions(model)
    for version in found:
        click.echo(json.dumps(vars(version)) if as_json else shown(version.to_text()))
    if not found and not as_json:
        say(f"{model}: no versions are kept yet. A server keeps them once it has taken a new file over.")


@models.command("activate")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("version")
def models_activate(model: Path, version: str) -> None:
    """Put VERSION in the place of MODEL; running servers verify it and take it over."""
    from pupila.server.model_versions import activate

    say(activate(model, version).to_text())


@models.command("rollback")
@click.argument("model", type=click.Path(path_type=Path))
def models_rollback(model: Path) -> None:
    """Put back the version that MODEL had before."""
    from pupila.server.model_versions import roll_back

    say(roll_back(model).to_text())


@click.command("inspect", epilog=examples("pupila inspect runs/photos-standard/model.onnx"))
@click.argument("model", type=click.Path(path_type=Path), shell_complete=models_here)
@json_option
def inspect_(model: Path, as_json: bool) -> None:
    """Verify MODEL and show what it knows, how well, and what it was made from."""
    predictor = load_model(model)
    manifest = predictor.manifest
    if as_json:
        click.echo(json.dumps({**manifest.without_golden(), "version": predictor.version}))
        return
    size = f"{model.stat().st_size / 1e6:.1f} MB, version {predictor.version}"
    rows = [("model", f"{manifest.name} ({size}; verified)"), *_rows(manifest)]
    for name, value in rows:
        click.echo(f"{translated(name):13} {shown(value)}")


def _rows(manifest: "Manifest") -> Iterator[tuple[str, str]]:
    metrics, data, recipe = manifest.metrics, manifest.data, manifest.recipe
    yield "classes", f"{len(manifest.classes)}: {', '.join(manifest.classes)}"
    if "accuracy" in metrics:
        low, high = metrics.get("interval", (None, None))
        interval = f" (95 % interval {low:.3f} to {high:.3f})" if low is not None else ""
        on = f" on {counted(metrics['n'], 'picture')} of {metrics.get('split', 'validation')}" if "n" in metrics else ""
        yield "accuracy", f"{metrics['accuracy']:.3f}{interval}{on}"
    yield (
        "pictures",
        f"{manifest.input_size} x {manifest.input_size} px, {manifest.framing}; network {manifest.network_size} px",
    )
    yield "weights", f"{manifest.precision}, started from {manifest.weights}"
    if "source" in data:
        counts = ", ".join(f"{data[part]:,} {part}" for part in ("train", "validation") if part in data)
        yield "trained on", f"{data['source']} ({counts})"
    if recipe:
        minutes, epochs = recipe.get("minutes", 0), recipe.get("epochs", 0)
        budget = counted(round(minutes, 2), "minute") if minutes else counted(epochs, "epoch")
        yield "recipe", f"{recipe.get('name')}, {budget}, seed {recipe.get('seed')}"
    marked = "pictures that look like none of the classes are marked"
    yield "unknown", marked if manifest.unknown_threshold is not None else "not marked: no threshold was fitted"
    yield "made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield "more", "--json shows every field"
