"""Writes the pictures that /predict has answered to the feedback store, in a thread of its own.

A request leaves its pictures in a queue in memory and goes on. One thread of each worker takes them from there to the
store. The queue is short: what does not fit is not kept, so that a slow disk costs pictures and never an answer.
"""

import hashlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence

from pupila.errors import DataError, ImageError, SettingsError
from pupila.feedback import Answered, Kept, Store
from pupila.images.strip import Clean, clean
from pupila.prediction import Prediction
from pupila.server.api.multipart import Part
from pupila.server.inference import LARGE, LargeImageError, reject_large
from pupila.server.process.scoreboard import DROPPED, KEPT, MARKS, PENDING, SharedTable
from pupila.server.settings import Settings

log = logging.getLogger("pupila.server")

QUEUE_PICTURES = 256
QUEUE_BYTES = 32 * 2**20
BATCH_PICTURES = 64
PLACES = QUEUE_PICTURES + BATCH_PICTURES + 1
"""Pictures that wait at most: in the queue, taken from it, and one that is about to give way."""
BATCH_BYTES = 4 * 2**20
"""Written in one transaction: few enough that feedback, which waits for it, does not wait long."""
GATHER = 0.1
"""Seconds that a picture waits for others: written with fifteen others it costs a quarter of one written alone."""
PATIENCE = 2.0
"""Seconds that feedback waits for a picture that any worker is about to write."""
SILENCE = 60.0
"""Seconds between two log entries of one kind about pictures that are not kept."""
LARGE_SECONDS = 8.0
"""For which the large pictures of a batch wait for others and are read once more, all together."""
LAST_WORDS = 10.0
"""Seconds that a worker which ends has to write what is in its queue."""


def new_table(workers: int) -> SharedTable:
    """Return the counts that the workers share: made before the fork."""
    return SharedTable(workers, MARKS + PLACES)


def mark_of(request: str, picture: int, owner: str) -> float:
    """Return what stands for an owner's picture while it waits: a whole number from 1, of 48 bits."""
    digest = hashlib.blake2b(f"{request} {picture} {owner}".encode(), digest_size=6).digest()
    return 1.0 + int.from_bytes(digest)


def prepare(settings: Settings) -> None:
    """Make the folder and clear up what a server that was killed has left; raises SettingsError."""
    if settings.feedback_dir is None:
        return
    try:
        store = Store(settings.feedback_dir, create=True)
        clear_up(store)
        store.close()
    except DataError as error:
        raise SettingsError(f"--feedback-dir: {error}") from error


def clear_up(store: Store) -> None:
    """Delete what an interrupted write has left, and say so in the log."""
    files, rows = store.recover()
    if rows:
        log.error("%s: %d pictures have lost their files, and are forgotten", store.path, rows)
    if files:
        log.warning("%s: %d files of an interrupted write are deleted", store.path, files)


