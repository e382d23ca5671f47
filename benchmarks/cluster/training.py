"""Training with 1 and 2 workers, plainly and through Ray, one thread each: pictures a second after start-up.

    python benchmarks/cluster/training.py [--epochs 3] [--pictures 800] [--rounds 2]

The same work each time (`digits`, 64 px, batches of 128, float32), in turn; about seven minutes on two quiet cores.
A figure is of the fastest epoch of all rounds, leaving out each run's first: work beside it only makes epochs longer.
Efficiency is against one worker twice. Overhead is against the same without Ray, and the bar for it is MOST.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

WAYS = {
    "1 worker": [],
    "2 workers": ["--workers", "2"],
    "1 worker, Ray": ["--workers", "1", "--cluster"],
    "2 workers, Ray": ["--workers", "2", "--cluster"],
}
RECIPE = ["weights=none", "network_size=64", "progressive=[]", "batch_size=128", "precision=float32", "export=float32"]
MOST = 0.10
"""Of the time that the same takes without Ray."""
LIMIT = 900.0
"""Seconds that one training may take."""


def speed(metrics: Path) -> float:
    """Return pictures a second of the fastest epoch but the first, validation included."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    spent = [(row["pictures"], row["seconds"] - before["seconds"]) for before, row in itertools.pairwise(rows)]
    return max(pictures / seconds for pictures, seconds in spent)


def measure(options: list[str], folder: Path, epochs: int, pictures: int) -> float:
    """Train once in a process of its own and return its speed."""
    values = [word for value in [*RECIPE, f"sample={pictures}"] for word in ("--set", value)]
    line = [sys.executable, "-m", "pupila", "train", "digits", "--epochs", str(epochs), *values, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    where = ["--runs", str(folder.parent), "--name", folder.name]
    done = subprocess.run([*line, *where], env=environment, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return speed(folder / "metrics.jsonl")


def main() -> None:
    """Measure each way in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as runs:
        for number, (name, options) in itertools.product(range(chosen.rounds), WAYS.items()):
            folder = Path(runs, f"{number} {name}")
            found[name].append(measure(options, folder, chosen.epochs, chosen.pictures))
            print(f"round {number + 1}, {name:14} {found[name][-1]:7.1f} pictures/s", flush=True)
    best = {name: max(speeds) for name, speeds in found.items()}
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; the best of {chosen.rounds} rounds:")
    for name, fastest in best.items():
        print(f"{name:16} {fastest:8.1f} pictures/s")
    print(f"efficiency of 2 workers: {best['2 workers'] / best['1 worker'] / 2:.2f}")
    print_overhead(best, ("1 worker", "2 workers"))


def print_overhead(best: dict[str, float], counts: Sequence[str]) -> None:
    """Say of each way what Ray costs it, from pictures a second without and with it, and whether the bar is met."""
    for count in counts:
        overhead = best[count] / best[f"{count}, Ray"] - 1
        print(
            f"overhead of Ray, {count}: {overhead:.1%} (at most {MOST:.0%}: {'met' if overhead <= MOST else 'NOT MET'})"
        )


if __name__ == "__main__":
    main()
