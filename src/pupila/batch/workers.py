"""The predicting processes of a job, one a core: they verify the model, and answer chunks of paths in order."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pupila._workers import DiedError, RefusedError, Worker, WorkerPool, usable_cores
from pupila.batch.job import FileAnswer
from pupila.errors import ModelError

LOST = FileAnswer(code="file_unreadable", error="Reading it ended the process, twice. Save the picture anew.").to_line()


@dataclass(frozen=True)
class VerifiedModel:
    """What a job needs to know of a model file that was verified."""

    path: Path
    version: str
    name: str
    classes: tuple[str, ...]


def start_process(model: Path, top: int) -> Worker:
    """Start one predicting process, which begins to load the model at once."""
    return Worker(["-m", "pupila.batch.worker", str(model), str(top)])


class Ahead:
    """Processes that load and verify the model, so that this one need not: `with Ahead(model, top) as crew: crew(...)`.

    Those that the job turns out not to need are ended.
    """

    def __init__(self, model: Path, top: int) -> None:
        self._model, self._top = model, top
        self._idle: list[Worker] = []

    def __enter__(self) -> "Ahead":
        self._idle = [start_process(self._model, self._top) for _ in range(usable_cores())]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._idle)

    def verified(self) -> VerifiedModel:
        """Return what the first process found, or a second one if it was killed; raises ModelError."""
        for _ in range(2):
            try:
                version, name, classes = json.loads(self._idle[0].ask(_pack("", [])))
                return VerifiedModel(self._model, version, name, tuple(classes))
            except RefusedError as error:
                raise ModelError(str(error)) from None
            except DiedError:
                continue
        raise ModelError(f"{self._model}: its process was killed twice. Is there enough memory?")

    def __call__(self, count: int, model: Path, version: str, top: int) -> "Workers":
        """Return the workers that a job needs, made of the processes that were started."""
        taken, spare = self._idle[:count], self._idle[count:]
        self._idle = []
        _end(spare)
        return Workers(count, model, version, top, taken)


class Workers:
    """The predicting processes of one job."""

    def __init__(self, count: int, model: Path, version: str, top: int, begun: Sequence[Worker] = ()) -> None:
        """`begun` are at most `count` processes that were started before; the others are started now."""
        self._pool = WorkerPool([*begun, *(start_process(model, top) for _ in range(count - len(begun)))])
        self._version = version

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, value, trace)

    def map(self, chunks: Iterator[list[str]]) -> Iterator[tuple[list[str], bytes]]:
        """Yield each chunk of paths and its lines of answers, in order; raises ModelError if the model changed."""
        try:
            yield from self._pool.map(chunks, lambda paths: _pack(self._version, paths), LOST)
        except RefusedError as error:
            raise ModelError(str(error)) from None


def _pack(version: str, paths: Sequence[str]) -> bytes:
    return json.dumps([version, paths]).encode()


def _end(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.close()
