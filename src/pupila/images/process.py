"""Decodes pictures that may take long in a process of its own, which ends where one takes too much.

A decoder that runs can be stopped in no other way, and takes its whole process along where it fails badly. What one
picture may take is bounded by the kernel: processor time and time by the clock with timers, memory with a limit.
"""

import contextlib
import json
import logging
import os
import re
import resource
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np

from pupila import images
from pupila._workers import DiedError, Worker, serve
from pupila.errors import ImageError
from pupila.images.strip import Clean, clean

log = logging.getLogger("pupila.server")

SECONDS, CLEAN_SECONDS = 5, 2
"""Of processor time for one picture: a progressive JPEG of 50 megapixels takes one to three. And to make one clean, for
which requests wait. Where more pixels are allowed, these and the memory grow with them."""
MEMORY = 900 * 2**20
"""Bytes beside what the process has before the picture: a WebP of 50 megapixels takes 800 MiB."""
LATE = b"late"
"""The answer to a job whose deadline is over."""
NICE = 5
"""Lets small pictures and answers go first where there is too little processor time for all."""


Charge = Callable[[float], object]
"""Is told how many seconds a picture has taken."""


class DecodingProcess:
    """Decodes one picture at a time. The process starts with the first one, and ends with this object.

    After a fork each side has a process of its own.
    """

    def __init__(self, lock: threading.Lock) -> None:
        """lock: is held meanwhile, and by whoever else decodes large pictures."""
        self._lock = lock
        self._worker: Worker | None = None
        self._owner = 0
        """Which process has started it."""

    def decode(
        self,
        data: bytes,
        size: int,
        limits: images.ImageLimits,
        framing: str,
        *,
        deadline: float,
        charge: Charge = lambda _: None,
    ) -> images.Pixels:
        """Return what images.decode() does, by a time of time.monotonic().

        charge: called with the seconds that it took from its turn on. Raises ImageError as images.decode() does, and
        where the picture takes too much; TimeoutError at the deadline.
        """
        answer = self._do({"size": size, "framing": framing}, data, limits, deadline, charge)
        return np.frombuffer(answer, np.uint8).reshape(size, size, 3)

    def clean(self, data: bytes, limits: images.ImageLimits, *, deadline: float) -> Clean | None:
        """Return what strip.clean() does; raises as decode()."""
        kind, _, cleaned = self._do({}, data, limits, deadline).partition(b"\n")
        return Clean(cleaned, kind.decode()) if kind else None

    def _do(
        self,
        job: dict[str, int | str],
        data: bytes,
        limits: images.ImageLimits,
        deadline: float,
        charge: Charge = lambda _: None,
    ) -> bytes:
        if not self._lock.acquire(timeout=_left(deadline)):
            raise TimeoutError
        begun = time.monotonic()
        try:
            head = {**job, "limits": astuple(limits), "deadline": deadline}
            answer = self._ask(json.dumps(head).encode() + b"\n" + data, deadline)
        finally:
            charge(time.monotonic() - begun)
            self._lock.release()
        if answer == LATE:
            raise TimeoutError
        if not answer:
            message = (
                f"Decoding it takes more than {SECONDS * _times(limits):g} seconds of processor time or "
                f"{_memory(limits) >> 20:,} MiB. Save it again with another program, or make it smaller."
            )
            raise ImageError("image_too_complex", message)
        if answer.startswith(b"["):
            raise ImageError(*json.loads(answer))
        return answer[1:]

    def _ask(self, job: bytes, deadline: float) -> bytes:
        """Return the answer; LATE at the deadline, and nothing where the picture has ended the process.

        One that was killed by somebody else, as the system does that is out of memory, is asked once more.
        """
        for _ in range(2):
            try:
                return self._process().ask(job)
            except DiedError as error:
                if not _left(deadline):
                    return LATE
                if -error.code not in (signal.SIGALRM, signal.SIGPROF):
                    log.warning("the process that decodes large pictures has ended with code %d", error.code)
                if -error.code != signal.SIGKILL:
                    break
        return b""

    def _process(self) -> Worker:
        if self._worker is None or self._owner != os.getpid():
            self._worker, self._owner = Worker([__file__]), os.getpid()
            weakref.finalize(self, _end, self._worker, self._owner)
        return self._worker


def _memory(limits: images.ImageLimits) -> int:
    return round(MEMORY * _times(limits))


def _times(limits: images.ImageLimits) -> float:
    """Return how many times what is usual a picture may take, where more pixels than usual are allowed."""
    return max(1.0, limits.max_pixels / images.DEFAULT_LIMITS.max_pixels)


def _left(deadline: float) -> float:
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)


def _end(worker: Worker, owner: int) -> None:
    if os.getpid() == owner:
        worker.kill()
        worker.close()


def _answer(message: bytes) -> bytes:
    """Return a line end and the pixels, or kind and content of a clean file; or an ImageError as JSON, or LATE."""
    head, _, data = message.partition(b"\n")
    job = json.loads(head)
    if not _left(job["deadline"]):
        return LATE
    limits = images.ImageLimits(*job["limits"])
    try:
        with _bounded(_left(job["deadline"]), SECONDS if "size" in job else CLEAN_SECONDS, limits):
            if "size" in job:
                return b"\n" + images.decode(data, job["size"], limits, job["framing"]).tobytes()
            cleaned = clean(data, limits)
            return b"\n%b\n%b" % (cleaned.kind.encode(), cleaned.data) if cleaned else b"\n"
    except ImageError as error:
        return json.dumps([error.code, str(error)]).encode()


@contextlib.contextmanager
def _bounded(seconds: float, of_processor: float, limits: images.ImageLimits) -> Iterator[None]:
    """End this process where the block takes more than so many seconds or too much processor time; bound its memory."""
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    taken = re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if taken:
        most = int(taken[1]) * 1024 + _memory(limits)
        most = most if before == resource.RLIM_INFINITY else min(most, before)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    signal.setitimer(signal.ITIMER_PROF, of_processor * _times(limits))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def main() -> None:
    """Answer jobs; only ever called in a process of its own."""
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)  # which ends the process, whatever runs in it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the worker answers what it has, and then closes our input
    with contextlib.suppress(OSError):  # a service may be kept from it
        os.nice(NICE)
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints what strangers send
    serve(_answer)


if __name__ == "__main__":
    main()
