"""`pupila drift`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pupila.cli.group import json_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pupila.evaluation.drift import Answers, Drift
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
    from pupila.evaluation.drift import compare
    from pupila.predictor import Predictor

    predictor = Predictor.load(model)
    expected = _reference(predictor, model, reference)
    found = compare(_served(predictor, folder, last), expected, predictor.manifest.classes)
    if as_json:
        click.echo(json.dumps({**found.to_json(), "reference": expected["split"], "version": predictor.version}))
    else:
        click.echo("\n".join(_lines(found, expected["split"])))


def _served(predictor: "Predictor", folder: Path, last: int) -> "Answers":
    """Return the newest answers of this very model file, each picture once."""
    import numpy as np

    from pupila.errors import DataError
    from pupila.evaluation.drift import Answers
    from pupila.feedback import Store

    store = Store(folder)
    kept = store.served(predictor.version, last)
    others = store.models()
    store.close()
    if not kept and others:
        known = ", ".join(list(others)[:5])
        raise DataError(
            f"{folder}: has no answer of version {predictor.version}, only of {known}. Give that model file."
        )
    classes = predictor.manifest.classes
    labels = np.array([classes.index(one.category) for one in kept], dtype=np.int64)
    confidences = np.array([one.confidence for one in kept])
    return Answers(labels, confidences, sum(one.unknown for one in kept))


def _reference(predictor: "Predictor", model: Path, data: str | None) -> "Mapping[str, Any]":
    """Return the reference in the manifest, or one made of the model's answers on a data set."""
    from pupila.errors import DataError, ModelError

    manifest = predictor.manifest
    if data is None:
        if not manifest.reference:
            raise ModelError(
                f"{model}: has no reference, as it was written by an older Pupila. Give pictures like those that it "
                "should meet: --reference DATA"
            )
        return manifest.reference
    from pupila.data import load_dataset
    from pupila.evaluation.drift import answers_of, reference_of
    from pupila.evaluation.evaluate import predict_logits

    splits = load_dataset(data, manifest.input_size, framing=manifest.framing)
    dataset, part = splits.part(None)
    if part == "all" and splits.fingerprint == manifest.data.get("fingerprint"):
        message = f"{data}: the model was trained on these pictures, and is surer of them than of any it has not seen."
        raise DataError(f"{message} Give --reference others, as it should meet them.")
    logits = predict_logits(predictor, dataset.images)
    answers = answers_of(logits, manifest.temperature, manifest.unknown_threshold)
    return reference_of(answers, manifest.classes, f"{data}, {part}")


def _lines(found: "Drift", split: str) -> "Iterator[str]":
    from pupila.evaluation.drift import CONFIDENCE_FLOOR

    yield f"{found.n:,} served pictures against {found.reference_n:,} of the reference ({split})."
    yield from (finding.to_text() for finding in found.findings)
    if found.noticeable >= 1:
        yield "So few pictures cannot show any change of the confidence: collect more, or give a larger --reference."
    elif found.noticeable > 2 * CONFIDENCE_FLOOR:
        yield f"So few pictures show large changes only: of the confidence, those of D = {found.noticeable:.2f} up."
    if found.changed:
        yield "Something has changed: look at the pictures on the server's page /review, and correct some."
    else:
        yield "Nothing has changed as far as the answers tell."
