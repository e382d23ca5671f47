"""Training with 1 and 2 workers, plainly and through Ray, one thread each: pictures a second after start-up.

    python benchmarks/cluster/training.py [--epochs 4] [--pictures 1200]

The same work each time (`digits`, 64 px, batches of 128, float32), in turn. A row says the best epoch but the first:
work beside it only makes epochs longer. Efficiency is against one worker twice, overhead against the same without Ray.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = {
    "1 worker": [],
    "2 workers": ["--workers", "2"],
    "1 worker, Ray": ["--workers", "1", "--cluster"],
    "2 workers, Ray": ["--workers", "2", "--cluster"],
}
RECIPE = ["weights=none", "network_size=64", "progressive=[]", "batch_size=128", "precision=float32", "export=float32"]


def speed(metrics: Path) -> float:
    """Return pictures a second of the fastest epoch but the first, validation included."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    spent = [(row["pictures"], row["seconds"] - before["seconds"]) for before, row in itertools.pairwise(rows)]
    return max(pictures / seconds for pictures, seconds in spent)


def measure(name: str, options: list[str], runs: Path, epochs: int, pictures: int) -> float:
    """Train once in a process of its own and return its speed."""
    values = [word for value in [*RECIPE, f"sample={pictures}"] for word in ("--set", value)]
    line = [sys.executable, "-W", "ignore", "-m", "pupila", "train", "digits", "--epochs", str(epochs), *values]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    folder = name.replace(",", "").replace(" ", "-")
    subprocess.run(
        [*line, "--runs", str(runs), "--name", folder, *options], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    return speed(runs / folder / "metrics.jsonl")


def main() -> None:
    """Measure each way once and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=1200)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as runs:
        speeds = {n: measure(n, o, Path(runs), chosen.epochs, chosen.pictures) for n, o in WAYS.items()}
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    for name, found in speeds.items():
        print(f"{name:16} {found:8.1f} pictures/s")
    print(f"efficiency of 2 workers: {speeds['2 workers'] / speeds['1 worker'] / 2:.2f}")
    for count in ("1 worker", "2 workers"):
        print(f"overhead of Ray, {count}: {speeds[count] / speeds[f'{count}, Ray'] - 1:.1%}")


if __name__ == "__main__":
    main()
