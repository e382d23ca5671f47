"""Sets up the C libraries of a worker process: glibc gives memory back, libtiff does not write to stderr. Linux."""

import contextlib
import ctypes
import threading
import time
from pathlib import Path

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""From glibc's malloc.h."""
MAPS = Path("/proc/self/maps")
TRIM = 10.0
"""Seconds between two times that free memory is given back, which takes 1 to 5 ms (docs/experiments-serving.md)."""


def give_memory_back() -> None:
    """Keep glibc from holding on to what big pictures needed, once for each thread that decoded one.

    What is free between pieces in use it gives back only on request, which a thread makes as long as the process lives.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 2)
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)  # fixes it, too: glibc raises it up to 32 MiB otherwise
        libc.malloc_trim(0)  # what loading the model has left behind
        threading.Thread(target=_trim_again, args=(libc,), daemon=True, name="trim").start()


def _trim_again(libc: ctypes.CDLL) -> None:
    while True:
        time.sleep(TRIM)
        libc.malloc_trim(0)


def silence_libtiff() -> None:
    """Keep libtiff from writing to standard error what it thinks of a file: strangers could fill the log with that.

    Pillow, which has it loaded, has no way to say so; the picture is refused with a reason of ours all the same.
    """
    with contextlib.suppress(OSError, AttributeError):  # no such system, or a Pillow that has none or hides it
        for path in {line.split()[-1] for line in MAPS.read_text().splitlines() if "libtiff" in line}:
            library = ctypes.CDLL(path)
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)
