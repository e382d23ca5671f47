"""Inference: decodes the pictures of many requests by their deadlines, and computes them in batches, in one thread.

The compute thread takes what waits in the queue, begins it (small pictures are decoded then), and computes up to
`batch` items of one kind together. A batch takes one item of each request in rotation: a request of many pictures
delays a single one by no more than one picture a batch. Nothing waits for a batch to fill.

Decoding is bounded. What takes more than milliseconds, as ordinary photos do, is decoded by threads of its own; what
may take more than a fifth of a second, which are large pictures and rare formats, by a process of its own, one at a
time for each worker. A file of a few kilobytes may hold fifty megapixels, which take hundreds of megabytes while they
are decoded, or what keeps its decoder busy for minutes.
"""

import functools
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila.errors import ImageError
from pupila.images.process import Charge, DecodingProcess
from pupila.prediction import Prediction
from pupila.predictor import Decoder, Floats, Predictor
from pupila.server.api.errors import BadPart, DeadlineError, QueueFullError, RequestError, log_fault
from pupila.server.api.multipart import Part
from pupila.server.api.request_context import RequestContext
from pupila.server.settings import Settings

Value = TypeVar("Value")

BEGIN_SECONDS = 0.02
"""Seconds for which new requests are begun before those that have begun are computed."""


class BatchKey(NamedTuple):
    """What is computed together: one predictor (so that a swap never mixes two), with or without activation maps."""

    predictor: Predictor
    explain: bool


class PictureOutputs(NamedTuple):
    """The graph's outputs for one picture."""

    scores: Floats
    cam: Floats | None
    """Of the class that is answered: those of all take megabytes where classes are many."""


@dataclass(slots=True, eq=False)
class Computation:
    """What one request has computed: at least one picture."""

    pictures: Sequence[images.Pixels]
    key: BatchKey
    deadline: float
    done: "Callable[[Computation], object]"
    """Called once, by the compute thread."""
    begun: float = 0.0
    """When its first picture's computation began, by time.monotonic; 0 before."""
    taken: int = 0
    """Pictures whose computation has begun."""
    ended: bool = False
    results: dict[int, PictureOutputs] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def left(self) -> int:
        """Pictures whose computation has not begun and is still wanted."""
        return 0 if self.error is not None else len(self.pictures) - self.taken

    def found(self) -> list[PictureOutputs]:
        """Return the results in order, or raise why there are none."""
        if self.error is not None:
            raise self.error
        return [self.results[index] for index in range(len(self.pictures))]


