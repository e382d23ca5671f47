"""What Ray Serve costs: one replica behind its proxy against `pupila serve` with one worker, the same pictures.

    python benchmarks/cluster/serving.py [--rounds 3] [--seconds 3]

The bundled model. Each round starts both afresh, in turn, on the first two cores, with the load generator beside them;
about two minutes on two quiet cores. Shown are medians over the rounds: requests a second, latency in milliseconds, and
the processor time that all of the server's processes took a request, Ray's own included, which other work on the cores
hardly changes. A ratio is the median of the rounds' own ratios. Overhead is that of time a request; the bar is that of
training.py. Needs wrk (Debian: apt-get install wrk).
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "serving"))

from cluster_kit import deploy, ray_cluster
from compare import Measured, load, one_load
from harness import draw, draw_photo, free_port, running
from training import MOST

from pupila.models import bundled_model

WAYS = ("plain", "Ray Serve")
LOADS = (("small", 1), ("small", 8), ("photo", 8))
"""What is sent, and over how many connections."""
NAMES = {"small": "32 x 32 JPEG", "photo": "1-megapixel photo"}


@contextmanager
def served(way: str) -> Iterator[tuple[Any, int]]:
    """Serve in this way; gives what has the server's process id, and its port."""
    if way == "plain":
        with running("ours", bundled_model()) as (process, port):
            yield process, port
        return
    with ray_cluster() as nodes:
        port = free_port()
        deploy(bundled_model(), port, nodes.address, workers=1)
        yield SimpleNamespace(pid=os.getpid()), port  # Ray's processes are children of this one, which only waits


def measure(way: str, pictures: dict[str, Path], seconds: int) -> dict[tuple[str, int], Measured]:
    """Start, warm up, and load one way with everything."""
    found = {}
    with served(way) as (process, port):
        for kind, connections in LOADS:
            load(port, pictures[kind], 1, connections, 1)
            found[kind, connections] = one_load(way, process, port, pictures[kind], 1, connections, seconds)
    return found


def report(rounds: list[dict[str, dict[tuple[str, int], Measured]]]) -> None:
    """Print the table, and of each load the overhead."""
    print(f"{'':36}{'':12}{'req/s':>8}{'p50 ms':>8}{'p99 ms':>8}{'cpu ms':>8}{'failed':>8}")
    for kind, connections in LOADS:
        name = f"{NAMES[kind]}, {connections} connection{'s' * (connections > 1)}"
        for way in WAYS:
            ones = [one[way][kind, connections] for one in rounds]
            middle = [statistics.median(getattr(o, key) for o in ones) for key in ("per_second", "p50", "p99", "cpu")]
            figures = f"{middle[0]:8.0f}{middle[1]:8.2f}{middle[2]:8.1f}{middle[3]:8.2f}"
            print(f"{name:36}{way:12}{figures}{sum(o.failed for o in ones):8}")
        pairs = [[one[way][kind, connections] for way in WAYS] for one in rounds]
        ratio = statistics.median(plain.per_second / ray.per_second for plain, ray in pairs)
        more = statistics.median(ray.cpu - plain.cpu for plain, ray in pairs)
        met = "met" if ratio - 1 <= MOST else "NOT MET"
        print(f"{name:36}overhead of Ray Serve: {ratio - 1:.0%} (at most {MOST:.0%}: {met}), "
              f"{more:.1f} processor ms a request")  # fmt: skip


def main() -> None:
    """Measure both ways in turn, in the other order every other round, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    chosen = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("This benchmark sends its requests with wrk. Install it: apt-get install wrk")
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)  # what is started here inherits it
    os.environ["WORKERS"] = "1"
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = {"small": draw(Path(folder, "small.jpg")), "photo": draw_photo(Path(folder, "photo.jpg"))}
        for number in range(chosen.rounds):
            order = WAYS if number % 2 == 0 else WAYS[::-1]
            rounds.append({way: measure(way, pictures, chosen.seconds) for way in order})
            print(f"round {number + 1} of {chosen.rounds}", file=sys.stderr, flush=True)
    print(f"{len(cores)} cores, load {os.getloadavg()[0]:.1f}; medians of {chosen.rounds} rounds:")
    report(rounds)


if __name__ == "__main__":
    main()
