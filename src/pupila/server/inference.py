"""Inference: decodes the pictures of many requests by their deadlines, and computes them in batches, in one thread.

The compute thread takes what waits in the queue, begins it (small pictures are decoded then), and computes up to
`batch` items of one kind together. A batch takes one item of each request in rotation: a request of many pictures
delays a single one by no more than one picture a batch. Nothing waits for a batch to fill.

Decoding is bounded in memory: one large picture at a time in each worker. A file of a few kilobytes may hold fifty
megapixels, which take hundreds of megabytes while they are decoded; and a worker has one core, so that decoding two
such pictures at once saves no time.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila.errors import ImageError
from pupila.prediction import Prediction
from pupila.predictor import Floats, Predictor
from pupila.server.api.errors import BadPart, DeadlineError, QueueFullError, RequestError
from pupila.server.api.multipart import Part
from pupila.server.api.request_context import RequestContext
from pupila.server.settings import Settings

log = logging.getLogger("pupila.server")

Item = TypeVar("Item")
Result = TypeVar("Result")
Lane = TypeVar("Lane", bound=Hashable)
Value = TypeVar("Value")

BEGIN_SECONDS = 0.02
"""Seconds for which new requests are begun before those that have begun are computed."""


class Computation(Generic[Item, Result, Lane]):
    """What one request has computed: at least one item. `done` is called once, by the compute thread."""

    __slots__ = ("answered", "begun", "deadline", "done", "ended", "error", "items", "lane", "results", "taken")

    def __init__(
        self,
        items: Sequence[Item],
        lane: Lane,
        deadline: float,
        done: "Callable[[Computation[Item, Result, Lane]], object]",
    ) -> None:
        self.items = items
        self.lane = lane
        self.deadline = deadline
        self.done = done
        self.taken = 0
        self.answered = 0
        self.begun = 0.0
        """When its first item's computation began, by the batcher's clock; 0 before."""
        self.ended = False
        self.results: list[Result | None] = [None] * len(items)
        self.error: Exception | None = None

    @property
    def left(self) -> int:
        """Items whose computation has not begun and is still wanted."""
        return 0 if self.error is not None else len(self.items) - self.taken

    def found(self) -> list[Result]:
        """Return the results in order, or raise why there are none."""
        if self.error is not None:
            raise self.error
        return self.results  # type: ignore[return-value]


class Batcher(Generic[Item, Result, Lane]):
    """Runs `compute(items, lane)` in a thread of its own, which starts with the first request."""

    def __init__(
        self,
        compute: Callable[[Sequence[Item], Lane], Sequence[Result]],
        batch: int = 1,
        max_waiting: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._compute = compute
        self._batch = batch
        self._max_waiting = max_waiting
        self._clock = clock
        self._queue: SimpleQueue[Callable[[], Computation[Item, Result, Lane] | None]] = SimpleQueue()
        self._active: deque[Computation[Item, Result, Lane]] = deque()
        """Begun and not answered, in rotation; changed by the compute thread only."""
        self._ready: deque[Computation[Item, Result, Lane]] = deque()
        """What the callers of `run` have added to the rotation."""
        self._lock = threading.Lock()
        self.after_batch: Callable[[], object] = lambda: None
        """Called by the compute thread when it has answered what it could."""
        self._thread: threading.Thread | None = None
        self._seconds_per_item = 0.0

    def submit(self, begin: Iterable[Callable[[], Computation[Item, Result, Lane] | None]]) -> None:
        """Queue requests: each is called by the compute thread, and returns what it has computed."""
        for call in begin:
            self._queue.put(call)
        if self._thread is None:
            self._start()

    @property
    def waiting(self) -> int:
        """Items of requests that have begun which are not yet computed."""
        return sum(other.left for other in self._begun())

    def run(self, items: Sequence[Item], lane: Lane, deadline: float) -> Computation[Item, Result, Lane]:
        """Have items computed and wait for them; items of different lanes are never computed together.

        Raises QueueFullError at once, DeadlineError when the clock reaches `deadline`, or what an item raised.
        """
        over = threading.Event()
        computation = Computation[Item, Result, Lane](items, lane, deadline, lambda _: over.set())
        with self._lock:
            self._admit(computation)
            self._ready.append(computation)
        self.submit([lambda: None])  # wakes the compute thread
        if not over.wait(max(deadline - self._clock(), 0)):
            computation.error = DeadlineError()  # where the compute thread finds it and gives it up
        computation.found()
        return computation

    def _admit(self, computation: Computation[Item, Result, Lane]) -> None:
        """Apply admission control: a request is let in whatever its size if nothing else waits.

        As requests take turns, one of few items waits for as many of each other: two of many keep no single one out.
        """
        size = len(computation.items)
        ahead = sum(min(other.left, size) for other in self._begun())
        delay = ahead * self._seconds_per_item
        if ahead and ahead + size > self._max_waiting:
            raise QueueFullError(delay)
        if self._clock() + delay >= computation.deadline:
            raise QueueFullError(delay) if delay else DeadlineError

    def _begun(self) -> tuple[Computation[Item, Result, Lane], ...]:
        return *tuple(self._active), *tuple(self._ready)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="compute")
                self._thread.start()

    def _work(self) -> None:
        while True:
            self._begin()
            batch = self._next_batch()
            if batch:
                self._run(batch)
            guarded(self.after_batch)
            del batch  # or an idle thread would keep the last pictures in memory

    def _begin(self) -> None:
        """Begin requests that wait, at least one and as many as fit a batch; wait for one if none has begun."""
        until, block = 0.0, not self._active
        while not until or len(self._active) < self._batch:
            try:
                begin = self._queue.get(block)
            except Empty:
                return
            computation = guarded(begin)
            while self._ready:
                self._active.append(self._ready.popleft())
            if computation is not None:
                self._active.append(computation)
            now = self._clock()
            until, block = until or now + BEGIN_SECONDS, False
            if now >= until:
                return

    def _next_batch(self) -> list[tuple[Computation[Item, Result, Lane], int]]:
        """Take up to `batch` items of one lane, one of each request and round again."""
        now = self._clock()
        for computation in tuple(self._active):
            if computation.error is None and now >= computation.deadline:
                computation.error = DeadlineError()
            if computation.error is not None:
                self._end(computation)
        batch: list[tuple[Computation[Item, Result, Lane], int]] = []
        while self._active and len(batch) < self._batch:
            lane = batch[0][0].lane if batch else self._active[0].lane
            found = [c for c in self._active if c.lane == lane and c.left]
            if not found:
                break
            computation = found[0]
            batch.append((computation, computation.taken))
            computation.taken += 1
            self._active.remove(computation)
            self._active.append(computation)
        return batch

    def _run(self, batch: list[tuple[Computation[Item, Result, Lane], int]]) -> None:
        """Compute a batch and answer it. If it fails it is split, so that only the culprit's request fails."""
        items = [computation.items[index] for computation, index in batch]
        started = self._clock()
        for computation, _ in batch:
            computation.begun = computation.begun or started
        try:
            results = self._compute(items, batch[0][0].lane)
        except Exception as error:
            if len(batch) > 1:
                self._run(batch[: len(batch) // 2])
                self._run(batch[len(batch) // 2 :])
                return
            batch[0][0].error = error
            self._end(batch[0][0])
            return
        each = (self._clock() - started) / len(batch)
        self._seconds_per_item += 0.1 * (each - self._seconds_per_item)
        for (computation, index), result in zip(batch, results, strict=True):
            computation.results[index] = result
            computation.answered += 1
            if computation.answered == len(computation.items):
                self._end(computation)

    def _end(self, computation: Computation[Item, Result, Lane]) -> None:
        if not computation.ended:
            computation.ended = True
            self._active.remove(computation)
            guarded(lambda: computation.done(computation))


def guarded(call: Callable[[], Value]) -> Value | None:
    """Call; a fault of the caller's must not end the compute thread, which all requests need."""
    try:
        return call()
    except Exception:
        log.exception("the compute thread goes on after a fault")
        return None


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
    """Admits one large picture at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, pixels: int, deadline: float) -> AbstractContextManager[None]:
        """Hold the lock while so many pixels are decoded; raises DeadlineError at `deadline` (time.monotonic)."""
        return NO_LOCK if pixels <= SMALL else self._held(deadline)

    @contextmanager
    def _held(self, deadline: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)):
            raise DeadlineError
        try:
            yield
        finally:
            self._lock.release()


LARGE_IMAGE_LOCK = LargeImageLock()
"""The worker's: held by its threads, that of the collector among them, whenever they decode a large picture."""


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
        self._decode(LARGE_IMAGE_LOCK.acquire)

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