class Batcher:
    """Runs `compute(pictures, key)` in a thread of its own, which starts with the first request."""

    def __init__(
        self,
        compute: Callable[[Sequence[images.Pixels], BatchKey], Sequence[PictureOutputs]],
        batch: int = 1,
        max_waiting: int = 256,
        most: Callable[[BatchKey], int] = lambda _: sys.maxsize,
        seconds: Callable[[BatchKey], float] = lambda _: 0.0,
    ) -> None:
        """batch, most: how many pictures are computed together at most, of all kinds and of one.

        seconds: what one picture of a kind takes at least: no more are begun than may be done by the first deadline.
        """
        self._compute = compute
        self._batch = batch
        self._most = most
        self._seconds = seconds
        self._max_waiting = max_waiting
        self._queue: SimpleQueue[Callable[[], Computation | None]] = SimpleQueue()
        self._active: deque[Computation] = deque()
        """Begun and not answered, in rotation. The callers of `run` add to it; else the compute thread changes it."""
        self._lock = threading.Lock()
        self.after_batch: Callable[[], object] = lambda: None
        """Called by the compute thread when it has answered what it could."""
        self._thread: threading.Thread | None = None
        self._seconds_per_picture = 0.0

    def submit(self, begin: Iterable[Callable[[], Computation | None]]) -> None:
        """Queue requests: each is called by the compute thread, and returns what it has computed."""
        for call in begin:
            self._queue.put(call)
        if self._thread is None:
            self._start()

    def run(self, pictures: Sequence[images.Pixels], key: BatchKey, deadline: float) -> Computation:
        """Have pictures computed and wait for them; those of different keys are never computed together.

        Raises QueueFullError at once, DeadlineError when the clock reaches `deadline`, or what a picture raised.
        """
        over = threading.Event()
        computation = Computation(pictures, key, deadline, lambda _: over.set())
        with self._lock:
            self._admit(computation)
            self._active.append(computation)
        self.submit([lambda: None])  # wakes the compute thread
        if not over.wait(max(deadline - time.monotonic(), 0)):
            computation.error = DeadlineError()  # where the compute thread finds it and gives it up
        computation.found()
        return computation

    def _admit(self, computation: Computation) -> None:
        """Apply admission control: a request is let in whatever its size if nothing else waits.

        As requests take turns, one of few pictures waits for as many of each other: two of many keep no single one out.
        """
        size = len(computation.pictures)
        ahead = sum(min(other.left, size) for other in tuple(self._active))
        delay = ahead * self._seconds_per_picture
        if ahead and ahead + size > self._max_waiting:
            raise QueueFullError(delay)
        if time.monotonic() + delay >= computation.deadline:
            raise QueueFullError(delay) if delay else DeadlineError

    @property
    def has_ended(self) -> bool:
        """Whether the compute thread has ended, which no fault should make it."""
        return self._thread is not None and not self._thread.is_alive()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._work, daemon=True, name="compute")
                thread.start()  # which fails where there are too many
                self._thread = thread

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
            if computation is not None:
                self._active.append(computation)
            now = time.monotonic()
            until, block = until or now + BEGIN_SECONDS, False
            if now >= until:
                return

    def _next_batch(self) -> list[tuple[Computation, int]]:
        """Take up to `batch` pictures of one key, one of each request and round again."""
        now = time.monotonic()
        for computation in tuple(self._active):
            if computation.error is None and now + self._seconds(computation.key) >= computation.deadline:
                computation.error = DeadlineError()
            if computation.error is not None:
                self._end(computation)
        batch: list[tuple[Computation, int]] = []
        key = self._active[0].key if self._active else None
        most = min(self._batch, self._most(key)) if key is not None else 0
        if key is not None and (each := self._seconds(key)):
            most = min(most, max(1, int((min(c.deadline for c in tuple(self._active)) - now) / each)))
        while len(batch) < most:
            found = [c for c in tuple(self._active) if c.key == key and c.left]
            if not found:
                break
            computation = found[0]
            batch.append((computation, computation.taken))
            computation.taken += 1
            self._active.remove(computation)
            self._active.append(computation)
        return batch

    def _run(self, batch: list[tuple[Computation, int]]) -> None:
        """Compute a batch and answer it. If it fails each is computed alone: only the culprit's request fails."""
        pictures = [computation.pictures[index] for computation, index in batch]
        started = time.monotonic()
        for computation, _ in batch:
            computation.begun = computation.begun or started
        try:
            results = self._compute(pictures, batch[0][0].key)
        except Exception as error:
            self._run_alone(batch, error)
            return
        each = (time.monotonic() - started) / len(batch)
        self._seconds_per_picture += 0.1 * (each - self._seconds_per_picture)
        for (computation, index), result in zip(batch, results, strict=True):
            computation.results[index] = result
            if len(computation.results) == len(computation.pictures):
                self._end(computation)

    def _run_alone(self, batch: list[tuple[Computation, int]], error: Exception) -> None:
        """Compute each picture of a failed batch alone; none of a request that has failed or is past its deadline."""
        for computation, index in batch:
            if len(batch) == 1:
                computation.error = error
            elif time.monotonic() >= computation.deadline:
                computation.error = computation.error or DeadlineError()
            elif not computation.ended:
                self._run([(computation, index)])
            if computation.error is not None:
                self._end(computation)

    def _end(self, computation: Computation) -> None:
        if not computation.ended:
            computation.ended = True
            self._active.remove(computation)
            guarded(lambda: computation.done(computation))


def guarded(call: Callable[[], Value]) -> Value | None:
    """Call; a fault of the caller's must not end the compute thread, which all requests need."""
    try:
        return call()
    except Exception as error:
        log_fault(error, "the compute thread goes on after a fault")
        return None


SMALL = 500_000
"""Pixels up to which a picture is decoded where it is needed: it takes up to 20 ms, and about two megabytes."""
MODERATE = 4_000_000
"""The same for a thread of large bodies: one at a time, it takes up to 0.2 s and some 64 MB. A photo of 12 megapixels
and 4 MB counts as 1.3 million, see images.limits."""
MODERATE_IMAGE, LARGE_IMAGE = threading.Lock(), threading.Lock()
"""The worker's: held while a moderate picture is decoded, and a large one."""
LARGE = DecodingProcess(LARGE_IMAGE)
"""Decodes them, for answers and for what is kept."""


class LargeImageError(Exception):
    """The picture is not small; never leaves the classifier, which then leaves it to another thread, or process."""

    def __init__(self, pixels: int) -> None:
        super().__init__(pixels)
        self.pixels = pixels


