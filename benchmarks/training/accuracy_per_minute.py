"""Accuracy against minutes: a table by network size and starting weights, each row a real `pupila train`.

    python benchmarks/training/accuracy_per_minute.py cifar10 --rows rows.jsonl
    python benchmarks/training/accuracy_per_minute.py --rows rows.jsonl --print

Every combination of --sizes, --weights, --minutes and --seeds is trained within its minutes and then scored on the test
split. A row is written as soon as it is known, and one that is there is not done again: stop and go on as you like, on
another machine if need be. The minutes are those of a machine that trains 290 pictures/s at 64 px; --rate says what
this one does (the first line of throughput.py --size 64), and each training gets so many more or fewer minutes by the
clock. Nothing else should run beside it.
"""

import argparse
import itertools
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]
SMALLER = {64: 48, 96: 64, 128: 96}
"""The size that a training for another one begins with, for the first 0.3 of its time."""
REFERENCE_RATE = 290
"""Pictures/s of the machine whose minutes are meant."""
PRECISION = re.compile(r"(float32|int8): ([\d.]+) MB, ([\d.]+) ms a picture on one thread, valid acc ([\d.]+)")


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines, one a training")
    parser.add_argument("--sizes", default="32,64,96,128")
    parser.add_argument("--weights", default="bundled,none")
    parser.add_argument("--minutes", default="1,2,10")
    parser.add_argument("--rate", type=float, default=REFERENCE_RATE, help="pictures/s of this machine at 64 px")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--sample", type=int, default=0, help="train on so many pictures only")
    parser.add_argument("--print", action="store_true", help="print the table of what is there")
    options = parser.parse_args()
    done = read_rows(options.rows)
    if not options.print:
        axes = [options.minutes, options.seeds, options.weights, options.sizes]
        for minutes, seed, weights, size in itertools.product(*(axis.split(",") for axis in axes)):
            if not any(same(row, size, weights, minutes, seed, options.sample) for row in done):
                done.append(train(options.data, size, weights, minutes, seed, options.sample, options.rate))
                with options.rows.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    print("\n".join(table(done)))


def read_rows(path: Path) -> list[Row]:
    """Return the rows so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def same(row: Row, size: str, weights: str, minutes: str, seed: str, sample: int) -> bool:
    """True if this row is that combination."""
    given = (int(size), weights, float(minutes), int(seed), sample)
    return (row["size"], row["weights"], row["minutes"], row["seed"], row["sample"]) == given


def arguments(data: str, size: str, weights: str, minutes: float, seed: str, sample: int) -> list[str]:
    """Return the command line of one row, without the place where it is written."""
    smaller = [[SMALLER[int(size)], 0.3]] if int(size) in SMALLER else []
    extra = ["--set", f"sample={sample}"] if sample else []
    return [
        "train", data, "--recipe", "standard", "--weights", weights, "--minutes", f"{minutes:.3g}", "--seed", seed,
        "--set", f"network_size={size}", "--set", f"progressive={smaller}", *extra,
    ]  # fmt: skip


def train(data: str, size: str, weights: str, minutes: str, seed: str, sample: int, rate: float) -> Row:
    """Train and score one row; raises CalledProcessError if the command fails."""
    with tempfile.TemporaryDirectory() as folder:
        words = arguments(data, size, weights, float(minutes) * REFERENCE_RATE / rate, seed, sample)
        begun = time.monotonic()
        printed = pupila(*words, "--runs", folder, "--name", "row")
        seconds = time.monotonic() - begun
        run = Path(folder) / "row"
        epochs = read_rows(run / "metrics.jsonl")
        scores = json.loads(pupila("evaluate", str(run / "model.onnx"), data, "--split", "test", "--json"))
    cost = {name: (float(size), float(ms)) for name, size, ms, _ in PRECISION.findall(printed)}
    row: Row = {
        "size": int(size), "weights": weights, "minutes": float(minutes), "seed": int(seed), "sample": sample,
        "rate": rate, "accuracy": scores["accuracy"], "n": scores["n"], "ece": scores["ece"],
        "wall_seconds": round(seconds, 1),
        "pictures": sum(epoch["pictures"] for epoch in epochs), "milliseconds": {k: v[1] for k, v in cost.items()},
        "megabytes": {k: v[0] for k, v in cost.items()},
        "command": shlex.join(["pupila", words[0], Path(data).name, *words[2:]]),
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


def pupila(*words: str) -> str:
    """Run the command line and return what it printed."""
    command = [sys.executable, "-m", "pupila", *words]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def table(rows: list[Row]) -> list[str]:
    """Return the rows of a Markdown table: one line for each size, start and budget, all seeds together."""
    lines = [
        "| px | start | minutes | taken | test accuracy, each seed | mean | pictures seen | ms float32 | ms int8 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    key = ("sample", "size", "weights", "minutes")
    ordered = sorted(rows, key=lambda row: ([row[name] for name in key], row["seed"]))
    for (_, size, weights, minutes), group in itertools.groupby(ordered, lambda row: tuple(row[k] for k in key)):
        found = list(group)
        accuracies = [row["accuracy"] for row in found]
        each = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        pictures = statistics.mean(row["pictures"] for row in found)
        taken = statistics.mean(row["wall_seconds"] * row["rate"] for row in found) / 60 / REFERENCE_RATE
        ms = [statistics.median(row["milliseconds"][name] for row in found) for name in ("float32", "int8")]
        lines.append(
            f"| {size} | {weights} | {minutes:g} | {taken:.1f} | {each} | {statistics.mean(accuracies):.3f} "
            f"| {pictures:,.0f} | {ms[0]:.1f} | {ms[1]:.2f} |"
        )
    return lines


if __name__ == "__main__":
    main()
