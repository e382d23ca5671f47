"""Signals wait for the end of a batch: Ctrl-C, SIGTERM, and SIGHUP of a closed terminal leave a whole checkpoint.

Only handlers that nobody has replaced are taken over, and only in the main thread. A second Ctrl-C stops at once.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

log = logging.getLogger("pupila.training")

UNTOUCHED: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


class StopSignals:
    """Notes that somebody asked the process to stop, by one of `numbers`; `said` is logged then."""

    def __init__(self, numbers: tuple[signal.Signals, ...] = tuple(UNTOUCHED), said: str = "") -> None:
        self.asked: int | None = None
        """The signal that came."""
        self._numbers, self._said = numbers, said
        self._taken: list[signal.Signals] = []

    def install(self) -> None:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            self._taken = [number for number in self._numbers if signal.getsignal(number) is UNTOUCHED[number]]
            for number in self._taken:
                signal.signal(number, self._note)

    def remove(self) -> None:
        """Give the signals back."""
        for number in self._taken:
            signal.signal(number, UNTOUCHED[number])
        self._taken = []

    def stop(self) -> None:
        """Do what the signal would have done: Ctrl-C raises KeyboardInterrupt, the others end the process."""
        self.remove()
        signal.raise_signal(self.asked or signal.SIGINT)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked is not None:
            self.stop()
        self.asked = number
        if self._said:  # by another thread, as this one may be in the middle of printing
            threading.Thread(target=log.info, args=(self._said,)).start()


@contextlib.contextmanager
def ctrl_c_waits(said: str) -> Iterator[None]:
    """Let the first Ctrl-C wait for the end of the block, and log what is said; the second stops at once."""
    signals = StopSignals((signal.SIGINT,), said)
    signals.install()
    try:
        yield
    finally:
        signals.remove()
