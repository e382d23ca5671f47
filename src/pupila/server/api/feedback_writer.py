"""Writes the pictures that /predict has answered to the feedback store, in a thread of its own.

A request leaves its pictures in a queue in memory and goes on. One thread of each worker takes them from there to the
store, and another those that take long to read, which would keep all others from being written. The queues are short:
what does not fit is not kept, so that a slow disk costs pictures and never an answer.
"""

import contextlib
import hashlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from pupila.errors import DataError, ImageError, SettingsError
from pupila.feedback import Answered, Kept, Store
from pupila.images.strip import Clean, clean
from pupila.prediction import Prediction
from pupila.server.api.errors import QueueFullError
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
LARGE_PICTURES = 128
"""Of those that take long to read as many may wait, and as many bytes as of the others."""
LATER, LARGE_PLACES = MARKS + PLACES, LARGE_PICTURES + 2
"""Where their names stand in the table, behind those of the others."""
BATCH_BYTES = 4 * 2**20
"""Written in one transaction: few enough that feedback, which waits for it, does not wait long."""
BATCH_SECONDS = 0.2
"""For which pictures are read and made clean before those are written that are."""
GATHER = 0.1
"""Seconds that a picture waits for others: written with fifteen others it costs a quarter of one written alone."""
IDLE = 5.0
"""Seconds without pictures after which is looked whether the database's log is to be emptied."""
PATIENCE = 2.0
"""Seconds that feedback waits for a picture that any worker is about to write."""
SHORT = 0.3
"""Of those: longer, one request of a worker waits at a time."""
SILENCE = 60.0
"""Seconds between two log entries of one kind about pictures that are not kept."""
LARGE_SECONDS = 8.0
"""For which a large picture may wait for those that are to be answered, and be read once more."""
LAST_WORDS = 10.0
"""Seconds that a worker which ends has to write what is in its queue."""


def new_table(workers: int) -> SharedTable:
    """Return the counts that the workers share: made before the fork."""
    return SharedTable(workers, LATER + LARGE_PLACES)


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


