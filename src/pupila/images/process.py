"""Decodes pictures that may take long in a process of its own, which ends where one takes too much.

A decoder that runs can be stopped in no other way, and takes its whole process along where it fails badly. What one
picture may take is bounded by the kernel: processor time and time by the clock with timers, memory with a limit.
"""

import contextlib
import json
import os
import re
import resource
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np

from pupila import images
from pupila._workers import DiedError, Worker, serve
from pupila.errors import ImageError

SECONDS = 5
"""Of processor time for one picture: a progressive JPEG of 50 megapixels takes one to three."""
MEMORY = 900 * 2**20
"""Bytes beside what the process has before the first picture: a WebP of 50 megapixels takes 800 MiB."""
LATE = b"late"
NICE = 5
"""Lets small pictures and answers go first where there is too little processor time for all."""


class DecodingProcess:
    """Decodes one picture at a time. The process starts with the first one, and ends with this object."""

    def __init__(self, lock: threading.Lock) -> None:
        """lock: is held meanwhile, and by whoever else decodes large pictures."""
        self._lock = lock
        self._worker: Worker | None = None

    def decode(
        self, data: bytes, size: int, limits: images.ImageLimits, framing: str, *, deadline: float
    ) -> images.Pixels:
        """Return what images.decode() does, by a time of time.monotonic().

        Raises ImageError as it does, and where the picture takes too much; TimeoutError at the deadline.
        """
        if not self._lock.acquire(timeout=_left(deadline)):
            raise TimeoutError
        try:
            head = {"size": size, "limits": astuple(limits), "framing": framing, "deadline": deadline}
            answer = self._process().ask(json.dumps(head).encode() + b"\n" + data)
        except DiedError:
            if not _left(deadline):
                raise TimeoutError from None
            message = (
                f"Decoding the picture takes more than {SECONDS} seconds or more memory than one may have. "
                "Save it again with another program, or make it smaller."
            )
            raise ImageError("image_too_complex", message) from None
        finally:
            self._lock.release()
        if answer == LATE:
            raise TimeoutError
        if answer.startswith(b"["):
            raise ImageError(*json.loads(answer))
        return np.frombuffer(answer, np.uint8, offset=1).reshape(size, size, 3)

    def _process(self) -> Worker:
        if self._worker is None:
            self._worker = Worker([__file__])
            weakref.finalize(self, _end, self._worker)
        return self._worker


def _left(deadline: float) -> float:
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)


def _end(worker: Worker) -> None:
    worker.kill()
    worker.close()


def _answer(message: bytes) -> bytes:
    """Return a line end and the pixels, or the code and the text of an ImageError as JSON, or LATE."""
    head, _, data = message.partition(b"\n")
    job = json.loads(head)
    if not _left(job["deadline"]):
        return LATE
    try:
        with _bounded(_left(job["deadline"])):
            pixels = images.decode(data, job["size"], images.ImageLimits(*job["limits"]), job["framing"])
    except ImageError as error:
        return json.dumps([error.code, str(error)]).encode()
    return b"\n" + pixels.tobytes()


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """End this process where the block takes more than so many seconds, or SECONDS of processor time."""
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer jobs; only ever called in a process of its own."""
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)  # which ends the process, whatever runs in it
    with contextlib.suppress(OSError):  # a service may be kept from it
        os.nice(NICE)
    taken = re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if taken:
        resource.setrlimit(resource.RLIMIT_DATA, (int(taken[1]) * 1024 + MEMORY,) * 2)
    serve(_answer)


if __name__ == "__main__":
    main()
