"""Classifies pictures by a deadline: decoding, batched computation, interpretation.

Decoding is bounded in memory: one large picture at a time in each worker. A file of a few kilobytes may hold fifty
megapixels, which take hundreds of megabytes while they are decoded; and a worker has one core, so that decoding two
such pictures at once saves no time.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila.errors import ImageError
from pupila.prediction import Prediction
from pupila.predictor import Floats, Predictor
from pupila.server.api.errors import BadPart, DeadlineError, RequestError
from pupila.server.api.multipart import Part
from pupila.server.api.request_context import RequestContext
from pupila.server.inference.batcher import Batcher, Computation
from pupila.server.settings import Settings

SMALL = 500_000
"""Pixels up to which a picture needs no lock: it takes milliseconds, and about two megabytes."""
NO_LOCK = nullcontext()

Acquire = Callable[[int, float], AbstractContextManager[None]]
"""Called with the pixels that are about to be decoded, and with a deadline."""


class LargeImageError(Exception):
    """The picture is not small; never leaves the classifier, which then leaves the picture to another thread."""


def reject_large(pixels: int, _: float) -> AbstractContextManager[None]:
    """Admit small pictures only, for the compute thread; raises LargeImageError for others."""
    if pixels > SMALL:
        raise LargeImageError
    return NO_LOCK


class LargeImageLock:
    """Shared by the threads of one worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, pixels: int, deadline: float) -> AbstractContextManager[None]:
        """Hold the lock while so many pixels are decoded; raises DeadlineError at `deadline` (time.monotonic)."""
        return NO_LOCK if pixels <= SMALL else self._held(deadline)

    @contextmanager
    def _held(self, deadline: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise DeadlineError
        try:
            yield
        finally:
            self._lock.release()


BATCH = 8
"""Pictures computed together when they already wait. One thread, ResNet-18 at 64 px, int8: 8 together take 0.7 to 0.85
of the time of 8 alone, as the weights stay in the cache; 32 together hardly less, and they keep others waiting."""
FEW = 4
"""Pictures of one request that the compute thread decodes; a request of more is left to a thread of its own."""


@dataclass(frozen=True)
class BatchKey:
    """What is computed together: one predictor (so that a swap never mixes two), with or without activation maps."""

    predictor: Predictor
    explain: bool


@dataclass(frozen=True)
class PictureOutputs:
    """The graph's outputs for one picture."""

    scores: Floats
    cam: Floats | None


@dataclass(frozen=True)
class PictureResult:
    """The answer for one picture that could be decoded."""

    prediction: Prediction
    cam: Floats | None
    """float32 [h, w]: where the picture speaks for its most probable class; None unless asked for."""


Computed = Computation[images.Pixels, PictureOutputs, BatchKey]
"""What one request has computed."""


class Decoding:
    """The pictures of one request on their way to pixels; uses one predictor, whatever replaces it meanwhile."""

    def __init__(
        self,
        classifier: "Classifier",
        parts: Sequence[Part],
        context: RequestContext,
        predictor: Predictor | None = None,
    ) -> None:
        self.predictor = predictor or classifier.predictor
        self.parts = parts
        self.found: list[images.Pixels | ImageError] = []
        """One a part, as far as they are decoded."""
        self._classifier = classifier
        self._context = context

    def decode_small(self) -> bool:
        """Decode as far as it takes milliseconds, and return whether that was all. Raises DeadlineError."""
        if len(self.parts) > FEW:
            return False
        try:
            self._decode(reject_large)
        except LargeImageError:
            return False
        return True

    def decode_all(self) -> None:
        """Decode what is left, one large picture of the whole worker at a time. Raises DeadlineError."""
        self._decode(self._classifier.large_image_lock.acquire)

    def _decode(self, acquire: Acquire) -> None:
        deadline = self._context.deadline
        for part in self.parts[len(self.found) :]:
            if time.monotonic() >= deadline:
                raise DeadlineError
            try:
                decode = self.predictor.decode
                self.found.append(decode(part.data, self._classifier.limits, lambda pixels: acquire(pixels, deadline)))
            except ImageError as error:
                self.found.append(error.with_traceback(None))  # which holds the picture and itself
        self._context.end_stage("decode")

    def reject_bad(self) -> None:
        """Raise RequestError if a picture could not be decoded."""
        parts, found = self.parts, self.found
        bad = [BadPart.of(i, parts[i].filename, item) for i, item in enumerate(found) if isinstance(item, ImageError)]
        if bad:
            raise RequestError.of_parts(bad, len(parts))

    @property
    def pictures(self) -> list[images.Pixels]:
        """The pictures that could be decoded."""
        return [item for item in self.found if not isinstance(item, ImageError)]

    def answers(self, rows: Sequence[PictureOutputs], top: int) -> "list[PictureResult | ImageError]":
        """Return one answer or error a part, in order, from the graph's outputs for `pictures`."""
        answers = iter(interpret(self.predictor, rows, top))
        return [item if isinstance(item, ImageError) else next(answers) for item in self.found]


class Classifier:
    """A predictor shared by many requests. `predictor` may be replaced at any time; running requests keep theirs."""

    def __init__(
        self, predictor: Predictor, settings: Settings, on_batch: Callable[[int], None] = lambda _: None
    ) -> None:
        self.predictor = predictor
        self.limits = settings.image_limits
        self.large_image_lock = LargeImageLock()
        self.on_batch = on_batch
        self.batcher: Batcher[images.Pixels, PictureOutputs, BatchKey] = Batcher(
            self._compute, BATCH, settings.max_waiting
        )

    def compute(
        self, pictures: Sequence[images.Pixels], kind: BatchKey, context: RequestContext
    ) -> list[PictureOutputs]:
        """Return the graph's outputs for decoded pictures; waits for the batcher. Raises as Batcher.run does."""
        if not pictures:
            return []
        computation = self.batcher.run(pictures, kind, context.deadline)
        context.end_computation(computation.begun)
        return computation.found()

    def _compute(self, pictures: Sequence[images.Pixels], kind: BatchKey) -> list[PictureOutputs]:
        self.on_batch(len(pictures))
        return compute(pictures, kind)


def compute(pictures: Sequence[images.Pixels], kind: BatchKey) -> list[PictureOutputs]:
    """Run the graph on pictures of one kind."""
    batch: NDArray[np.uint8] = images.stack(pictures)
    if kind.explain:
        outputs = kind.predictor.outputs(batch)
        return [PictureOutputs(scores, cam) for scores, cam in zip(outputs.scores, outputs.cam, strict=True)]
    return [PictureOutputs(scores, None) for scores in kind.predictor.scores(batch)]


def interpret(predictor: Predictor, rows: Sequence[PictureOutputs], top: int) -> list[PictureResult]:
    """Turn the graph's outputs into answers."""
    if not rows:
        return []
    predictions = predictor.interpret(np.array([row.scores for row in rows]), top)
    return [
        PictureResult(prediction, None if row.cam is None else row.cam[prediction.best.category_index])
        for prediction, row in zip(predictions, rows, strict=True)
    ]
