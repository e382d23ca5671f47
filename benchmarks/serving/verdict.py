"""Measures everything that is promised of the server's speed, start and memory, and says of each promise if it is met.

    RIVALS_PYTHON=.rivals/bin/python python benchmarks/serving/verdict.py MODEL.onnx [--rounds 5] [--seconds 3]

One run on two cores (of the machine's, if it has more), the load generator beside the servers. Each round measures
every side afresh, in turn, and in the opposite order every other time; a ratio is the median of the rounds' own ratios,
so that a change in the machine's other load meets both of its sides. Needs wrk, RIVALS_PYTHON
as in compare.py, and for the version before BEFORE_PYTHON, an interpreter of an environment that has it installed.
Exits with 1 if anything is not met. About 80 s a round.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from chaos import ask
from compare import CONNECTIONS, load, one_load, usable
from harness import HERE, OPTIONS, RIVALS, descendants, draw, draw_photo, end, free_port, resident, running, url_of

RATIOS = {
    "before": (0.95, 0.95, 0.95),
    "plain": (0.0, 12.0, 12.0),
    "litserve": (1.5, 1.9, 2.2),
    "bentoml": (1.5, 1.9, 2.0),
}
"""How many times the requests a second of each other side are promised, at 1, 8 and 64 connections."""
OF_OURS = 0.9
"""Of the requests a second without an option, with each of them."""
SIDES = ("limit", "ours", *OPTIONS, "before", "plain", "litserve", "bentoml")
NAMES = {"before": "the version before", "plain": "the plain way", "litserve": "LitServe", "bentoml": "BentoML"}
OF_LIMIT = {"small": 0.7, "photo": 0.9, "many": 0.9}
PAYLOADS = {"small": "single 32 x 32 pictures", "photo": "1-megapixel photos", "many": "requests of 32 pictures"}


@dataclass
class Found:
    """Every measurement by what it is of, one a round."""

    rounds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, value: float) -> None:
        """Note one measurement."""
        self.rounds[name].append(value)

    def median(self, name: str) -> float:
        """Return the median over the rounds, not a number if there are none."""
        return statistics.median(self.rounds[name]) if self.rounds[name] else float("nan")

    def ratio(self, above: str, below: str) -> float:
        """Return the median of the rounds' own ratios; a round in which a side answered nothing gives none."""
        ratios = [a / b for a, b in zip(self.rounds[above], self.rounds[below], strict=False) if a and b]
        return statistics.median(ratios) if ratios else float("nan")


@dataclass(frozen=True)
class Files:
    """What is sent: the file, and how many times it stands in a request."""

    small: Path
    photo: Path

    def of(self, payload: str) -> tuple[Path, int]:
        """Return the file and the number of its copies."""
        return (self.photo if payload == "photo" else self.small), 32 if payload == "many" else 1


def main() -> None:
    """Parse, measure, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--sides", default=",".join(SIDES), help="what to measure")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("This benchmark sends its requests with wrk. Install it: apt-get install wrk")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-2:])  # the servers inherit it
    model, found = options.model.resolve(), Found()
    sides = [side for side in options.sides.split(",") if usable(side)]
    with tempfile.TemporaryDirectory() as folder:
        files = Files(draw(Path(folder) / "small.jpg"), draw_photo(Path(folder) / "photo.jpg"))
        for number in range(options.rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                measure(side, model, files, options.seconds, found)
            found.add("cold start", cold_start(model, files.small))
            print(f"round {number + 1} of {options.rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps(found.rounds, indent=1))
    report(found, sides, options)


def measure(side: str, model: Path, files: Files, seconds: int, found: Found) -> None:
    """Measure one side once."""
    if side == "limit":
        measure_limit(model, files, seconds, found)
        return
    with running(side, model) as (process, port):
        load(url_of(side, port), files.small, 1, 8, 1)  # warm
        for count in CONNECTIONS:
            one = one_load(side, process, port, files.small, 1, count, seconds)
            for name, value in (("small", one.per_second), ("p50", one.p50), ("p99", one.p99), ("failed", one.failed)):
                found.add(f"{side} {name} at {count}", value)
        if side == "ours":
            for payload, longer in (("photo", 1), ("many", 3)):  # wrk does not count what is half done at its end
                picture, copies = files.of(payload)
                one = one_load(side, process, port, picture, copies, 8, longer * seconds)
                found.add(f"ours {payload}", one.per_second)
            found.add("memory", max(resident(pid) for pid in descendants(process.pid)))


def measure_limit(model: Path, files: Files, seconds: int, found: Found) -> None:
    """Measure the loop without HTTP: in a process per core, and in one alone for the time of a prediction."""
    for payload in PAYLOADS:
        picture, copies = files.of(payload)
        processes = [limit_process(model, picture, seconds) for _ in os.sched_getaffinity(0)]
        rates = [json.loads(process.communicate(timeout=seconds + 60)[0])[0] for process in processes]
        found.add(f"limit {payload}", sum(rates) / copies)
    alone = limit_process(model, files.small, seconds).communicate(timeout=seconds + 60)[0]
    found.add("prediction", json.loads(alone)[2])


def limit_process(model: Path, picture: Path, seconds: int) -> "subprocess.Popen[str]":
    """Start one process of the limit."""
    command = [sys.executable, str(HERE / "sides" / "limit_side.py"), str(model), str(picture), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def cold_start(model: Path, picture: Path) -> float:
    """Return the seconds from starting `pupila serve` to its first answer."""
    port, data = free_port(), picture.read_bytes()
    started = time.monotonic()
    command = [sys.executable, "-m", "pupila", "serve", str(model), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    try:
        while ask(port, data, timeout=30)[0] != "200":
            if time.monotonic() > started + 90 or process.poll() is not None:
                sys.exit("pupila serve did not start")
            time.sleep(0.005)
        return time.monotonic() - started
    finally:
        end(process)


@dataclass(frozen=True)
class Promise:
    """One thing that is promised, and what was measured."""

    text: str
    value: float
    bound: float
    unit: str = ""
    at_least: bool = True

    def kept(self) -> bool:
        """Return whether it is met; nothing measured is not met."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def line(self) -> str:
        """Return a line to print."""
        sign = "at least" if self.at_least else "at most"
        state = "met" if self.kept() else "not measured" if self.value != self.value else "NOT MET"
        return f"{state:13}{self.text:68}{self.value:9.2f} {self.unit:9}{sign} {self.bound:.2f}"


