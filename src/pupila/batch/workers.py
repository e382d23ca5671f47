"""The predicting processes of a job, one a core: they answer chunks of paths in order."""

import json
from collections.abc import Iterator
from pathlib import Path

from pupila._workers import RefusedError, Worker, WorkerPool
from pupila.batch.job import FileAnswer
from pupila.errors import ModelError

LOST = FileAnswer(code="file_unreadable", error="Reading it ended the process, twice. Save the picture anew.").to_line()


class Workers(WorkerPool):
    """The predicting processes of one job."""

    def __init__(self, count: int, model: Path, version: str, top: int) -> None:
        """`version`: of the model, which must not change meanwhile."""
        arguments = ["-m", "pupila.batch.worker", str(model), version, str(top)]
        super().__init__([Worker(arguments) for _ in range(count)])

    def answers(self, chunks: Iterator[list[str]]) -> Iterator[tuple[list[str], bytes]]:
        """Yield each chunk of paths and its lines of answers, in order; raises ModelError if the model changed."""
        try:
            yield from self.map(chunks, lambda paths: json.dumps(paths).encode(), LOST)
        except RefusedError as error:
            raise ModelError(str(error)) from None
