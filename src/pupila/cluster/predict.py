"""Batch prediction on all nodes: pupila.batch's job, with its predicting processes spread out by Ray.

Listing, answers, table and resuming are those of one machine and stay on the machine that the command runs on; only
the chunks of paths travel, and the answers back. Ray gives the chunks of a node that dies to another.
"""

import itertools
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import ray
from ray.exceptions import RayError

from pupila.batch import Summary, predict_all
from pupila.batch.listing import is_stored
from pupila.batch.worker import Workers
from pupila.cluster.connect import HERE, connected, cpus
from pupila.errors import DataError

TASK = 4
"""Chunks that a process of a node is given at a time, and that the death of a node makes another do again."""
AHEAD = 8
"""Tasks a core under way or waiting to be written."""
PROCESSES: dict[tuple[str, int], tuple[IO[bytes], Workers]] = {}
"""On a node, by version and choices: the model file and the predicting process, for as long as Ray's process lives."""


def predict_on_cluster(
    model: Path, paths: "Sequence[Path | str]", out: Path | None = None, *, address: str = HERE, **chosen: Any
) -> Summary:
    """Do as `predict_all` does, with the same arguments and the same result, on all cores of a cluster.

    Every node must reach the files by the same paths or addresses. Raises SettingsError if no cluster is there, and
    DataError if it gave up: then the same call goes on where it stopped.
    """
    with connected(address):
        try:
            return predict_all(model, paths, out, crew=lambda *about: nullcontext(Nodes(*about)), **chosen)
        except RayError as error:
            raise DataError(
                f"The cluster gave up ({str(error).strip().splitlines()[-1]}). When that is mended, give the same "
                "command again: it goes on where it stopped."
            ) from error


class Nodes:
    """What `Workers` is on one machine: chunks of paths in, lines of answers out, in order."""

    def __init__(self, _: int, model: Path, version: str, top: int) -> None:
        """How many processes there are is the cluster's to say."""
        self._about = (ray.put(model.read_bytes()), version, top)

    def answers(self, chunks: Iterator[list[str]]) -> Iterator[tuple[list[str], bytes]]:
        """Yield each chunk and its lines of answers, in order; only so many tasks are in memory."""
        waiting: deque[tuple[list[list[str]], Any]] = deque()
        most = AHEAD * cpus()
        while task := list(itertools.islice(chunks, TASK)):
            found = [[path if is_stored(path) else os.path.abspath(path) for path in chunk] for chunk in task]  # noqa: PTH100
            waiting.append((task, answer.remote(*self._about, found)))
            if len(waiting) > most:
                yield from _answered(*waiting.popleft())
        for one in waiting:
            yield from _answered(*one)


def _answered(task: list[list[str]], lines: Any) -> Iterator[tuple[list[str], bytes]]:
    return zip(task, ray.get(lines), strict=True)


@ray.remote(num_cpus=1, max_retries=-1)
def answer(model: bytes, version: str, top: int, chunks: list[list[str]]) -> list[bytes]:
    """Answer chunks in a predicting process, as on one machine: a picture that ends it costs its own row only."""
    if (version, top) not in PROCESSES:
        file = tempfile.NamedTemporaryFile(suffix=".onnx")  # noqa: SIM115 - as long as the process
        file.write(model)
        file.flush()
        PROCESSES[version, top] = file, Workers(1, Path(file.name), version, top)
    return [lines for _, lines in PROCESSES[version, top][1].answers(iter(chunks))]
