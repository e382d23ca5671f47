"""Many pictures into one array, on all cores, in order, with progress. Knows nothing of labels or layouts."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

import numpy as np

from pupila import images
from pupila.data.worker import Decoded, decode_all, pack, read
from pupila.errors import DataError, ImageError
from pupila.images import ImageLimits
from pupila.progress import Progress

CHUNK = 256
"""Pictures in one job: small enough for a smooth progress bar, large enough for its cost not to matter."""
FEW = 1024
"""Up to here this process decodes by itself: starting others takes longer than they would save."""
SIZES = (32, 64, 96, 128, 160, 224)
SIZE_SAMPLE = 1000
"""Headers looked at to choose a size, evenly spaced: the median of so many is close enough."""

Sources = Sequence[bytes | Path]


def decode_pictures(sources: Sources, size: int, limits: ImageLimits) -> Decoded:
    """Return uint8 [N, size, size, 3] and, by index, the reason for each picture that could not be read."""
    pixels = np.zeros((len(sources), size, size, 3), dtype=np.uint8)
    failed: dict[int, str] = {}
    starts = range(0, len(sources), CHUNK)
    with Progress("decoding", len(sources)) as bar, _Workers(_worker_count(len(sources))) as workers:
        waiting: deque[tuple[int, Future[Decoded]]] = deque()
        for start in (*starts, *([None] * workers.window)):
            if start is not None:
                waiting.append((start, workers.submit(sources[start : start + CHUNK], size, limits)))
            if waiting and (start is None or len(waiting) > workers.window):
                first, future = waiting.popleft()
                part, problems = future.result()
                pixels[first : first + len(part)] = part
                failed.update({first + index: reason for index, reason in problems.items()})
                bar.advance(len(part))
    return pixels, failed


def choose_size(sources: Sources, limits: ImageLimits) -> int:
    """Return the smallest of 32, 64, 96, 128, 160 and 224 not below the median of the pictures' shorter sides."""
    sides = []
    for source in sources[:: max(1, len(sources) // SIZE_SAMPLE)]:
        try:
            sides.append(images.shorter_side(read(source, limits), limits))
        except (ImageError, OSError):
            continue  # is listed as skipped when its turn to be decoded comes
    median = float(np.median(sides)) if sides else SIZES[0]
    return next((size for size in SIZES if size >= median), SIZES[-1])


def _worker_count(pictures: int) -> int:
    """Return how many processes to start: one a core that we may use, or none for few pictures."""
    if pictures <= FEW or not sys.executable:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, -(-pictures // CHUNK)) if cores > 1 else 0


class _Workers:
    """N child processes, each fed by a thread of its own; with N = 0, this very thread."""

    def __init__(self, count: int) -> None:
        self.window = 2 * count
        """Jobs that may wait beside those under way: bounds the memory that answers take."""
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._processes = [_start() for _ in range(count)]
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(max(count, 1), "decoding")

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for process in self._processes:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()

    def submit(self, sources: Sources, size: int, limits: ImageLimits) -> Future[Decoded]:
        if self._processes:
            return self._threads.submit(self._ask, sources, size, limits)
        done: Future[Decoded] = Future()
        done.set_result(decode_all(sources, size, limits))
        return done

    def _ask(self, sources: Sources, size: int, limits: ImageLimits) -> Decoded:
        process = self._idle.get()
        try:
            return _answer(process, sources, size, limits)
        finally:
            self._idle.put(process)


def _start() -> subprocess.Popen[bytes]:
    code = "from pupila.data.worker import serve; serve()"
    paths = os.pathsep.join(path for path in sys.path if path)  # finds this very pupila, wherever it was imported from
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-P", "-W", "ignore", "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _answer(process: subprocess.Popen[bytes], sources: Sources, size: int, limits: ImageLimits) -> Decoded:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for the type checker
    pixels = np.empty((len(sources), size, size, 3), dtype=np.uint8)
    try:
        process.stdin.write(pack(sources, size, limits))
        process.stdin.flush()
        head = process.stdout.readline()
        filled = process.stdout.readinto(memoryview(pixels).cast("B"))  # type: ignore[attr-defined]
    except OSError:
        head, filled = b"", 0
    if filled != pixels.nbytes:
        raise DataError(
            f"A decoding process ended before its work was done (exit code {process.poll()}). "
            "The machine may be out of memory: close other programs, or use smaller pictures."
        )
    return pixels, {int(index): reason for index, reason in json.loads(head).items()}
