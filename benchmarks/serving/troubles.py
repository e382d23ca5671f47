"""Serves under load while everything around it moves: model, disk, clock, log, thousands of idle connections.

    python benchmarks/serving/troubles.py MODEL.onnx [--minutes 10] [--idle 2000]

Every second the model file is replaced, every 20 seconds the disk of the kept pictures is filled or emptied, every 30
the clock jumps an hour ahead or back, every minute the access log is rotated. The disk is a tmpfs of 8 MiB, for which
one must be root; the clock is jumping_clock.c, for which there must be a C compiler; what cannot be had is left out,
and said. Prints what clients got, and what is left afterwards. Loopback only; ends by itself.
"""

import argparse
import contextlib
import http.client
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import onnx
from harness import descendants, end, free_port, resident, wait_for
from PIL import Image

from pupila.feedback.store import Store
from pupila.manifest import UNSEALED, sealed

SOURCE = Path(__file__).with_name("jumping_clock.c")
KEPT = 8 * 2**20
"""Bytes of the disk for kept pictures."""


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk there; False if that is not allowed."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={KEPT}", "tmpfs", str(folder)]
    mounted = subprocess.run(["mount", *options], stderr=subprocess.DEVNULL).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def compiled(library: Path) -> Path | None:
    """Compile what makes the clock jump; None if there is no compiler."""
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    if shutil.which("cc") is None:
        return None
    subprocess.run(command, check=True)
    return library


def renamed(model: Path) -> bytes:
    """Return the same network as a model of another name, to be sealed."""
    other = onnx.load(model)
    text = other.metadata_props[0].value
    seal, name = (json.loads(text)[key] for key in ("sha256", "name"))
    other.metadata_props[0].value = text.replace(seal, UNSEALED).replace(json.dumps(name), '"another"', 1)
    return bytes(other.SerializeToString())


class Troubles:
    """What happens around the server, one step a second; each method is one kind, `second` counts from 0."""

    def __init__(self, folder: Path, model: Path, disk: Path | None) -> None:
        self.folder, self.disk = folder, disk
        self.model, self.log, self.clock = folder / "model.onnx", folder / "access.jsonl", folder / "clock"
        self.files = [folder / "one.onnx", folder / "two.onnx"]
        shutil.copy(model, self.files[0])
        self.files[1].write_bytes(sealed(renamed(model)))
        shutil.copy(model, self.model)
        self.clock.write_text("0")
        self.library = compiled(folder / "jumping_clock.so")
        self.swaps = self.jumps = self.fillings = self.rotations = 0

    def step(self, second: int) -> None:
        """Do what is due at this second."""
        self.swap(second)
        if second % 20 == 10 and self.disk is not None:
            self.fill_or_empty(self.disk / "filling")
        if second % 30 == 15:
            self.jump()
        if second % 60 == 30:
            self.rotate()

    def swap(self, second: int) -> None:
        """Put the other model file in place of the one that is served."""
        following = self.folder / "next.onnx"
        shutil.copy(self.files[second % 2], following)
        following.replace(self.model)
        self.swaps += 1

    def fill_or_empty(self, filling: Path) -> None:
        """Fill the disk to its last byte, or delete what filled it."""
        if filling.exists():
            filling.unlink()
            return
        self.fillings += 1
        with contextlib.suppress(OSError), filling.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def jump(self) -> None:
        """Set the clock of the wall an hour ahead, or back by two, or to where it was."""
        self.jumps += 1
        following = self.folder / "clock.next"
        following.write_text(("0", "3600", "-3600")[self.jumps % 3])
        following.replace(self.clock)

    def rotate(self) -> None:
        """Move the access log away, as logrotate does."""
        self.rotations += 1
        self.log.rename(self.folder / f"access.jsonl.{self.rotations}")


def different_pictures(count: int) -> list[bytes]:
    """Return so many JPEGs of about 20 kB: all of them are kept, and fill a disk by themselves."""
    rng, made = np.random.default_rng(0), []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (128, 128, 3)).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


