"""From pictures' bytes to predictions by a deadline: decodes, waits for its turn, computes. Knows nothing of HTTP."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila.errors import ImageError
from pupila.predictor import Floats, Prediction, Predictor
from pupila.server.gate import PixelGate
from pupila.server.payload import Part
from pupila.server.scheduler import DeadlineError, Scheduler
from pupila.server.settings import Settings

BATCH = 8
"""Pictures computed together when they already wait. One thread, ResNet-18 at 64 px, int8: 8 together take 0.7 to 0.85
of the time of 8 alone, as the weights stay in the cache; 32 together hardly less, and they keep others waiting."""


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
        self.gate = PixelGate()
        self.on_batch = on_batch
        self.scheduler: Scheduler[images.Pixels, Row, Kind] = Scheduler(self._compute, BATCH, settings.max_waiting)

    def classify(
        self, parts: Sequence[Part], top: int, explain: bool, deadline: float, stages: Stages
    ) -> tuple[Predictor, list[Answer | ImageError]]:
        """Return the predictor used, and one answer or error a part, in order.

        Raises DeadlineError or QueueFullError. `deadline` is on the clock of time.monotonic.
        """
        predictor = self.predictor
        decoded = self.decode(parts, predictor, deadline, stages)
        good = [item for item in decoded if not isinstance(item, ImageError)]
        rows = self.rows(Kind(predictor, explain), good, deadline, stages)
        answers = iter(interpret(predictor, rows, top))
        return predictor, [item if isinstance(item, ImageError) else next(answers) for item in decoded]

    def decode(
        self, parts: Sequence[Part], predictor: Predictor, deadline: float, stages: Stages
    ) -> list[images.Pixels | ImageError]:
        """Return the pixels of each part, or what is wrong with it. Raises DeadlineError."""
        decoded = [self._decode(part, predictor, deadline) for part in parts]
        stages.end("decode")
        return decoded

    def rows(self, kind: Kind, pictures: Sequence[images.Pixels], deadline: float, stages: Stages) -> list[Row]:
        """Return the graph's outputs for pictures of the right size. Raises DeadlineError or QueueFullError."""
        if not pictures:
            return []
        rows, begun = self.scheduler.run_timed(pictures, kind, deadline)
        stages.end("wait", begun)
        stages.end("compute")
        return rows

    def _compute(self, pictures: Sequence[images.Pixels], kind: Kind) -> list[Row]:
        self.on_batch(len(pictures))
        return compute(pictures, kind)

    def _decode(self, part: Part, predictor: Predictor, deadline: float) -> images.Pixels | ImageError:
        if time.monotonic() >= deadline:
            raise DeadlineError
        try:
            return predictor.decode(part.data, self.limits, lambda pixels: self.gate.enter(pixels, deadline))
        except ImageError as error:
            return error


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
    predictions = predictor.interpret(np.stack([row.logits for row in rows]), top)
    return [
        Answer(prediction, None if row.cam is None else row.cam[prediction.best.category_index])
        for prediction, row in zip(predictions, rows, strict=True)
    ]
