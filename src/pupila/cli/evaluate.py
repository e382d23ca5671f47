"""`pupila evaluate`."""

import json
from pathlib import Path
from typing import Any

import click

from pupila.cli.group import json_option


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option(
    "--split",
    "part",
    type=click.Choice(["train", "validation", "test", "all"]),
    help="Pictures to score [default: test, or all where there is none].",
)
@click.option("--report", type=click.Path(path_type=Path), help="Write a report page and its plots into this folder.")
@json_option
def evaluate(model: Path, data: str, part: str | None, report: Path | None, as_json: bool) -> None:
    """Score MODEL on DATA: accuracy with its 95 % interval, per class, calibration."""
    from pupila.data import load_dataset
    from pupila.evaluation.evaluate import caution
    from pupila.evaluation.evaluate import evaluate as run
    from pupila.evaluation.pages.report import write_report
    from pupila.predictor import Predictor

    predictor = Predictor.load(model)
    manifest = predictor.manifest
    splits = load_dataset(data, manifest.input_size, framing=manifest.framing)
    dataset, part = splits.part(part)
    evaluation = run(predictor, dataset)
    result = {**evaluation.scores.to_json(), "split": part, "model": str(model), "version": predictor.version}
    result["caution"] = caution(manifest, splits.fingerprint, part)
    if report is not None:
        result["report"] = str(write_report(report, predictor, dataset, [], evaluation))
    click.echo(json.dumps(result) if as_json else _scores_text(result))


def _scores_text(result: dict[str, Any]) -> str:
    low, high = result["interval"]
    lines = [
        f"{result['split']}: accuracy {result['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}), "
        f"n = {result['n']:,}, expected calibration error {result['ece']:.4f}",
        *([result["caution"]] if result["caution"] else []),
        f"{'class':20} {'precision':>9} {'recall':>7} {'f1':>7} {'pictures':>9}",
    ]
    for row in result["classes"]:
        lines.append(
            f"{row['category']:20} {row['precision']:9.3f} {row['recall']:7.3f} {row['f1']:7.3f} {row['support']:9,}"
        )
    return "\n".join(lines)