def small_only(data: bytes, size: int, limits: images.ImageLimits, framing: str) -> images.Pixels:
    """Decode as images.decode() does; raises LargeImageError for what may take more than some 20 ms."""
    return images.decode(data, size, limits, framing, reject_large)


def up_to_moderate(
    data: bytes, size: int, limits: images.ImageLimits, framing: str, deadline: float = math.inf
) -> images.Pixels:
    """Decode as images.decode() does, moderate pictures one after the other.

    Raises LargeImageError for what may take more than some 0.2 s; DeadlineError at a time of time.monotonic().
    """
    return images.decode(data, size, limits, framing, functools.partial(hold_moderate, deadline=deadline))


def reject_large(pixels: int) -> AbstractContextManager[None]:
    """Admit small pictures only; raises LargeImageError for others."""
    if pixels > SMALL:
        raise LargeImageError(pixels)
    return images.no_lock(pixels)


def hold_moderate(pixels: int, deadline: float) -> AbstractContextManager[None]:
    """Admit small pictures, and one moderate one after the other; raises LargeImageError for others."""
    return _moderate_turn(deadline) if SMALL < pixels <= MODERATE else reject_large(pixels)


@contextmanager
def _moderate_turn(deadline: float) -> Iterator[None]:
    if not MODERATE_IMAGE.acquire(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)):
        raise DeadlineError
    try:
        yield
    finally:
        MODERATE_IMAGE.release()


BATCH = 8
"""Pictures computed together when they already wait. One thread, ResNet-18 at 64 px, int8: 8 together take 0.7 to 0.85
of the time of 8 alone, as the weights stay in the cache; 32 together hardly less, and they keep others waiting."""
FEW = 4
"""Pictures of one request that the compute thread decodes; a request of more is left to a thread of its own."""
TURN_SECONDS = 0.1
"""Seconds for which the pictures of one request are decoded at a stretch where others wait for the same thread."""
TURN_PICTURES = 2 * BATCH
"""Pictures of one request that are computed at a stretch there: with those of other threads they take as long."""


