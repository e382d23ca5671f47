"""`pupila evaluate`."""

import json
from pathlib import Path
from typing import Any

import click

from pupila.cli.complete import data_sets, examples, models
from pupila.cli.group import json_option


@click.command(epilog=examples("pupila evaluate runs/photos-standard/model.onnx photos --report report"))
@click.argument("model", type=click.Path(path_type=Path), shell_complete=models)
@click.argument("data", shell_complete=data_sets)
@click.option(
    "--split",
    "part",
    type=click.Choice(["train", "validation", "test", "all"]),
    help="Pictures to score [default: test; else what training held out; else all].",
)
@click.option("--report", type=click.Path(path_type=Path), help="Write a report page and its plots into this folder.")
@json_option
def evaluate(model: Path, data: str, part: str | None, report: Path | None, as_json: bool) -> None:
    """Score MODEL on DATA: accuracy with its 95 % interval, per class, calibration."""
    from pupila.evaluation.evaluate import evaluate_model
    from pupila.evaluation.pages.report import write_report

    found = evaluate_model(model, data, part)
    result = {**found.to_json(), "model": str(model), "version": found.predictor.version}
    if report is not None:
        result["report"] = str(write_report(report, found.predictor, found.dataset, [], found, source=Path(data)))
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
