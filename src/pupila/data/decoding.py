"""Many pictures into one array, on all cores, in order, with progress. Knows nothing of labels or layouts."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

import numpy as np

from pupila import images
from pupila.data.dataset import Pictures
from pupila.data.worker import Decoded, decode_all, pack, read
from pupila.errors import DataError, ImageError
from pupila.images import ImageLimits
from pupila.progress import Progress

CHUNK = 128
"""Pictures in one job, at most: few enough for a smooth progress bar, enough for its own cost not to matter."""
CHUNK_BYTES = 16 * 2**20
"""Bytes in one job, at most, but for the last picture: they are copied to the worker."""
FEW = 256
"""Up to here this process decodes by itself: starting others takes longer than they would save."""
SIZES = (32, 64, 96, 128, 160, 224)
SIZE_SAMPLE = 1000
"""Headers looked at to choose a size, evenly spaced: the median of so many is close enough."""

Sources = Sequence[bytes | Path]


def decode_pictures(
    sources: Sources, size: int, limits: ImageLimits, framing: str = "squash", decoders: "Decoders | None" = None
) -> Decoded:
    """Return uint8 [N, size, size, 3] and, by index, the reason for each picture that could not be read.

    `decoders` are processes that were started before; without them, or if they are too few, others are started now.
    """
    if decoders is None or decoders.count < _worker_count(len(sources)):
        with Decoders(len(sources)) as decoders:
            return decode_pictures(sources, size, limits, framing, decoders)
    pixels = _room_for(len(sources), size)
    failed: dict[int, str] = {}
    start = 0
    with Progress("decoding", len(sources)) as bar:
        for part, problems in decoders.map(_chunks(sources), size, limits, framing):
            pixels[start : start + len(part)] = part
            failed.update({start + index: reason for index, reason in problems.items()})
            start += len(part)
            bar.advance(len(part))
    return pixels, failed


def _room_for(count: int, size: int) -> Pictures:
    """Return zeros to be filled; raises DataError if they would not fit: the system ends a process without a word."""
    needed, free = count * size * size * 3, _free_memory()
    if needed > free:
        raise DataError(
            f"{count:,} pictures of {size} x {size} pixels need {needed / 2**30:,.1f} GiB of memory, and "
            f"{free / 2**30:,.1f} are free. Choose a smaller --size: half of it needs a quarter."
        )
    return np.zeros((count, size, size, 3), dtype=np.uint8)


def _free_memory() -> float:
    """Return the bytes that may still be taken, as Linux says for machine and container; endless elsewhere."""
    free = float("inf")
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024.0 * int(lines["MemAvailable"].split()[0])
    with suppress(OSError, KeyError, ValueError):  # another system of groups, or no limit: then it says "max"
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())["anon"]
        free = min(free, float(limit - int(used)))
    return free


def sample_sides(sources: Sources, limits: ImageLimits) -> list[tuple[int, int]]:
    """Return width and height of up to about SIZE_SAMPLE pictures, evenly spaced, as their headers say."""
    found = []
    for source in sources[:: max(1, len(sources) // SIZE_SAMPLE)]:
        try:
            found.append(images.sides(read(source, limits), limits))
        except (ImageError, OSError):
            continue  # is listed as skipped when its turn to be decoded comes
    return found


def choose_size(sides: Sequence[tuple[int, int]]) -> int:
    """Return the smallest of 32, 64, 96, 128, 160 and 224 not below the median of the pictures' shorter sides."""
    median = float(np.median([min(pair) for pair in sides])) if sides else SIZES[0]
    return next((size for size in SIZES if size >= median), SIZES[-1])


def median_aspect(sides: Sequence[tuple[int, int]]) -> float:
    """Return the median of longer side / shorter side: 1 for squares, 1.33 for most photos."""
    return float(np.median([max(pair) / min(pair) for pair in sides])) if sides else 1.0


def resize_pictures(pictures: Pictures, size: int) -> Pictures:
    """Bring uint8 [N, H, W, 3] to [N, size, size, 3] just as picture files are."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    resized = np.empty((len(pictures), size, size, 3), dtype=np.uint8)
    with Progress("resizing", len(pictures)) as bar:
        for index, pixels in enumerate(pictures):
            resized[index] = images.resize(pixels, size)
            bar.advance()
    return resized


def _chunks(sources: Sources) -> Iterator[Sources]:
    start = total = 0
    for index, source in enumerate(sources, 1):
        total += len(source) if isinstance(source, bytes) else 0
        if index - start == CHUNK or total >= CHUNK_BYTES or index == len(sources):
            yield sources[start:index]
            start, total = index, 0


def _worker_count(pictures: int) -> int:
    """Return how many processes to start: one a core that we may use, or none for few pictures."""
    if pictures <= FEW or not sys.executable:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, -(-pictures // CHUNK)) if cores > 1 else 0


class Decoders:
    """N child processes, each fed by a thread of its own; with N = 0, this very thread. They start at once."""

    def __init__(self, pictures: int) -> None:
        """`pictures` is about how many there will be: few are not worth a process."""
        count = self.count = _worker_count(pictures)
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._processes = [_start() for _ in range(count)]
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(max(count, 1), "decoding")

    def __enter__(self) -> "Decoders":
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

    def map(self, chunks: Iterator[Sources], size: int, limits: ImageLimits, framing: str) -> Iterator[Decoded]:
        """Yield the answer to each chunk, in order; only so many are under way that their memory does not matter."""
        waiting: deque[Future[Decoded]] = deque()
        for chunk in chunks:
            if not self._processes:
                yield decode_all(chunk, size, limits, framing)
                continue
            waiting.append(self._threads.submit(self._ask, chunk, size, limits, framing))
            if len(waiting) > 3 * len(self._processes):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _ask(self, sources: Sources, size: int, limits: ImageLimits, framing: str) -> Decoded:
        process = self._idle.get()
        try:
            return answer(process, sources, size, limits, framing)
        finally:
            self._idle.put(process)


def _start() -> subprocess.Popen[bytes]:
    code = "from pupila.data.worker import serve; serve()"
    paths = os.pathsep.join(path for path in sys.path if path)  # finds this very pupila, wherever it was imported from
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-P", "-W", "ignore", "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def answer(
    process: subprocess.Popen[bytes], sources: Sources, size: int, limits: ImageLimits, framing: str = "squash"
) -> Decoded:
    """Give a decoding process one job and return its answer; raises DataError if it ends before it is done."""
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for the type checker
    pixels = np.empty((len(sources), size, size, 3), dtype=np.uint8)
    try:
        process.stdin.write(pack(sources, size, limits, framing))
        process.stdin.flush()
        head = process.stdout.readline()
        filled = process.stdout.readinto(pixels.reshape(-1).data)  # type: ignore[attr-defined]
    except OSError:
        head, filled = b"", 0
    if filled != pixels.nbytes:
        process.kill()
        raise DataError(
            f"A decoding process ended before its work was done (exit code {process.wait()}). "
            "The machine may be out of memory: close other programs, or use smaller pictures."
        )
    return pixels, {int(index): reason for index, reason in json.loads(head).items()}