class Waiting:
    """Pictures that wait to be written; keys, or addresses, take turns. Used with the collector's lock."""

    def __init__(self, pictures: int, size: int) -> None:
        self.pictures = pictures
        """How many may wait ..."""
        self.size = size
        """... and how many bytes of them."""
        self.queues: dict[str, deque[Answered]] = {}
        """By line, the one whose turn it is first; none is empty."""
        self.taken: dict[str, int] = {}
        """By line, what its pictures take, as _room() counts it."""
        self.count = 0
        self.bytes = 0

    def __len__(self) -> int:
        return self.count

    def add(self, item: Answered) -> list[Answered]:
        """Take a picture in; return those that give way for it: each the last of the line that takes most room."""
        self.queues.setdefault(item.line, deque()).append(item)
        self.taken[item.line] = self.taken.get(item.line, 0) + self._room(item)
        self.count += 1
        self.bytes += len(item.data)
        giving = []
        while self.count > self.pictures or self.bytes > self.size:
            giving.append(self._leave(max(self.queues, key=self.taken.__getitem__), -1))
        return giving

    def next(self) -> Answered:
        """Take what is next; then it is the next line's turn."""
        return self._leave(next(iter(self.queues)), 0)

    def _room(self, item: Answered) -> int:
        """Return what a picture takes of so many bytes and so many places."""
        return max(len(item.data), self.size // self.pictures)

    def _leave(self, line: str, place: int) -> Answered:
        """Take a line's first or last picture out; one that has more has another turn behind all others."""
        queue = self.queues.pop(line)
        item = queue[place]
        del queue[place]
        self.taken[line] -= self._room(item)
        if queue:
            self.queues[line] = queue
        else:
            del self.taken[line]
        self.count -= 1
        self.bytes -= len(item.data)
        return item


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
        self.lists = Store(settings.feedback_dir)
        """For lists of many, which feedback does not wait for."""
        self._writer = Store(settings.feedback_dir)
        """The thread's own connection: reading does not wait for writing."""
        self._settings = settings
        self.table = table or new_table(1)
        self._row = self.table.row(slot)
        self._row[PENDING] = 0.0  # the worker that had this row has lost its queue
        self._row[MARKS:] = memoryview(bytes(8 * (PLACES + LARGE_PLACES))).cast("d")
        self._waiting = Waiting(QUEUE_PICTURES, QUEUE_BYTES)
        self._large = Waiting(LARGE_PICTURES, QUEUE_BYTES)
        """Those of them that take long to read."""
        self._in_work = 0
        self._changed = threading.Condition()
        self._closing = False
        self._silent_until: dict[str, float] = {}
        """By log entry: from when on it may be written again."""
        self._threads: list[threading.Thread] = []
        self._waits_long = threading.Lock()
        """Held by whoever waits for long: others have the other thread of feedback."""
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
        line: str = "",
    ) -> None:
        """Keep the pictures of a request that were answered; returns at once. `owner` and `line`: see Answered.

        Keys of one name share a line.
        """
        now = time.time()
        answered = [
            Answered(
                request, index, part.data, one.category, one.confidence, one.unknown, model, now, owner, owner or line
            )
            for index, (part, one) in enumerate(zip(parts, found, strict=True))
            if not isinstance(one, ImageError)
        ]
        with self._changed:
            idle = not self._waiting
            for item in answered:
                self._enqueue(item)
            self._count_pending()
            if len(self._threads) < 2:
                self._start()
            if idle or len(self._waiting) >= BATCH_PICTURES:
                self._changed.notify_all()  # the writer waits for the first picture, and then for a full batch

    def find(self, request: str, picture: int, owner: str, deadline: float) -> list[Kept]:
        """Do as `Store.of_request`, but wait for this picture of this owner if any worker is about to write it.

        Raises QueueFullError where it takes long, and somebody waits for such a one already.
        """
        begun = time.monotonic()
        until = min(deadline, begun + PATIENCE)
        mark = mark_of(request, picture, owner)
        with contextlib.ExitStack() as stack:
            waits_long = False
            while True:  # asked before looking: what is written in between is found
                waits = self.table.holds(MARKS, mark)
                takes_long = self.table.holds(LATER, mark)
                kept = self.store.of_request(request, picture, owner)
                if kept or not waits or time.monotonic() >= until:
                    return kept
                if (takes_long or time.monotonic() - begun > SHORT) and not waits_long:
                    if not self._waits_long.acquire(blocking=False):
                        raise QueueFullError(1)
                    stack.callback(self._waits_long.release)
                    waits_long = True
                time.sleep(0.01)

    def close(self) -> None:
        """Write what is in the queue, as far as it does not take too long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        until = time.monotonic() + LAST_WORDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _enqueue(self, item: Answered) -> None:
        """Take a picture in."""
        if self._closing:
            self._row[DROPPED] += 1
            return
        self._mark(item)
        self._give_up(self._waiting.add(item))

    def _put_off(self, item: Answered) -> None:
        """Leave a picture that takes long to read to the other thread."""
        with self._changed:
            self._in_work -= 1
            self._mark(item, LATER)
            self._unmark([item])
            self._give_up(self._large.add(item), LATER)
            self._count_pending()
            self._changed.notify_all()

    def _give_up(self, items: Iterable[Answered], first: int = MARKS) -> None:
        """Forget pictures for which there is no room."""
        for item in items:
            self._complain("pictures come faster than they can be kept in %s: some are not")
            self._unmark([item], first)
            self._row[DROPPED] += 1

    def _mark(self, item: Answered, first: int = MARKS) -> None:
        """Note the name of a picture that waits, from a column on."""
        self._replace(0.0, mark_of(item.request, item.picture, item.owner), first)

    def _unmark(self, items: Iterable[Answered], first: int = MARKS) -> None:
        """Forget the names of pictures that wait no longer."""
        for item in items:
            self._replace(mark_of(item.request, item.picture, item.owner), 0.0, first)

    def _replace(self, before: float, after: float, first: int) -> None:
        """Put the name of a picture in place of another; 0 is that of none."""
        places = self._row[first : first + (PLACES if first == MARKS else LARGE_PLACES)]
        with contextlib.suppress(ValueError):  # the name is missing
            places[list(places).index(before)] = after

    def _count_pending(self) -> None:
        self._row[PENDING] = float(len(self._waiting) + len(self._large) + self._in_work)

    def _start(self) -> None:
        for name, work in (("collector", self._work), ("large pictures", self._work_large))[len(self._threads) :]:
            thread = threading.Thread(target=work, daemon=True, name=name)
            thread.start()  # which fails where there are too many
            self._threads.append(thread)

    def _work(self) -> None:
        if self._replaces:
            try:
                clear_up(self._writer)
            except Exception as error:
                self._complain("what a worker has left in %s cannot be cleared up", error)
        while self._gather():
            self._write_small()
            self._empty_log()

    def _empty_log(self) -> None:
        try:
            self._writer.empty_log()
        except OSError as error:
            self._complain("what was deleted cannot be overwritten in %s", error)

    def _write_small(self) -> None:
        """Write a batch of pictures, and put off those that take long to read or to make clean."""
        small: list[Answered] = []
        made: deque[Clean | None] = deque()
        for item in self._batch():
            try:
                made.append(self._cleaned(item.data))
                small.append(item)
            except LargeImageError:
                self._put_off(item)
        self._write(small, lambda _: made.popleft())

    def _work_large(self) -> None:
        while (item := self._take_large()) is not None:
            self._write([item], self._large_cleaned, LATER)

    def _write(self, batch: Sequence[Answered], cleaner: Callable[[bytes], Clean | None], first: int = MARKS) -> None:
        """Write pictures, whose names stand in the table from a column on; those that cannot be are dropped."""
        kept = 0
        try:
            kept = self._writer.add(batch, self._settings.feedback_max_bytes, cleaner) if batch else 0
        except Exception as error:
            self._complain("pictures cannot be kept in %s", error)
        with self._changed:
            self._row[KEPT] += kept
            self._row[DROPPED] += len(batch) - kept
            self._in_work -= len(batch)
            self._count_pending()
            self._unmark(batch, first)

    def _cleaned(self, data: bytes) -> Clean | None:
        """Do as clean() where it takes milliseconds; none of what cannot be read. Raises LargeImageError."""
        try:
            return clean(data, self._settings.image_limits, reject_large)
        except LargeImageError:
            raise
        except Exception as error:  # of one picture: the others of the batch are kept
            self._complain("a picture cannot be kept in %s", error)
            return None

    def _large_cleaned(self, data: bytes) -> Clean | None:
        """Do as clean(), in the process for large pictures; none where time is up."""
        until = time.monotonic() + LARGE_SECONDS
        try:
            return None if self._closing else LARGE.clean(data, self._settings.image_limits, deadline=until)
        except (ImageError, TimeoutError):
            return None

    def _complain(self, message: str, error: Exception | None = None) -> None:
        """Log why pictures are not kept: a disk that is full stays full for a while, and its log shall not grow."""
        now = time.monotonic()
        if now < self._silent_until.get(message, 0.0):
            return
        self._silent_until[message] = now + SILENCE
        if isinstance(error, OSError | sqlite3.Error | DataError):  # the disk's, not a fault of ours
            log.error(f"{message}: %s", self._settings.feedback_dir, error)
        else:
            log.error(message, self._settings.feedback_dir, exc_info=error)

    def _gather(self) -> bool:
        """Wait for pictures, not for ever, and for more of them; false once there are none and no more will come."""
        with self._changed:
            if self._changed.wait_for(lambda: self._waiting or self._closing, IDLE):
                self._changed.wait_for(lambda: len(self._waiting) >= BATCH_PICTURES or self._closing, GATHER)
            return bool(self._waiting) or not self._closing

    def _batch(self) -> Iterator[Answered]:
        """Take pictures from the queue one by one, as many as are written together."""
        size, until = 0, time.monotonic() + BATCH_SECONDS
        for _ in range(BATCH_PICTURES):
            with self._changed:
                if not self._waiting or size >= BATCH_BYTES or time.monotonic() >= until:
                    return
                item = self._waiting.next()
                self._in_work += 1  # counted until it is written: feedback on it waits
                self._count_pending()
            size += len(item.data)
            yield item

    def _take_large(self) -> Answered | None:
        """Wait for a picture that takes long to read; none once no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._large or self._closing)
            if not self._large:
                return None
            self._in_work += 1
            return self._large.next()
