"""`pupila drift`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pupila.cli.group import json_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pupila.evaluation.drift import Answers, Drift
    from pupila.predictor import Predictor


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--last", type=click.IntRange(50), default=2000, show_default=True, help="Look at so many pictures.")
@click.option("--reference", metavar="DATA", help="Compare with the answers on this data set, not with the manifest's.")
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
        click.echo(_text(found, expected["split"]))


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
    from pupila.errors import ModelError

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

    dataset, part = load_dataset(data, manifest.input_size, framing=manifest.framing).part(None)
    logits = predict_logits(predictor, dataset.images)
    answers = answers_of(logits, manifest.temperature, manifest.unknown_threshold)
    return reference_of(answers, manifest.classes, f"{data}, {part}")


def _text(found: "Drift", split: str) -> str:
    lines = [f"{found.n:,} served pictures against {found.reference_n:,} of the reference ({split})."]
    lines += [finding.to_text() for finding in found.findings]
    if found.changed:
        lines.append("Something has changed: look at the pictures on the server's page /review, and correct some.")
    else:
        lines.append("Nothing has changed as far as the answers tell.")
    return "\n".join(lines)
