"""`pupila sweep`."""

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pupila.cli.group import cluster_option, data_sets, examples, json_option

if TYPE_CHECKING:
    from pupila.training.sweeps.trial import Execute


@click.command(epilog=examples("pupila sweep photos --grid lr=0.01,0.03 --grid epochs=5,10 --seeds 3 --jobs 2"))
@click.argument("arguments", nargs=-1, required=True, metavar="[SWEEP] DATA", shell_complete=data_sets)
@click.option("--grid", multiple=True, metavar="KEY=VALUE,VALUE", help="Values to try; several grids are combined.")
@click.option("--recipe", default="standard", show_default=True, help="What every trial starts from.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set one value of every trial's recipe.")
@click.option("--seeds", type=click.IntRange(1, 100), help="Trials of the same settings [default: 1, or the sweep's].")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Trials at once, by processes.")
@cluster_option("Run the trials {where}.")
@click.option("--size", type=click.IntRange(8, 512), help="Pixels a side of stored pictures [default: by the data].")
@click.option("--name", help="Name of the sweep's folder [default: the data's and the sweep's].")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where it goes.")
@click.option(
    "--checkpoint-seconds", type=click.FloatRange(0), default=60.0, show_default=True, help="Save at least this often."
)
@json_option
def sweep(
    arguments: tuple[str, ...],
    grid: tuple[str, ...],
    recipe: str,
    overrides: tuple[str, ...],
    seeds: int | None,
    jobs: int,
    cluster: str | None,
    size: int | None,
    name: str | None,
    runs: Path,
    checkpoint_seconds: float,
    as_json: bool,
) -> None:
    """Train on DATA many times over a --grid, or as a shipped SWEEP says; one table, one plot, the best model.

    The same command goes on where it stopped. The best is chosen on validation pictures, never by test accuracy.
    """
    from pupila.training.run_folder import default_name, folder_of
    from pupila.training.sweeps.definition import load_definition, plan
    from pupila.training.sweeps.run import run_sweep

    if len(arguments) > 2:
        raise click.UsageError(f"Give a data set, or a sweep and a data set, not {len(arguments)} names.")
    definition = load_definition(arguments[0] if len(arguments) == 2 else None)
    trials = plan(definition, grid, recipe, overrides, seeds)
    data = arguments[-1]
    folder = folder_of(runs, name or default_name(data, definition.name))
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        summary = run_sweep(
            data, trials, folder, size=size, checkpoint_seconds=checkpoint_seconds, execute=_execute(jobs, cluster)
        )
    click.echo(json.dumps(summary.to_json()) if as_json else summary.to_text())


def _execute(jobs: int, cluster: str | None) -> "Execute":
    """Return what runs the trials: this process, several, or a cluster."""
    from pupila.training.sweeps.trial import at_once, in_turn

    if cluster is None:
        return in_turn if jobs == 1 else at_once(jobs)
    from pupila.cluster.sweep import on_cluster

    return on_cluster(cluster)
