"""From pictures' bytes to predictions by a deadline: decodes, waits for its turn, computes. Knows nothing of HTTP."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila.errors import ImageError
from pupila.prediction import Prediction
from pupila.predictor import Floats, Predictor
from pupila.server.api.multipart import Part
from pupila.server.inference.batcher import DeadlineError, Scheduler
from pupila.server.inference.decode_lock import Enter, Gate, TooBigError, only_small
from pupila.server.settings import Settings

BATCH = 8
"""Pictures computed together when they already wait. One thread, ResNet-18 at 64 px, int8: 8 together take 0.7 to 0.85
of the time of 8 alone, as the weights stay in the cache; 32 together hardly less, and they keep others waiting."""
FEW = 4
"""Pictures of one request that are decoded at a stretch, for a thread that has other requests waiting behind."""

Value = TypeVar("Value")
Work = Generator["Job | None", "list[Row] | None", Value]
"""A request being answered. It yields what is to be computed and is sent the rows; or None: what comes may be long."""


@dataclass(frozen=True)
class Kind:
    """What is computed together: one predictor (so that a swap never mixes two), with or without activation maps."""

    predictor: Predictor
    explain: bool


@dataclass(frozen=True)
class Row:
    """The graph's outputs for one picture."""

    logits: Floats
    cam: Floats | None


@dataclass(frozen=True)
class Answer:
    """The answer for one picture that could be decoded."""

    prediction: Prediction
    cam: Floats | None
    """float32 [h, w]: where the picture speaks for its most probable class; None unless asked for."""


@dataclass(frozen=True)
class Job:
    """What a request needs computed."""

    kind: Kind
    pictures: Sequence[images.Pixels]
    deadline: float
    """On the clock of time.monotonic."""
    stages: "Stages"


Found = list[Row] | Exception
"""What a job has come to: rows, or why there are none."""


class Stages:
    """A stopwatch: seconds spent on each stage of one request, in order, on the clock of time.monotonic."""

    def __init__(
        self,
        seconds: dict[str, float],
        spans: list[tuple[str, float, float]] | None = None,
        started: float | None = None,
    ) -> None:
        self.seconds = seconds
        self.spans = spans
        """Gets each stage with its beginning and end, if it is not None."""
        self._last = time.monotonic() if started is None else started

    def end(self, stage: str, at: float | None = None) -> None:
        """Say that a stage is over, now or at a time that is past."""
        at = time.monotonic() if at is None else at
        self.seconds[stage] = self.seconds.get(stage, 0.0) + at - self._last
        if self.spans is not None:
            self.spans.append((stage, self._last, at))
        self._last = at


class Classifier:
    """A predictor shared by many requests. `predictor` may be replaced at any time; running requests keep theirs."""

    def __init__(
        self, predictor: Predictor, settings: Settings, on_batch: Callable[[int], None] = lambda _: None
    ) -> None:
        self.predictor = predictor
        self.limits = settings.image_limits
        self.gate = Gate()
        self.on_batch = on_batch
        self.scheduler: Scheduler[images.Pixels, Row, Kind] = Scheduler(self._compute, BATCH, settings.max_waiting)

    def classify(
        self, parts: Sequence[Part], top: int, explain: bool, deadline: float, stages: Stages
    ) -> Work[tuple[Predictor, list[Answer | ImageError]]]:
        """Return the predictor used, and one answer or error a part, in order.

        Raises DeadlineError or QueueFullError. `deadline` is on the clock of time.monotonic.
        """
        predictor = self.predictor
        if len(parts) > FEW:
            yield None
        try:
            decoded = self.decode(parts, predictor, deadline, stages, only_small)
        except TooBigError:
            yield None
            decoded = self.decode(parts, predictor, deadline, stages)
        good = [item for item in decoded if not isinstance(item, ImageError)]
        rows = (yield Job(Kind(predictor, explain), good, deadline, stages)) if good else None
        answers = iter(interpret(predictor, rows or [], top))
        return predictor, [item if isinstance(item, ImageError) else next(answers) for item in decoded]

    def finish(self, work: Work[Value], impatient: bool = False) -> Value:
        """Do what is left of a request's work in this thread, which may wait; raises what the work does.

        Raises TooBigError if it may take long and the caller is impatient.
        """
        rows = None
        try:
            while True:
                job = work.send(rows)
                if job is None and impatient:
                    raise TooBigError
                rows = self.compute(job) if job else None
        except StopIteration as end:
            value: Value = end.value
            return value

    def compute(self, job: Job) -> list[Row]:
        """Return the graph's outputs for a job's pictures. Raises DeadlineError or QueueFullError."""
        found = self.rows([job])[0]
        if isinstance(found, Exception):
            raise found
        return found

    def decode(
        self,
        parts: Sequence[Part],
        predictor: Predictor,
        deadline: float,
        stages: Stages,
        enter: Enter | None = None,
    ) -> list[images.Pixels | ImageError]:
        """Return the pixels of each part, or what is wrong with it. Raises DeadlineError."""
        decoded = [self._decode(part, predictor, deadline, enter or self.gate.enter) for part in parts]
        stages.end("decode")
        return decoded

    def rows(self, jobs: Sequence[Job]) -> list[Found]:
        """Return the graph's outputs for the pictures of each job, or why there are none."""
        tickets = self.scheduler.run_all([(job.pictures, job.kind, job.deadline) for job in jobs])
        for job, ticket in zip(jobs, tickets, strict=True):
            if ticket.begun:
                job.stages.end("wait", ticket.begun)
                job.stages.end("compute")
        return [ticket.found() for ticket in tickets]

    def _compute(self, pictures: Sequence[images.Pixels], kind: Kind) -> list[Row]:
        self.on_batch(len(pictures))
        return compute(pictures, kind)

    def _decode(self, part: Part, predictor: Predictor, deadline: float, enter: Enter) -> images.Pixels | ImageError:
        if time.monotonic() >= deadline:
            raise DeadlineError
        try:
            return predictor.decode(part.data, self.limits, lambda pixels: enter(pixels, deadline))
        except ImageError as error:
            return error.with_traceback(None)  # which holds the picture, and itself: memory until the next collection


def compute(pictures: Sequence[images.Pixels], kind: Kind) -> list[Row]:
    """Run the graph on pictures of one kind."""
    batch: NDArray[np.uint8] = images.stack(pictures)
    if kind.explain:
        outputs = kind.predictor.outputs(batch)
        return [Row(logits, cam) for logits, cam in zip(outputs.logits, outputs.cam, strict=True)]
    return [Row(logits, None) for logits in kind.predictor.logits(batch)]


def interpret(predictor: Predictor, rows: Sequence[Row], top: int) -> list[Answer]:
    """Turn the graph's outputs into answers."""
    if not rows:
        return []
    predictions = predictor.interpret(np.array([row.logits for row in rows]), top)
    return [
        Answer(prediction, None if row.cam is None else row.cam[prediction.best.category_index])
        for prediction, row in zip(predictions, rows, strict=True)
    ]
