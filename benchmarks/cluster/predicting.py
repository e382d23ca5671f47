"""Batch prediction by one core and by two, plainly and on a Ray cluster of one node and of two: pictures a second.

    python benchmarks/cluster/predicting.py [--each 3000] [--rounds 2]

The same 9,000 photos and the bundled model each time, in turn; about four minutes on two quiet cores. Counted are the
answers in the job's database between a fifth of them and nearly all: starting and ending are left out. Each node
is a Ray node of its own with one core. Overhead is against the same number of cores without Ray; the bar is that of
training.py.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from batch_kit import count_answers
from cluster_kit import fill_with_photos, ray_cluster
from training import print_overhead

from pupila.models import bundled_model

LIMIT = 600.0
"""Seconds that one job may take."""


def speed(photos: Path, out: Path, cores: set[int], *more: str) -> float:
    """Run a job in a process of its own, on these cores, and return pictures a second."""
    command = [sys.executable, "-m", "pupila", "predict", str(bundled_model()), str(photos), "--out", str(out), *more]
    total = sum(1 for _ in photos.rglob("*.*"))
    limit = time.monotonic() + LIMIT
    marks: list[tuple[int, float]] = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as job:
        os.sched_setaffinity(job.pid, cores)
        while job.poll() is None and (not marks or marks[-1][0] < 0.95 * total):
            rows = count_answers(out)
            if rows > 0.2 * total and (not marks or rows > marks[-1][0]):
                marks.append((rows, time.perf_counter()))
            time.sleep(0.02)
            if time.monotonic() > limit:
                job.kill()
        _, said = job.communicate()
    if job.returncode or len(marks) < 2:
        raise SystemExit(f"{' '.join(command)}: {said.decode()}")
    (first, begun), *_, (last, ended) = marks
    return (last - first) / (ended - begun)


def main() -> None:
    """Measure each way in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=3000, help="photos a class, of three")
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, ray_cluster() as nodes:
        folder = Path(name)
        print(f"photos: {fill_with_photos(folder / 'photos', chosen.each)}")
        address = f"--cluster={nodes.address}"
        for number in range(chosen.rounds):
            out = [folder / f"{number}-{way}.csv" for way in range(4)]
            measured = {
                "1 core": speed(folder / "photos", out[0], {cores[0]}),
                "2 cores": speed(folder / "photos", out[1], set(cores)),
                "1 core, Ray": speed(folder / "photos", out[2], set(cores), address),
            }
            node = nodes.add(num_cpus=1)
            measured["2 cores, Ray"] = speed(folder / "photos", out[3], set(cores), address)
            nodes.kill(node)
            for way, figure in measured.items():
                found.setdefault(way, []).append(figure)
                print(f"round {number + 1}, {way:14} {figure:7.1f} pictures/s", flush=True)
    best = {way: max(figures) for way, figures in found.items()}
    print(f"{len(cores)} cores, load {os.getloadavg()[0]:.1f}; the best of {chosen.rounds} rounds:")
    print(f"efficiency of 2 cores: {best['2 cores'] / best['1 core'] / 2:.2f}")
    print(f"efficiency of 2 nodes: {best['2 cores, Ray'] / best['1 core, Ray'] / 2:.2f}")
    print_overhead(best, ("1 core", "2 cores"))


if __name__ == "__main__":
    main()
