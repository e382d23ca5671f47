"""Signals wait for the end of a batch: Ctrl-C, SIGTERM, and SIGHUP of a closed terminal leave a whole checkpoint.

Only handlers that nobody has replaced are taken over, and only in the main thread. A second Ctrl-C stops at once.
"""

import signal
import threading
from types import FrameType
from typing import Any

UNTOUCHED: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


class StopSignals:
    """Notes that somebody asked the process to stop."""

    def __init__(self) -> None:
        self.asked: int | None = None
        """The signal that came."""
        self._taken: list[signal.Signals] = []

    def install(self) -> None:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            self._taken = [number for number, handler in UNTOUCHED.items() if signal.getsignal(number) is handler]
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
