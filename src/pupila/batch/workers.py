"""The predicting processes, one a core: chunks of paths in, the journal's lines out, in order.

Knows nothing of listings, journals or pictures. A process that dies costs nothing but time: its chunk is done again,
one file at a time, and a file that ends a process twice gets a row that says so.
"""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from pupila.batch.answer import Answer
from pupila.errors import ModelError

AHEAD = 8
"""Chunks a process under way or waiting to be written: one slow picture does not make the other processes wait."""
CODE = "import sys; from pupila.batch.worker import serve; serve(sys.argv[1], int(sys.argv[2]))"


def cores() -> int:
    """Return the number of cores that this process may use, which a container can set below the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _DiedError(Exception):
    """The process ended before its answer was complete."""


class _EndedError(Exception):
    """The job is over, and nobody waits for the answer."""


Process = subprocess.Popen[bytes]


def start_process(model: Path, top: int) -> Process:
    """Start one predicting process, which begins to load the model at once."""
    paths = os.pathsep.join(path for path in sys.path if path)  # finds this very pupila
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-P", "-W", "ignore", "-c", CODE, str(model), str(top)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


class Ahead:
    """Processes that load the model while this one verifies it: `with Ahead(model, top) as crew: crew(...)`.

    Those that the job turns out not to need are ended.
    """

    def __init__(self, model: Path, top: int) -> None:
        self._model, self._top = model, top
        self._idle: list[Process] = []

    def __enter__(self) -> "Ahead":
        self._idle = [start_process(self._model, self._top) for _ in range(cores())]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(self._idle)

    def __call__(self, count: int, model: Path, version: str, top: int) -> "Workers":
        """Return the workers that a job needs, made of the processes that were started."""
        taken, spare = self._idle[:count], self._idle[count:]
        self._idle = []
        self._end(spare)
        return Workers(count, model, version, top, taken)

    @staticmethod
    def _end(processes: Sequence[Process]) -> None:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


class Worker:
    """One child process."""

    def __init__(self, model: Path, version: str, top: int, begun: Process | None = None) -> None:
        """`begun` is a process that was started before, for this model, and that nobody else asks."""
        self._model, self._version, self._top = model, version, top
        self._ended = False
        self._process = begun or start_process(model, top)
        self._greeted = False

    def ask(self, paths: Sequence[str]) -> bytes:
        """Return the journal's lines for the paths; raises _DiedError, and can then be asked again."""
        if not self._greeted:
            self._greet()
        try:
            return self._exchange(json.dumps(paths).encode() + b"\n")
        except (OSError, EOFError) as error:
            self._restart()
            raise _DiedError from error

    def _exchange(self, job: bytes) -> bytes:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101 - for the type checker
        stdin.write(job)
        stdin.flush()
        head = stdout.readline()
        lines = stdout.read(int(head)) if head.endswith(b"\n") else b""
        if not lines or len(lines) != int(head):
            raise EOFError
        return lines

    def _greet(self) -> None:
        """Wait for the model to be loaded; a process that was killed before has a second one in its place."""
        version = self._said_version()
        if not version:
            self._restart()
            version = self._said_version()
        if version != self._version:
            raise ModelError(
                f"{self._model}: changed, or could not be loaded again, while the job ran. "
                "Give the same command once more: it goes on where it stopped."
            )
        self._greeted = True

    def _said_version(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        return self._process.stdout.readline().decode().strip()

    def _restart(self) -> None:
        self._process.kill()
        self._process.communicate()
        if self._ended:
            raise _EndedError
        self._process = start_process(self._model, self._top)
        self._greeted = False

    def kill(self) -> None:
        """End the process at once, and start no other."""
        self._ended = True
        self._process.kill()

    def close(self) -> None:
        """Let the process end, and wait until it has."""
        self._process.communicate()


class Workers:
    """N child processes, each asked by a thread of its own."""

    def __init__(self, count: int, model: Path, version: str, top: int, begun: Sequence[Process] = ()) -> None:
        """`begun` are at most `count` processes that were started before; the others are started now."""
        given = [*begun, *[None] * (count - len(begun))]
        self._workers = [Worker(model, version, top, process) for process in given]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(count, "predicting")

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=kind is None, cancel_futures=True)
        for worker in self._workers:
            if kind is not None:
                worker.kill()
        self._threads.shutdown()
        for worker in self._workers:
            if kind is not None:
                worker.kill()  # a thread may have put a new process in the place of one killed above
            worker.close()

    def map(self, chunks: Iterator[list[str]]) -> Iterator[tuple[int, bytes]]:
        """Yield the number of files and the lines of each chunk, in order; only so many chunks are in memory."""
        waiting: deque[tuple[int, Future[bytes]]] = deque()
        for chunk in chunks:
            waiting.append((len(chunk), self._threads.submit(self._ask, chunk)))
            if len(waiting) > AHEAD * len(self._workers):
                count, lines = waiting.popleft()
                yield count, lines.result()
        for count, lines in waiting:
            yield count, lines.result()

    def _ask(self, chunk: list[str]) -> bytes:
        worker = self._idle.get()
        try:
            return worker.ask(chunk)
        except _DiedError:
            return b"".join(_alone(worker, path) for path in chunk)
        finally:
            self._idle.put(worker)


def _alone(worker: Worker, path: str) -> bytes:
    """Answer one file by itself; after the second process that it ends, by saying so."""
    for _ in range(2):
        try:
            return worker.ask([path])
        except _DiedError:
            continue
    return Answer(code="file_unreadable", error="Reading it ended the process, twice. Save the picture anew.").to_line()
