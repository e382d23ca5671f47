"""`pupila train`."""

import json
from pathlib import Path

import click

from pupila.cli.group import RenamedOption, cluster_option


@click.command()
@click.argument("data")
@click.option("--recipe", default="standard", show_default=True, help="A shipped recipe's name, or a .toml file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one value of the recipe.")
@click.option("--weights", help="Start from auto, imagenet, bundled, none, or a .pth or .safetensors file.")
@click.option("--epochs", type=int, help="Times to go through the pictures, in place of a budget in minutes.")
@click.option("--minutes", type=float, help="Wall-clock budget that the schedule is fitted to, in place of epochs.")
@click.option("--seed", type=int, help="Decides the split, the order and the augmentation.")
@click.option(
    "--size", type=click.IntRange(8, 512), help="Pixels a side that pictures are stored at [default: by the data]."
)
@click.option("--labels", type=click.Path(path_type=Path), help="Take these labels from a CSV of path,label.")
@click.option("--name", help="Name of the run [default: the data's and the recipe's].")
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of runs."
)
@click.option("--checkpoint-seconds", type=float, default=60.0, show_default=True, help="What a kill may cost at most.")
@click.option("--checkpoints", metavar="ADDRESS", help="Copy checkpoints there, too: s3://bucket/run and the like.")
@click.option(
    "--log", type=click.Choice(["tensorboard", "mlflow"]), help="Where else each epoch's metrics are written."
)
@click.option(
    "--feedback-dir",
    "--feedback",
    "feedback",
    cls=RenamedOption,
    type=click.Path(path_type=Path),
    help="Folder of a server's --feedback-dir: adds its corrected pictures.",
)
@click.option(
    "--outliers", type=click.Path(path_type=Path), help="Folder or archive of pictures of none of the classes."
)
@click.option("--explain", is_flag=True, help="Say what would be chosen and why, and train nothing.")
@click.option("--workers", type=click.IntRange(1, 4096), default=1, help="Processes that share each batch.")
@cluster_option("Put the workers {where}.")
@click.option("--resume", is_flag=True, help="Go on with the run of this name from its last checkpoint.")
def train(
    data: str,
    recipe: str,
    overrides: tuple[str, ...],
    weights: str | None,
    epochs: int | None,
    minutes: float | None,
    seed: int | None,
    size: int | None,
    labels: Path | None,
    name: str | None,
    runs: Path,
    checkpoint_seconds: float,
    checkpoints: str | None,
    log: str | None,
    feedback: Path | None,
    outliers: Path | None,
    explain: bool,
    workers: int,
    cluster: str | None,
    resume: bool,
) -> None:
    """Train on DATA (a folder or archive of class folders, `cifar10`, or `digits`) and write a model file."""
    from pupila.data.sources.source import source_name
    from pupila.recipe import load_recipe
    from pupila.training.distributed.ranks import Order, take_part, train_with_workers
    from pupila.training.prepare import prepare

    if epochs is not None and minutes is None:
        minutes = 0.0  # asked for epochs, a person does not want the recipe's budget in minutes
    given = {"weights": weights, "epochs": epochs, "minutes": minutes, "seed": seed}
    pairs = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    chosen = load_recipe(recipe, [*overrides, *pairs])
    if explain:
        click.echo("\n".join(prepare(data, chosen, size, labels, feedback, outliers).resolved.given))
        return
    folder = runs / (name or f"{source_name(data)}-{chosen.name}")
    options = {"size": size, "labels": labels, "feedback": feedback, "outliers": outliers, "log": log}
    order = Order(data, chosen, folder, resume, checkpoint_seconds, checkpoints, options)
    if cluster is not None:
        from pupila.cluster.train import train_on_cluster

        model: Path | None = train_on_cluster(order, workers, cluster)
    else:
        model = train_with_workers(order, workers) if workers > 1 else take_part(order)
    if model is not None:
        click.echo(f"Serve it with: pupila serve {model}")