def promises(found: Found, sides: Iterable[str]) -> list[Promise]:
    """Return every promise, in the order in which they are made."""
    made = []
    for side, bounds in RATIOS.items():
        if side not in sides:
            continue
        for count, bound in zip(CONNECTIONS, bounds, strict=True):
            ratio = found.ratio(f"ours small at {count}", f"{side} small at {count}")
            made.append(Promise(f"requests/s against {NAMES[side]}, {connections(count)}", ratio, bound, "times"))
            if side in RIVALS:
                tail = found.ratio(f"ours p99 at {count}", f"{side} p99 at {count}")
                made.append(
                    Promise(f"p99 as a part of that of {NAMES[side]}, {connections(count)}", tail, 1, "times", False)
                )
    for side in (side for side in OPTIONS if side in sides):
        for count in CONNECTIONS:
            ratio = found.ratio(f"{side} small at {count}", f"ours small at {count}")
            made.append(Promise(f"requests/s of {side} against ours, {connections(count)}", ratio, OF_OURS, "times"))
    for payload, bound in OF_LIMIT.items():
        ours = "ours small at 8" if payload == "small" else f"ours {payload}"
        text = f"of the loop without HTTP, {PAYLOADS[payload]}, 8 connections"
        made.append(Promise(text, found.ratio(ours, f"limit {payload}"), bound, "times"))
    over = found.median("ours p50 at 1") - found.median("prediction")
    made.append(Promise("p50 of one idle client, above the in-process prediction", over, 0.7, "ms", False))
    tail = found.ratio("ours p99 at 8", "ours p50 at 8")
    made.append(Promise("p99 as a multiple of p50, 8 connections", tail, 3, "times", False))
    made.append(Promise("from starting the command to its first answer", found.median("cold start"), 1.5, "s", False))
    made.append(Promise("memory of the largest worker after all this", found.median("memory"), 150, "MiB", False))
    return made


def connections(count: int) -> str:
    """Return how many, in words."""
    return "1 connection" if count == 1 else f"{count} connections"


def report(found: Found, sides: list[str], options: argparse.Namespace) -> None:
    """Print what was measured and what is met; exits with 1 if anything is not."""
    print(f"{options.rounds} rounds of {options.seconds} s, medians, load average now {os.getloadavg()[0]:.1f}\n")
    print("requests/s, p50 ms, p99 ms, failed" + "".join(f"{connections(count):>33}" for count in CONNECTIONS))
    for side in (side for side in sides if side != "limit"):
        cells: Iterable[str] = (cell(found, side, count) for count in CONNECTIONS)
        print(f"{side:34}" + "".join(f"{text:>33}" for text in cells))
    print(f"limit: {found.median('limit small'):.0f} small, {found.median('limit photo'):.0f} photos,", end=" ")
    print(
        f"{found.median('limit many'):.1f} requests of 32 a second; a prediction {found.median('prediction'):.2f} ms\n"
    )
    judged = promises(found, sides)
    print(*(promise.line() for promise in judged), sep="\n")
    sys.exit(not all(promise.kept() for promise in judged))


def cell(found: Found, side: str, count: int) -> str:
    """Return what was measured of one side at one number of connections."""
    rate, p50, p99 = (found.median(f"{side} {name} at {count}") for name in ("small", "p50", "p99"))
    return f"{rate:.0f}  {p50:.2f}  {p99:.1f}  {sum(found.rounds[f'{side} failed at {count}']):.0f}"


if __name__ == "__main__":
    main()
