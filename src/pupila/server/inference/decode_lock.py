"""Lets one big picture at a time be decoded: bounds their memory. Knows no picture formats.

A file of a few kilobytes may hold fifty megapixels, which take hundreds of megabytes while they are decoded. A worker
has one core: decoding two such pictures at once saves no time.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pupila.server.inference.batcher import DeadlineError

SMALL = 500_000
"""Pixels up to which a picture passes: it takes milliseconds, and about two megabytes."""
FREE_PASS = nullcontext()

Enter = Callable[[int, float], AbstractContextManager[None]]
"""Asked for leave to decode so many pixels, by a deadline."""


class TooBigError(Exception):
    """A picture that takes long to decode, in a thread that has other requests waiting behind."""


def only_small(pixels: int, _: float) -> AbstractContextManager[None]:
    """Let small pictures pass; raises TooBigError for others."""
    if pixels > SMALL:
        raise TooBigError
    return FREE_PASS


class Gate:
    """Shared by the threads of one worker."""

    def __init__(self) -> None:
        self._turn = threading.Lock()

    def enter(self, pixels: int, deadline: float) -> AbstractContextManager[None]:
        """Wait until so many pixels may be decoded; raises DeadlineError at `deadline`, a time of time.monotonic."""
        return FREE_PASS if pixels <= SMALL else self._alone(deadline)

    @contextmanager
    def _alone(self, deadline: float) -> Iterator[None]:
        if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise DeadlineError
        try:
            yield
        finally:
            self._turn.release()
