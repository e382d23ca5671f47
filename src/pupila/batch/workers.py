"""A pool of predicting processes, one a core: takes chunks of paths and yields lines of answers, in order.

A process that dies costs nothing but time: its chunk is done again,
one file at a time, and a file that ends a process twice gets a row that says so.
"""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from pupila._cpus import usable_cores
from pupila.batch.answer import FileAnswer
from pupila.errors import ModelError

AHEAD = 8
"""Chunks a process under way or waiting to be written: one slow picture does not make the other processes wait."""
CODE = "import sys; from pupila.batch.worker import serve; serve(sys.argv[1], int(sys.argv[2]))"


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


@dataclass(frozen=True)
class VerifiedModel:
    """What a job needs to know of a model file that was verified."""

    path: Path
    version: str
    name: str
    classes: tuple[str, ...]


class Ahead:
    """Processes that load and verify the model, so that this one need not: `with Ahead(model, top) as crew: crew(...)`.

    Those that the job turns out not to need are ended.
    """

    def __init__(self, model: Path, top: int) -> None:
        self._model, self._top = model, top
        self._idle: list[Worker] = []

    def __enter__(self) -> "Ahead":
        self._idle = [Worker(self._model, self._top) for _ in range(usable_cores())]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._idle)

    def verified(self) -> VerifiedModel:
        """Return what the first process found; raises ModelError."""
        return self._idle[0].model()

    def __call__(self, count: int, model: Path, version: str, top: int) -> "Workers":
        """Return the workers that a job needs, made of the processes that were started."""
        taken, spare = self._idle[:count], self._idle[count:]
        self._idle = []
        _end(spare)
        return Workers(count, model, version, top, taken)


class Worker:
    """One child process."""

    def __init__(self, path: Path, top: int) -> None:
        self._path, self._top = path, top
        self._ended = False
        self._process = start_process(path, top)
        self._model: VerifiedModel | None = None

    def model(self) -> VerifiedModel:
        """Wait for the model to be loaded and return what is known of it; raises ModelError.

        A process that was killed before it was has a second one in its place.
        """
        if self._model is None:
            said = self._said()
            if said is None:
                self._restart()
                said = self._said()
            if not isinstance(said, list):
                raise ModelError(said or f"{self._path}: its process was killed twice. Is there enough memory?")
            version, name, classes = said
            self._model = VerifiedModel(self._path, version, name, tuple(classes))
        return self._model

    def _said(self) -> Any:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def ask(self, paths: Sequence[str], version: str) -> bytes:
        """Return the lines of answers for the paths, by the model of that version.

        Raises ModelError if it has another one by now, and _DiedError, and can then be asked again.
        """
        if self.model().version != version:
            raise ModelError(
                f"{self._path}: changed while the job ran. Put it back and give the same command once more: "
                "it goes on where it stopped."
            )
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

    def _restart(self) -> None:
        self._process.kill()
        self._process.communicate()
        if self._ended:
            raise _EndedError
        self._process = start_process(self._path, self._top)
        self._model = None

    def kill(self) -> None:
        """End the process at once, and start no other."""
        self._ended = True
        self._process.kill()

    def close(self) -> None:
        """Let the process end, and wait until it has."""
        self._process.communicate()


class Workers:
    """N child processes, each asked by a thread of its own."""

    def __init__(self, count: int, model: Path, version: str, top: int, begun: Sequence[Worker] = ()) -> None:
        """`begun` are at most `count` processes that were started before; the others are started now."""
        self._workers = [*begun, *(Worker(model, top) for _ in range(count - len(begun)))]
        self._version = version
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

    def map(self, chunks: Iterator[list[str]]) -> Iterator[tuple[list[str], bytes]]:
        """Yield each chunk and its lines of answers, in order; only so many chunks are in memory."""
        waiting: deque[tuple[list[str], Future[bytes]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, self._threads.submit(self._ask, chunk)))
            if len(waiting) > AHEAD * len(self._workers):
                done, lines = waiting.popleft()
                yield done, lines.result()
        for done, lines in waiting:
            yield done, lines.result()

    def _ask(self, chunk: list[str]) -> bytes:
        worker = self._idle.get()
        try:
            return worker.ask(chunk, self._version)
        except _DiedError:
            return b"".join(_alone(worker, path, self._version) for path in chunk)
        finally:
            self._idle.put(worker)


def _alone(worker: Worker, path: str, version: str) -> bytes:
    """FileAnswer one file by itself; after the second process that it ends, by saying so."""
    for _ in range(2):
        try:
            return worker.ask([path], version)
        except _DiedError:
            continue
    return FileAnswer(
        code="file_unreadable", error="Reading it ended the process, twice. Save the picture anew."
    ).to_line()


def _end(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.close()
