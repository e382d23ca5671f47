"""`pupila drift`."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pupila.cli.group import json_option

if TYPE_CHECKING:
    from pupila.evaluation.drift import ServedAnswers
    from pupila.predictor import Predictor


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--last", type=click.IntRange(50), default=2000, show_default=True, help="Look at so many pictures.")
@click.option(
    "--reference", metavar="DATA", help="Compare with the answers on this data set, which the model has not seen."
)
@json_option
def drift(model: Path, folder: Path, last: int, reference: str | None, as_json: bool) -> None:
    """Say whether the pictures that MODEL has served, as kept in FOLDER, are still like those it was judged on."""
    from pupila.evaluation.drift import compare, reference_for
    from pupila.predictor import Predictor

    predictor = Predictor.load(model)
    expected = reference_for(predictor, reference)
    found = compare(_served(predictor, folder, last), expected, predictor.manifest.classes)
    if as_json:
        click.echo(json.dumps({**found.to_json(), "reference": expected["split"], "version": predictor.version}))
    else:
        click.echo(found.to_text(expected["split"]))


def _served(predictor: "Predictor", folder: Path, last: int) -> "ServedAnswers":
    """Return the newest answers of this very model file, each picture once."""
    import numpy as np

    from pupila.errors import DataError
    from pupila.evaluation.drift import ServedAnswers
    from pupila.feedback import Store

    with contextlib.closing(Store(folder)) as store:
        kept, others = store.served(predictor.version, last), store.models()
    if not kept and others:
        known = ", ".join(list(others)[:5])
        raise DataError(
            f"{folder}: has no answer of version {predictor.version}, only of {known}. Give that model file."
        )
    classes = predictor.manifest.classes
    labels = np.array([classes.index(one.category) for one in kept], dtype=np.int64)
    return ServedAnswers(labels, np.array([one.confidence for one in kept]), sum(one.unknown for one in kept))
