"""The decoding processes, one a core: picture files in, pixels out, in memory that all of them share.

What a process answers is a line, not the pixels, and it has its next job before it is done with one: it never waits.
Knows nothing of labels, layouts or sizes.
"""

import json
import mmap
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from queue import SimpleQueue
from types import TracebackType

import numpy as np

from pupila._cpus import usable_cores
from pupila.data.dataset import Pictures
from pupila.data.decoding import worker
from pupila.data.decoding.worker import Failed, Sources, decode_into, pack
from pupila.errors import DataError
from pupila.images import ImageLimits

CHUNK = 128
"""Pictures in one job, at most: few enough for a smooth progress bar, enough for its own cost not to matter."""
CHUNK_BYTES = 16 * 2**20
"""Bytes in one job, at most, but for the last picture: they are copied to the process."""
FEW = 256
"""Up to here this process decodes by itself: starting others takes longer than they would save."""
AHEAD = 2
"""Jobs that a process has: one under way, and the next."""

Job = tuple[int, Sources]
"""The place of its first picture, and the pictures."""
Process = subprocess.Popen[bytes]


def worker_count(pictures: int) -> int:
    """Return how many processes to start: one a core that we may use, or none for few pictures."""
    if pictures <= FEW or not sys.executable:
        return 0
    cores = usable_cores()
    return min(cores, -(-pictures // CHUNK)) if cores > 1 else 0


class Decoders:
    """N child processes, which start at once; with N = 0, this very one. Good for one data set."""

    def __init__(self, pictures: int) -> None:
        """`pictures` is about how many there will be: few are not worth a process."""
        self.count = worker_count(pictures)
        self._memory = _nameless_file() if self.count else -1
        self._processes = [_start(self._memory) for _ in range(self.count)]

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            if kind is not None:
                process.kill()
        for process in self._processes:
            process.communicate()
        if self.count:
            os.close(self._memory)

    def room(self, count: int, size: int) -> Pictures:
        """Return zeros, uint8 [count, size, size, 3], that the processes can write to."""
        shape = (count, size, size, 3)
        if not self.count or not count:
            return np.zeros(shape, dtype=np.uint8)
        os.ftruncate(self._memory, count * size * size * 3)
        return np.frombuffer(mmap.mmap(self._memory, 0), dtype=np.uint8).reshape(shape)

    def decode(
        self, sources: Sources, pixels: Pictures, limits: ImageLimits, framing: str
    ) -> Iterator[tuple[int, Failed]]:
        """Decode the sources into `pixels`, which room() made; yield the number of pictures and the failed of each job.

        Raises DataError if a process ends before its work is done.
        """
        jobs = _jobs(sources)
        if not self._processes:
            for start, part in jobs:
                failed = decode_into(pixels[start : start + len(part)], part, limits, framing)
                yield len(part), {start + index: reason for index, reason in failed.items()}
            return
        crew = _Crew(jobs, pixels.shape[:2], limits, framing)
        threads = [threading.Thread(target=crew.ask, args=(process,)) for process in self._processes]
        for thread in threads:
            thread.start()
        try:
            left = len(sources)
            while left:
                count, failed = crew.answer()
                left -= count
                yield count, failed
        except BaseException:
            for process in self._processes:
                process.kill()
            raise
        finally:
            for thread in threads:
                thread.join()


class _Crew:
    """The threads that ask a process each; what is done lies in one queue."""

    def __init__(self, jobs: Iterator[Job], shape: tuple[int, ...], limits: ImageLimits, framing: str) -> None:
        self._jobs, self._shape, self._limits, self._framing = jobs, shape, limits, framing
        self._turn = threading.Lock()
        self._done: SimpleQueue[tuple[int, Failed] | DataError] = SimpleQueue()

    def answer(self) -> tuple[int, Failed]:
        """Wait for a job to be done; raises DataError if one never will be."""
        done = self._done.get()
        if isinstance(done, DataError):
            raise done
        return done

    def ask(self, process: Process) -> None:
        """Give a process jobs until there are no more, and take its answers."""
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for the type checker
        under_way: deque[tuple[int, int]] = deque()
        try:
            while True:
                while len(under_way) < AHEAD and (job := self._next()):
                    start, part = job
                    under_way.append((start, len(part)))
                    process.stdin.write(pack(part, start, self._shape, self._limits, self._framing))
                    process.stdin.flush()
                if not under_way:
                    return
                line = process.stdout.readline()
                if not line.endswith(b"\n"):
                    raise BrokenPipeError
                start, count = under_way.popleft()
                failed = {start + int(index): str(reason) for index, reason in json.loads(line).items()}
                self._done.put((count, failed))
        except OSError:
            process.kill()
            self._done.put(_ended(process.wait()))

    def _next(self) -> Job | None:
        with self._turn:
            return next(self._jobs, None)


def _jobs(sources: Sources) -> Iterator[Job]:
    start = total = 0
    for index, source in enumerate(sources, 1):
        total += len(source) if isinstance(source, bytes) else 0
        if index - start == CHUNK or total >= CHUNK_BYTES or index == len(sources):
            yield start, sources[start:index]
            start, total = index, 0


def _nameless_file() -> int:
    """Return the descriptor of a file in memory, or where there is no such thing, of one on disk without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pupila")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _start(memory: int) -> Process:
    paths = os.pathsep.join(path for path in sys.path if path)  # finds this very pupila, wherever it was imported from
    environment = {**os.environ, "PYTHONPATH": paths}
    # As a file and no module, since that would import all of pupila.data: half of the time that a start takes.
    command = [sys.executable, "-P", "-W", "ignore", worker.__file__, str(memory)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, pass_fds=(memory,))


def _ended(code: int) -> DataError:
    return DataError(
        f"A decoding process ended before its work was done (exit code {code}). "
        "The machine may be out of memory: close other programs, or use smaller pictures."
    )
