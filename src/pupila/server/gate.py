"""How many pixels may be decoded at once: bounds the memory of big pictures. Knows no picture formats.

A file of a few kilobytes may hold fifty megapixels, which take hundreds of megabytes while they are decoded. A worker
has one core: decoding two such pictures at once saves no time.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pupila.server.scheduler import DeadlineError

FREE = 1_000_000
"""Pixels up to which a picture passes without being counted: all threads together need little memory for such ones."""
TOGETHER = 4_000_000
"""Pixels that may be decoded at once; a larger picture is decoded alone."""
FREE_PASS = nullcontext()


class PixelGate:
    """Shared by the threads of one worker; a picture passes if it fits into the budget, or if it is alone."""

    def __init__(self, budget: int = TOGETHER) -> None:
        self._budget = budget
        self._inside = 0
        self._changed = threading.Condition()

    def enter(self, pixels: int, deadline: float) -> AbstractContextManager[None]:
        """Wait until so many pixels may be decoded; raises DeadlineError at `deadline`, a time of time.monotonic."""
        return FREE_PASS if pixels <= FREE else self._counted(pixels, deadline)

    @contextmanager
    def _counted(self, pixels: int, deadline: float) -> Iterator[None]:
        with self._changed:
            if not self._changed.wait_for(lambda: self._fits(pixels), max(0.0, deadline - time.monotonic())):
                raise DeadlineError
            self._inside += pixels
        try:
            yield
        finally:
            with self._changed:
                self._inside -= pixels
                self._changed.notify_all()

    def _fits(self, pixels: int) -> bool:
        return not self._inside or self._inside + pixels <= self._budget
