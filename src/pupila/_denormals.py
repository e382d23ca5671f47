"""Flushes denormals to zero while something computes: with numbers that nearly vanish a CPU takes 100 times as long.

A model file of a stranger may hold nothing else. The bit for it belongs to the thread: it is set in the C library's
floating-point environment and put back, so that what the caller computes for itself stays as it is.
"""

import ctypes
import functools
import platform
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BITS = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}
"""By processor: where the control register lies in fenv_t of glibc and musl, and its bits that flush."""
BYTES = 64
"""More than fenv_t has."""


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Flush in this thread, and in those that it starts; does nothing on systems other than Linux. Takes 5 us."""
    library, (offset, bits) = _library()
    if library is None:
        yield
        return
    before = ctypes.create_string_buffer(BYTES)
    library.fegetenv(before)
    flushing = ctypes.create_string_buffer(before.raw)
    struct.pack_into("<I", flushing, offset, struct.unpack_from("<I", before, offset)[0] | bits)
    library.fesetenv(flushing)
    try:
        yield
    finally:
        library.fesetenv(before)


@functools.cache
def _library() -> tuple[ctypes.PyDLL | None, tuple[int, int]]:
    known = sys.platform == "linux" and platform.machine() in BITS
    return (ctypes.PyDLL(None), BITS[platform.machine()]) if known else (None, (0, 0))
