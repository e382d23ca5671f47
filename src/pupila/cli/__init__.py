"""The command line, by topic. Each command parses, calls one function, and prints; its heavy imports are inside it."""

import os

import click

from pupila import __version__
from pupila.cli.data import data, mislabelled
from pupila.cli.evaluate import compare, drift, evaluate
from pupila.cli.feedback import feedback
from pupila.cli.group import PupilaGroup
from pupila.cli.keys import keys
from pupila.cli.models import inspect_, models
from pupila.cli.predict import predict
from pupila.cli.serve import serve
from pupila.cli.sweep import sweep
from pupila.cli.train import recipes, reproduce, train


@click.group(cls=PupilaGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pupila")
def main() -> None:
    """Photos in, answers out: train a ResNet-18 on any folder of photos, and serve it."""
    os.environ["PYTHONSAFEPATH"] = "1"  # no Python that is started from here takes a module from the current folder


for _command in (
    train,
    sweep,
    evaluate,
    compare,
    reproduce,
    predict,
    data,
    mislabelled,
    models,
    inspect_,
    recipes,
    serve,
    drift,
    feedback,
    keys,
):
    main.add_command(_command)
