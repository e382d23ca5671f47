"""Bounds the memory of decoding: one large picture at a time in each worker.

A file of a few kilobytes may hold fifty megapixels, which take hundreds of megabytes while they are decoded. A worker
has one core: decoding two such pictures at once saves no time.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pupila.server.inference.batcher import DeadlineError

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
