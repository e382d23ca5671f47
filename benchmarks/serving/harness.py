"""Starts and ends the servers that are measured, each on a free loopback port."""

import contextlib
import os
import signal
import socket
import ssl
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

import psutil

HERE = Path(__file__).resolve().parent
RIVALS = ("litserve", "bentoml", "granian", "waitress")
OPTIONS = ("ours-cors", "ours-keys", "ours-collect", "ours-tls")
"""This server with one option switched on."""
BEFORE = "before"
"""An older version of this server: BEFORE_PYTHON names an interpreter of an environment that has it installed."""
START_SECONDS = 300


def draw(path: Path) -> Path:
    """Write a 32 x 32 JPEG with some structure in it."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8))
    coarse.resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def draw_photo(path: Path) -> Path:
    """Write a JPEG of 1 megapixel with grain, as a photo has: it takes about as long to decode as one."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (40, 48, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((1155, 866), Image.Resampling.BICUBIC), np.float32)
    grain = rng.normal(0, 6, (866, 1155, 1)).astype(np.float32)
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, "JPEG", quality=85)
    return path


@contextmanager
def running(side: str, model: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a side on a free port, wait until it answers, and end it and its children afterwards.

    It has as many workers as cores, or as the environment variable WORKERS says.
    """
    port = free_port()
    command = command_of(side, model, port)
    environment = {"WORKERS": str(len(os.sched_getaffinity(0))), **os.environ}
    if side != BEFORE:
        source = str(HERE.parent.parent / "src")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a measurer that is ended ends what it started
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                                   process_group=0)  # fmt: skip
        try:
            wait_for(process, port, side, log)
            yield process, port
        finally:
            end(process)


def command_of(side: str, model: Path, port: int) -> list[str]:
    """Return the command that starts a side."""
    python, name, option = sys.executable, side, []
    if side in RIVALS:
        python = os.environ["RIVALS_PYTHON"]
    elif side == BEFORE:
        python, name = os.environ["BEFORE_PYTHON"], "ours"
    elif side in OPTIONS:
        name, _, chosen = side.partition("-")
        option = [chosen]
    return [python, str(HERE / "sides" / f"{name.replace('-', '_')}_side.py"), str(model), str(port), *option]


def end(process: subprocess.Popen[bytes]) -> None:
    """End the processes that we started, politely first; their group ends those whose parent has died before them."""
    started = descendants(process.pid)
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in started:  # those that have a group of their own
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs."""
    try:
        return [process.pid for process in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def url_of(side: str, port: int) -> str:
    """Return where a side that is running here answers."""
    return f"{'https' if side == 'ours-tls' else 'http'}://127.0.0.1:{port}"


def wait_for(process: subprocess.Popen[bytes], port: int, side: str, log: IO[bytes]) -> None:
    """Wait until a side answers anything at all over HTTP."""
    limit_at = time.monotonic() + START_SECONDS
    while time.monotonic() < limit_at and process.poll() is None:
        try:
            anybody = ssl._create_unverified_context()  # noqa: S323 - the certificate is its own
            urllib.request.urlopen(f"{url_of(side, port)}/healthz", timeout=1, context=anybody).close()
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


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its descendants so far."""
    return sum(used(one) for one in (pid, *descendants(pid)))


def used(pid: int) -> float:
    """Return the CPU time of one process so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Return the resident MiB of a process and its descendants."""
    return sum(resident(one) for one in (pid, *descendants(pid)))


def resident(pid: int) -> float:
    """Return the resident MiB of one process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0
