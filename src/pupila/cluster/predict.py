"""Batch prediction on all nodes: pupila.batch's job, with its predicting processes spread out by Ray Data.

Listing, answers, table and resuming are those of one machine and stay on the machine that the command runs on; only
the chunks of paths travel, and the answers back. A node that dies costs its chunks in work, which Ray gives to another;
they come back under the same number, once, and in order.
"""

import itertools
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from pupila.batch import Summary, predict_all
from pupila.batch.listing import is_url
from pupila.batch.workers import Workers
from pupila.cluster.connect import HERE, connected, cpus
from pupila.errors import DataError

TASK = 4
"""Chunks that a process of a node is given at a time, and that the death of a node makes another do again."""
WINDOW = 16_384
"""Chunks handed to Ray at once, about a million files: what it holds in memory is their paths."""


def predict_on_cluster(
    model: Path, paths: "Sequence[Path | str]", out: Path | None = None, *, address: str = HERE, **chosen: Any
) -> Summary:
    """Do as `predict_all` does, with the same arguments and the same result, on all cores of a cluster.

    Every node must reach the files by the same paths or addresses. Raises SettingsError if no cluster is there, and
    DataError if it gave up: then the same call goes on where it stopped.
    """
    with connected(address):
        try:
            return predict_all(model, paths, out, crew=Nodes, **chosen)
        except RayError as error:
            raise DataError(
                f"The cluster gave up ({str(error).strip().splitlines()[-1]}). When that is mended, give the same "
                "command again: it goes on where it stopped."
            ) from error


class Nodes:
    """What `Workers` is on one machine: chunks of paths in, lines of answers out, in order."""

    def __init__(self, _: int, model: Path, version: str, top: int) -> None:
        """How many processes there are is the cluster's to say."""
        self._model = ray.put(model.read_bytes())
        self._rest = (version, top)

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._model

    def map(self, chunks: Iterator[list[str]]) -> Iterator[tuple[list[str], bytes]]:
        """Yield each chunk and its lines of answers, in order."""
        while window := list(itertools.islice(chunks, WINDOW)):
            yield from self._window(window)

    def _window(self, chunks: list[list[str]]) -> Iterator[tuple[list[str], bytes]]:
        numbers = range(len(chunks))
        found = [[path if is_url(path) else os.path.abspath(path) for path in chunk] for chunk in chunks]  # noqa: PTH100
        tables = [
            pa.table({"number": numbers[start : start + TASK], "paths": found[start : start + TASK]})
            for start in numbers[::TASK]
        ]
        processes = min(cpus(), len(tables))
        with quiet_and_in_order():
            answered = ray.data.from_arrow(tables).map(
                Answerer,  # type: ignore[arg-type]  # Ray makes one a process
                fn_constructor_args=(self._model, *self._rest),
                compute=ActorPoolStrategy(min_size=1, initial_size=processes, max_size=processes),
                num_cpus=1,
            )
            for expected, row in enumerate(answered.iter_rows()):
                if row["number"] != expected:
                    raise DataError(f"Ray gave chunk {row['number']} in the place of {expected}. Nothing is lost: "
                                    "give the same command again.")  # fmt: skip
                yield chunks[expected], row["lines"]


class quiet_and_in_order:  # noqa: N801 - reads as a phrase
    """Ray Data's settings for a block: rows in the order of their input, and neither remarks nor bars but our own."""

    def __enter__(self) -> None:
        context = DataContext.get_current()
        self._before = (context.execution_options.preserve_order, context.enable_progress_bars)
        context.execution_options.preserve_order, context.enable_progress_bars = True, False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        context = DataContext.get_current()
        context.execution_options.preserve_order, context.enable_progress_bars = self._before


class Answerer:
    """One predicting process of a node, as on one machine: a picture that ends it costs its own row only."""

    def __init__(self, model: "ray.ObjectRef[bytes]", version: str, top: int) -> None:
        self._file = tempfile.NamedTemporaryFile(suffix=".onnx")  # noqa: SIM115 - as long as the actor
        self._file.write(ray.get(model))
        self._file.flush()
        self._workers = Workers(1, Path(self._file.name), version, top)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Answer one chunk."""
        ((_, lines),) = self._workers.map(iter([list(row["paths"])]))
        return {"number": row["number"], "lines": lines}
