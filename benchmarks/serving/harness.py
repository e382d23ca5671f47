"""Starts and ends the servers that are measured, each on a free loopback port in a process group of its own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
RIVALS = ("litserve", "bentoml", "granian", "waitress")
START_SECONDS = 90


def draw(path: Path) -> Path:
    """Write a 32 x 32 JPEG with some structure in it."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8))
    coarse.resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


@contextmanager
def running(side: str, model: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a side on a free port, wait until it answers, and end it and its children afterwards."""
    port = free_port()
    python = os.environ["RIVALS_PYTHON"] if side in RIVALS else sys.executable
    command = [python, str(HERE / "sides" / f"{side.replace('-', '_')}_side.py"), str(model), str(port)]
    source = str(HERE.parent.parent / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, process_group=0)
        try:
            wait_for(process, port, side, log)
            yield process, port
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the group that we started, politely first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(5)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def wait_for(process: subprocess.Popen[bytes], port: int, side: str, log: IO[bytes]) -> None:
    """Wait until a side answers anything at all over HTTP."""
    limit_at = time.monotonic() + START_SECONDS
    while time.monotonic() < limit_at and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    log.seek(0)
    sys.exit(f"{side} did not start: {log.read().decode()[-2000:]}")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(group: int) -> float:
    """Return the CPU time of all processes of a group so far."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")