class Decoding:
    """The pictures of one request on their way to answers; uses one predictor, whatever replaces it meanwhile.

    It takes several turns, see `decode` and `compute`, and stands in the request's context meanwhile.
    """

    def __init__(
        self,
        classifier: "Classifier",
        parts: Sequence[Part],
        context: RequestContext,
        predictor: Predictor | None = None,
        also: Any = None,
    ) -> None:
        self.predictor = predictor or classifier.predictor
        self.parts = parts
        self.also = also
        """What else the route has read from the body."""
        self.found: list[images.Pixels | ImageError | None] = [None] * len(parts)
        """One a part; None as long as it is not decoded."""
        self.left = deque(range(len(parts)))
        """Which parts nobody has looked at yet."""
        self.moderate: deque[int] = deque()
        """Which parts take more than milliseconds to decode, of the others."""
        self.large: deque[int] = deque()
        """Which parts may take long."""
        self.rows: list[PictureOutputs] = []
        """What is computed, of the first of `pictures`."""
        self.waits = False
        """Whether another turn has to come."""
        self.queued = False
        """Whether it has been let into a queue for more than one turn."""
        self._classifier = classifier
        self._context = context
        context.decoding = self

    @property
    def size(self) -> int:
        """Bytes that it holds at most: the files, and pixels and scores of each picture."""
        manifest = self.predictor.manifest
        each = 3 * manifest.input_size**2 + 4 * (len(manifest.classes) + 1)
        return sum(len(part.data) for part in self.parts) + each * len(self.found)

    def decode_few(self) -> bool:
        """Decode as far as it takes milliseconds, and return whether that was all. Raises DeadlineError."""
        return len(self.parts) <= FEW and self._decode_turn(self.left)

    def decode(self) -> bool:
        """Decode, and return whether that was all. Raises DeadlineError.

        Under our own transport this is one turn: TURN_SECONDS at most; moderate pictures are left to the threads for
        them, and large ones to `decode_large`.
        """
        has_time = self._context.started is None or self._context.has_time
        return self._decode_turn(self.left, *([self.moderate] if has_time else []))

    def _decode_turn(self, *queues: deque[int]) -> bool:
        has_turns, begun, self.waits = self._context.started is not None, time.monotonic(), False
        for queue in queues:
            while queue and not (has_turns and time.monotonic() >= begun + TURN_SECONDS):
                self._decode(queue, small_only if queue is self.left else self._decode_moderate)
        while self.large and not has_turns:
            self.decode_large()
        self.waits = bool(self.left or self.moderate or self.large)
        if not self.rows:
            self._context.end_stage("decode")
        return not self.waits

    def compute(self, explain: bool = False) -> bool:
        """Compute what is decoded, and return whether that was all: one turn, as above. Raises as Batcher.run does."""
        left = self.pictures[len(self.rows) :]
        taken = left if self._context.started is None else left[:TURN_PICTURES]
        self.rows += self._classifier.compute(taken, BatchKey(self.predictor, explain), self._context)
        self.waits = len(taken) < len(left)
        return not self.waits

    def decode_large(self, charge: Charge = lambda _: None) -> None:
        """Decode one large picture in the process for them; charge: see there. Raises DeadlineError."""
        self._decode(self.large, functools.partial(self._decode_in_process, charge))

    def _decode_moderate(self, data: bytes, size: int, limits: images.ImageLimits, framing: str) -> images.Pixels:
        return up_to_moderate(data, size, limits, framing, self._context.deadline)

    def _decode_in_process(
        self, charge: Charge, data: bytes, size: int, limits: images.ImageLimits, framing: str
    ) -> images.Pixels:
        try:
            return LARGE.decode(data, size, limits, framing, deadline=self._context.deadline, charge=charge)
        except TimeoutError:
            raise DeadlineError from None

    def _decode(self, queue: deque[int], by: Decoder) -> None:
        """Decode the next part of a queue."""
        if time.monotonic() >= self._context.deadline:
            raise DeadlineError
        index = queue.popleft()
        try:
            self.found[index] = self.predictor.decode(self.parts[index].data, self._classifier.limits, by)
        except LargeImageError as error:
            (self.moderate if error.pixels <= MODERATE else self.large).append(index)
        except ImageError as error:
            self.found[index] = error.with_traceback(None)  # which holds the picture and itself

    def reject_bad(self) -> None:
        """Raise RequestError if a picture could not be decoded."""
        parts, found = self.parts, self.found
        bad = [BadPart.of(i, parts[i].filename, item) for i, item in enumerate(found) if isinstance(item, ImageError)]
        if bad:
            raise RequestError.of_parts(bad, len(parts))

    @property
    def pictures(self) -> list[images.Pixels]:
        """The pictures that could be decoded."""
        return [item for item in self.found if item is not None and not isinstance(item, ImageError)]

    def answers(self, rows: Sequence[PictureOutputs], top: int) -> list[Prediction | ImageError]:
        """Return one answer or error a part, in order, from the graph's outputs for `pictures`."""
        answers = iter(interpret(self.predictor, rows, top))
        return [item if isinstance(item, ImageError) else next(answers) for item in self.found]


def call_seconds(predictor: Predictor) -> float:
    """Return what a call with as many pictures as are computed together takes, of processor time."""
    return min(BATCH, predictor.at_once) * predictor.seconds


class Classifier:
    """A predictor shared by many requests. `predictor` may be replaced at any time; running requests keep theirs."""

    def __init__(
        self, predictor: Predictor, settings: Settings, on_batch: Callable[[int], None] = lambda _: None
    ) -> None:
        self.predictor = predictor
        self.limits = settings.image_limits
        self.on_batch = on_batch
        self.batcher = Batcher(
            self._compute,
            BATCH,
            settings.max_waiting,
            most=lambda key: key.predictor.at_once,
            seconds=lambda key: key.predictor.seconds,
        )

    def compute(
        self, pictures: Sequence[images.Pixels], key: BatchKey, context: RequestContext
    ) -> list[PictureOutputs]:
        """Return the graph's outputs for decoded pictures; waits for the batcher. Raises as Batcher.run does."""
        if not pictures:
            return []
        computation = self.batcher.run(pictures, key, context.deadline)
        context.end_computation(computation.begun)
        return computation.found()

    def _compute(self, pictures: Sequence[images.Pixels], key: BatchKey) -> list[PictureOutputs]:
        """Run the graph on pictures of one kind."""
        self.on_batch(len(pictures))
        batch: NDArray[np.uint8] = images.stack(pictures)
        if not key.explain:
            return [PictureOutputs(scores, None) for scores in key.predictor.scores(batch)]
        outputs = key.predictor.outputs(batch)
        return list(map(PictureOutputs, outputs.scores, outputs.cam))


def interpret(predictor: Predictor, rows: Sequence[PictureOutputs], top: int) -> list[Prediction]:
    """Turn the graph's outputs into answers."""
    if not rows:
        return []
    cams = [row.cam for row in rows if row.cam is not None]
    return predictor.interpret(np.array([row.scores for row in rows]), top, cams or None)
