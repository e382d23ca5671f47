"""Measures this server beside the plain way and other servers: one model, one picture, one machine, one run.

    python benchmarks/serving/compare.py MODEL.onnx [--sides ours,plain] [--rounds 5] [--seconds 3] [--json FILE]

Needs wrk (Debian: apt-get install wrk). Everything listens on 127.0.0.1 only. Every round starts each side afresh, in
turn, so that a change in the machine's other load meets all of them; medians over the rounds are shown. `limit` is the
same decode, resize and session loop without HTTP, in one plain process per core. Sides that need packages of their own
are run with the interpreter that RIVALS_PYTHON names, and left out with a sentence where it is not set.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import BEFORE, HERE, OPTIONS, RIVALS, cpu_seconds, draw, running, url_of

CONNECTIONS = (1, 8, 64)
SIDES = ("limit", "ours", "plain", "gunicorn-sync", "gunicorn-gthread", *RIVALS, *OPTIONS, BEFORE)


@dataclass(frozen=True)
class Measured:
    """What wrk saw of one side in one round at one number of connections."""

    side: str
    connections: int
    per_second: float
    p50: float
    p99: float
    """Milliseconds."""
    failed: int
    cpu: float
    """Milliseconds of CPU time that the server's processes used for one request: nearly free of other load."""


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sides", default=",".join(SIDES), help=f"of {', '.join(SIDES)}")
    parser.add_argument("--picture", type=Path, help="a file to send; default: a 32 x 32 JPEG")
    parser.add_argument("--pictures", type=int, default=1, help="how many times it stands in one request")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("This benchmark sends its requests with wrk. Install it: apt-get install wrk")
    sides = [side for side in options.sides.split(",") if usable(side)]
    with tempfile.TemporaryDirectory() as folder:
        picture = options.picture or draw(Path(folder) / "picture.jpg")
        found: list[Measured] = []
        for number in range(options.rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                found += measure(side, options.model.resolve(), picture.resolve(), options.pictures, options.seconds)
            print(f"round {number + 1} of {options.rounds} done, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    show(found, sides)


def usable(side: str) -> bool:
    """Return whether a side can be run here, and say why not."""
    if side not in SIDES:
        sys.exit(f"There is no side {side!r}. Choose from {', '.join(SIDES)}.")
    if side in RIVALS and "RIVALS_PYTHON" not in os.environ:
        print(f"{side} is left out: set RIVALS_PYTHON to an interpreter that has it installed.", file=sys.stderr)
        return False
    if side == BEFORE and "BEFORE_PYTHON" not in os.environ:
        print(f"{side} is left out: set BEFORE_PYTHON to an interpreter of the older version.", file=sys.stderr)
        return False
    return True


def measure(side: str, model: Path, picture: Path, pictures: int, seconds: int) -> list[Measured]:
    """Run one side once at every number of connections."""
    if side == "limit":
        rate, cpu = limit(model, picture, seconds)
        return [Measured(side, count, rate / pictures, 0, 0, 0, cpu * pictures) for count in CONNECTIONS]
    with running(side, model) as (process, port):
        load(url_of(side, port), picture, pictures, 8, 1)  # warm
        return [one_load(side, process, port, picture, pictures, count, seconds) for count in CONNECTIONS]


def one_load(
    side: str, process: subprocess.Popen[bytes], port: int, picture: Path, pictures: int, count: int, seconds: int
) -> Measured:
    """Load a running side once, and note what its processes used."""
    before = cpu_seconds(process.pid)
    output = load(url_of(side, port), picture, pictures, count, seconds)
    used = cpu_seconds(process.pid) - before
    requests = int(re.search(r"(\d+) requests in", output)[1])  # type: ignore[index]
    per_second = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])  # type: ignore[index]
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", output))
    failed += sum(int(n) for line in re.findall(r"Socket errors: (.*)", output) for n in re.findall(r"\d+", line))
    cpu = 1000 * used / max(requests, 1)
    return Measured(side, count, per_second, latency("50%", output), latency("99%", output), failed, cpu)


def load(url: str, picture: Path, pictures: int, connections: int, seconds: int) -> str:
    """Run wrk and return what it prints."""
    environment = {**os.environ, "PICTURE": str(picture), "PICTURES": str(pictures)}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "--latency"]
    command += ["-s", str(HERE / "post.lua"), f"{url}/predict"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=seconds + 30
    ).stdout


def latency(percentile: str, output: str) -> float:
    """Return a percentile of wrk's latency in milliseconds."""
    found = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", output)
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]] if found else float("nan")


def limit(model: Path, picture: Path, seconds: int) -> tuple[float, float]:
    """Return pictures a second, and CPU milliseconds a picture, of the loop without HTTP in one process per core."""
    command = [sys.executable, str(HERE / "sides" / "limit_side.py"), str(model), str(picture), str(seconds)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in os.sched_getaffinity(0)]
    results = [json.loads(process.communicate(timeout=seconds + 60)[0]) for process in processes]
    return sum(rate for rate, _, _ in results), statistics.mean(cpu for _, cpu, _ in results)


def show(found: list[Measured], sides: list[str]) -> None:
    """Print medians: requests a second, p50, p99, CPU, failures; each side at each number of connections."""
    print(f"{'side':18}" + "".join(f"{f'{c} connections':>34}" for c in CONNECTIONS))
    print(f"{'':18}" + f"{'req/s   p50 ms   p99 ms  cpu ms':>34}" * len(CONNECTIONS) + "  failed")
    for side in sides:
        line, failed = f"{side:18}", 0
        for count in CONNECTIONS:
            ones = [one for one in found if (one.side, one.connections) == (side, count)]
            middle = [
                statistics.median(getattr(one, name) for one in ones) for name in ("per_second", "p50", "p99", "cpu")
            ]
            line += f"{middle[0]:>10.0f} {middle[1]:>8.2f} {middle[2]:>8.1f} {middle[3]:>6.2f}"
            failed += sum(one.failed for one in ones)
        print(f"{line}  {failed}")


if __name__ == "__main__":
    main()