class Clients:
    """Four that ask all the time, and those that asked once and keep their connection."""

    def __init__(self, port: int, idle: int) -> None:
        self.port, self.bodies = port, different_pictures(500)
        self.codes, self.seconds, self.models = Counter[str](), list[float](), Counter[str]()
        self.done = threading.Event()
        self.idle = [http.client.HTTPConnection("127.0.0.1", port, timeout=30) for _ in range(idle)]

    def ask(self, connection: http.client.HTTPConnection) -> str:
        """Send the picture; return the status, or the name of what went wrong."""
        begun = time.monotonic()
        try:
            body = self.bodies[len(self.seconds) % len(self.bodies)]
            connection.request("POST", "/predict", body, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return type(error).__name__
        self.seconds.append(time.monotonic() - begun)
        self.models[answer.headers["Pupila-Model"]] += 1
        return str(answer.status)

    def loop(self) -> None:
        """Ask until all is done, without a pause that a user would not make."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.done.is_set():
            self.codes[self.ask(connection)] += 1
            time.sleep(0.01)
        connection.close()

    def ask_idle(self) -> Counter[str]:
        """Let each idle one ask once."""
        return Counter(self.ask(connection) for connection in self.idle)


def served(model: Path, log: Path, port: int, feedback: Path | None) -> list[str]:
    """Return the command of the server."""
    kept = [] if feedback is None else ["--feedback-dir", str(feedback)]
    options = ["--port", str(port), "--workers", "2", "--access-log", str(log), "--keepalive-timeout", "7200"]
    return [sys.executable, "-m", "pupila", "serve", str(model), *options, "--max-connections", "4096", *kept]


@contextmanager
def running(troubles: Troubles, feedback: Path | None, output: Path) -> Iterator[tuple[int, int]]:
    """Serve, with the clock of the troubles if there is one; yields the process id and the port."""
    port, environment = free_port(), dict(os.environ)
    if troubles.library is not None:
        environment |= {"LD_PRELOAD": str(troubles.library), "JUMPING_CLOCK": str(troubles.clock)}
    command = served(troubles.model, troubles.log, port, feedback)
    with output.open("w+b") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, process_group=0)
        try:
            wait_for(process, port, "the server", file)
            yield process.pid, port
        finally:
            end(process)


def main() -> None:
    """Start, trouble, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--idle", type=int, default=2000, help="connections that stay open and ask nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name) / "disk") as mounted:
        folder = Path(name)
        disk = folder / "disk" if mounted else None
        troubles = Troubles(folder, options.model, disk)
        feedback = None if disk is None else disk / "kept"
        with running(troubles, feedback, folder / "output") as (pid, port):
            clients = Clients(port, options.idle)
            print(f"idle, before: {dict(clients.ask_idle())}", flush=True)
            trouble(troubles, clients, 60 * options.minutes, lambda: memory_of(pid))
            print(f"idle, afterwards: {dict(clients.ask_idle())}")
            starts = metric(port, "pupila_worker_starts_total")
            for connection in clients.idle:
                connection.close()
        report(troubles, clients, starts, feedback)
        bad = {code for code in clients.codes if code != "200"}
        print((folder / "output").read_text()[-1500:] if bad else "", end="")
    sys.exit(bool(bad))


def trouble(troubles: Troubles, clients: Clients, seconds: float, memory: Callable[[], float]) -> None:
    """Make all kinds of trouble for so long, while clients ask."""
    threads = [threading.Thread(target=clients.loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    samples = []
    for second in count():
        time.sleep(max(0.0, begun + second - time.monotonic()))
        if time.monotonic() > begun + seconds:
            break
        troubles.step(second)
        samples.append(memory())
    clients.done.set()
    for thread in threads:
        thread.join()
    half = samples[len(samples) // 2 :]
    print(f"largest worker: median {statistics.median(half):.0f} MiB in the second half, {max(samples):.0f} at most")


def memory_of(pid: int) -> float:
    """Return the resident MiB of the largest process that this one has started."""
    return max((resident(one) for one in descendants(pid)), default=0.0)


def metric(port: int, name: str) -> float:
    """Return the sum of a counter."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def report(troubles: Troubles, clients: Clients, starts: float, feedback: Path | None) -> None:
    """Print what happened, what clients got, and what is left."""
    spent = sorted(clients.seconds)
    lines = sum(len(path.read_text().splitlines()) for path in troubles.folder.glob("access.jsonl*"))
    answered = sum(clients.models.values())
    print(
        f"{troubles.swaps} swaps, {troubles.jumps} jumps of the clock, {troubles.fillings} times a full disk, "
        f"{troubles.rotations} rotations, {starts:g} starts of workers"
    )
    print(
        f"answers {dict(clients.codes)}, by model {dict(clients.models)}; median {1000 * statistics.median(spent):.1f} "
        f"ms, p99 {1000 * spent[int(0.99 * len(spent))]:.0f} ms, slowest {1000 * spent[-1]:.0f} ms"
    )
    asked = sum(json.loads(line)["path"] == "/predict" for path in troubles.folder.glob("access.jsonl*")
                for line in path.read_text().splitlines())  # fmt: skip
    print(f"access log: {lines} lines, {asked} of /predict, for {answered} answers")
    if troubles.library is None:
        print("clock: left out, as there is no C compiler")
    if feedback is None:
        print("disk: left out, as a tmpfs cannot be mounted here")
    else:
        with contextlib.closing(Store(feedback)) as store:
            print(f"kept pictures: {store.counts()}; the disk has {len(list(feedback.rglob('*.*')))} files")


if __name__ == "__main__":
    main()