def _room(item: Answered) -> int:
    """Return what a picture takes of the queue, which has so many bytes and so many places."""
    return max(len(item.data), QUEUE_BYTES // QUEUE_PICTURES)


class Collector:
    """One worker's. Raises DataError if the folder cannot be used.

    One that comes in place of a worker that is gone, `replaces`, clears up what that may have left half done.
    """

    def __init__(
        self, settings: Settings, table: SharedTable | None = None, slot: int = 0, replaces: bool = False
    ) -> None:
        if settings.feedback_dir is None:
            raise ValueError("There is no folder to collect in.")
        self.store = Store(settings.feedback_dir, create=True)
        """For single pictures, and for feedback."""
        self.lists = Store(settings.feedback_dir, patience=settings.request_timeout / 4)
        """For lists of many, which feedback does not wait for."""
        self._writer = Store(settings.feedback_dir)
        """The thread's own connection: reading does not wait for writing."""
        self._settings = settings
        self.table = table or new_table(1)
        self._row = self.table.row(slot)
        self._row[PENDING] = 0.0  # the worker that had this row has lost its queue
        self._row[MARKS:] = memoryview(bytes(8 * PLACES)).cast("d")
        self._queues: dict[str, deque[Answered]] = {}
        """By owner, the one whose turn it is first; none is empty."""
        self._bytes = 0
        self._in_work = 0
        self._changed = threading.Condition()
        self._closing = False
        self._until = 0.0
        """When the large pictures of the batch in work must be read."""
        self._silent_until: dict[str, float] = {}
        """By log entry: from when on it may be written again."""
        self._thread: threading.Thread | None = None
        self._replaces = replaces
        if replaces:
            self._start()

    def offer(
        self,
        request: str,
        parts: Sequence[Part],
        found: Sequence[Prediction | ImageError],
        model: str,
        owner: str = "",
    ) -> None:
        """Keep the pictures of a request that were answered; returns at once. `owner`: see Answered."""
        now = time.time()
        answered = [
            Answered(request, index, part.data, one.category, one.confidence, one.unknown, model, now, owner)
            for index, (part, one) in enumerate(zip(parts, found, strict=True))
            if not isinstance(one, ImageError)
        ]
        with self._changed:
            idle = not self._queues
            for item in answered:
                self._enqueue(item)
            self._count_pending()
            if self._thread is None:
                self._start()
            if idle or self._count() >= BATCH_PICTURES:
                self._changed.notify_all()  # the writer waits for the first picture, and then for a full batch

    def find(self, request: str, picture: int, owner: str | None, deadline: float) -> list[Kept]:
        """Do as `Store.of_request`, but wait for this picture of this owner if any worker is about to write it."""
        until = min(deadline, time.monotonic() + PATIENCE)
        mark = None if owner is None else mark_of(request, picture, owner)
        while True:  # asked before looking: what is written in between is found
            waits = mark is not None and self.table.holds(MARKS, mark)
            kept = self.store.of_request(request, picture, owner)
            if kept or not waits or time.monotonic() >= until:
                return kept
            time.sleep(0.01)

    def close(self) -> None:
        """Write what is in the queue, as far as it does not take too long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(LAST_WORDS)

    def _count(self) -> int:
        return sum(map(len, self._queues.values()))

    def _enqueue(self, item: Answered) -> None:
        """Take a picture in; where there is no room for it, the last of the owner that takes most of it gives way."""
        if self._closing:
            self._row[DROPPED] += 1
            return
        self._queues.setdefault(item.owner, deque()).append(item)
        self._bytes += len(item.data)
        self._mark(0.0, mark_of(item.request, item.picture, item.owner))
        while self._count() > QUEUE_PICTURES or self._bytes > QUEUE_BYTES:
            self._complain("pictures come faster than they can be kept in %s: some are not")
            item = self._leave(max(self._queues, key=lambda owner: sum(map(_room, self._queues[owner]))), last=True)
            self._mark(mark_of(item.request, item.picture, item.owner), 0.0)
            self._row[DROPPED] += 1

    def _leave(self, owner: str, last: bool) -> Answered:
        """Take an owner's first or last picture out; whoever has more has another turn behind all others."""
        queue = self._queues.pop(owner)
        item = queue.pop() if last else queue.popleft()
        if queue:
            self._queues[owner] = queue
        self._bytes -= len(item.data)
        return item

    def _mark(self, before: float, after: float) -> None:
        """Put the name of a picture that waits in place of another; 0 is that of none."""
        self._row[MARKS + list(self._row[MARKS:]).index(before)] = after

    def _count_pending(self) -> None:
        self._row[PENDING] = float(self._count() + self._in_work)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, daemon=True, name="collector")
        self._thread.start()

    def _work(self) -> None:
        if self._replaces:
            try:
                clear_up(self._writer)
            except Exception as error:
                self._complain("what a worker has left in %s cannot be cleared up", error)
        while batch := self._take():
            try:
                self._write(batch)
            except Exception as error:
                self._complain("pictures cannot be kept in %s", error)

    def _write(self, batch: Sequence[Answered]) -> None:
        kept, self._until = 0, time.monotonic() + LARGE_SECONDS
        try:
            kept = self._writer.add(batch, self._settings.feedback_max_bytes, self._cleaned)
        finally:
            with self._changed:
                self._row[KEPT] += kept
                self._row[DROPPED] += len(batch) - kept
                self._in_work = 0
                self._count_pending()
                for item in batch:
                    self._mark(mark_of(item.request, item.picture, item.owner), 0.0)

    def _cleaned(self, data: bytes) -> Clean | None:
        """Do as clean(): in the process for large pictures, unless it takes milliseconds; none where time is up."""
        limits = self._settings.image_limits
        try:
            return clean(data, limits, reject_large)
        except LargeImageError:
            pass
        except Exception as error:  # of one picture: the others of the batch are kept
            self._complain("a picture cannot be kept in %s", error)
            return None
        try:
            return None if self._closing else LARGE.clean(data, limits, deadline=self._until)
        except (ImageError, TimeoutError):
            return None

    def _complain(self, message: str, error: Exception | None = None) -> None:
        """Log why pictures are not kept: a disk that is full stays full for a while, and its log shall not grow."""
        now = time.monotonic()
        if now < self._silent_until.get(message, 0.0):
            return
        self._silent_until[message] = now + SILENCE
        if isinstance(error, OSError | sqlite3.Error):  # the disk's, not a fault of ours
            log.error(f"{message}: %s", self._settings.feedback_dir, error)
        else:
            log.error(message, self._settings.feedback_dir, exc_info=error)

    def _take(self) -> list[Answered]:
        """Wait for pictures and take some from the queue; empty once there are none and no more will come."""
        batch: list[Answered] = []
        with self._changed:
            self._changed.wait_for(lambda: self._queues or self._closing)
            self._changed.wait_for(lambda: self._count() >= BATCH_PICTURES or self._closing, GATHER)
            before = self._bytes
            while self._queues and len(batch) < BATCH_PICTURES and before - self._bytes < BATCH_BYTES:
                batch.append(self._leave(next(iter(self._queues)), last=False))
            self._in_work = len(batch)  # counted until they are written: feedback on them waits
            self._count_pending()
        return batch
