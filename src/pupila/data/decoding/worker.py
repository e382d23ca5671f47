"""A decoding process: reads jobs from standard input, writes pixels to shared memory, ends with its input.

A plain child process in place of `multiprocessing`: that would run the user's main script again in every worker, cannot
be used from a script read from standard input, and not from within another worker. Knows nothing of data sets.

A job is one line of JSON, then the pictures. The pixels go into memory that the parent shares, uint8
[N, size, size, 3]; the answer is one line of JSON, the reason for each picture that could not be read.
"""

import json
import mmap
import os
import signal
import sys
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila.errors import ImageError
from pupila.images import ImageLimits

Sources = Sequence[bytes | str]
"""Pictures, or the paths to read them from."""
Failed = dict[int, str]
"""The reason for each picture that could not be read, by its index: its pixels are zero."""
UNREADABLE = "The file cannot be read"
"""Begins the reason where it is not the content that is wrong: another time it may be read."""


def decode_into(pixels: NDArray[np.uint8], sources: Sources, limits: ImageLimits, framing: str = "squash") -> Failed:
    """Decode N pictures into uint8 [N, size, size, 3]; one that cannot be read spoils none of the others."""
    failed: Failed = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on odd metadata; what matters comes as ImageError
        for index, source in enumerate(sources):
            try:
                pixels[index] = images.decode(read(source, limits), pixels.shape[1], limits, framing)
            except ImageError as error:
                failed[index] = str(error)
            except OSError as error:
                failed[index] = f"{UNREADABLE} ({error.strerror or error})."
    return failed


def read(source: bytes | str, limits: ImageLimits) -> bytes:
    """Return the picture's bytes; raises ImageError for a file over the limit, without reading it."""
    return source if isinstance(source, bytes) else images.read(source, limits)


def pack(sources: Sources, start: int, shape: tuple[int, ...], limits: ImageLimits, framing: str) -> bytes:
    """Write a job; `start` is the place of its first picture among all, whose number and size are the `shape`."""
    payloads = [source if isinstance(source, bytes) else os.fsencode(source) for source in sources]
    head = {
        "start": start,
        "shape": shape,
        "framing": framing,
        "limits": [limits.max_bytes, limits.max_pixels],
        "lengths": [len(payload) for payload in payloads],
        "paths": [index for index, source in enumerate(sources) if isinstance(source, str)],
    }
    return json.dumps(head).encode() + b"\n" + b"".join(payloads)


def serve(memory: int) -> None:
    """Answer jobs until standard input ends, as it does when the parent is done, or is no more.

    memory: the descriptor of the file that the pixels go into.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then closes our input
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    pixels: NDArray[np.uint8] | None = None
    while line := jobs.readline():
        job = json.loads(line)
        sources: list[bytes | str] = [jobs.read(length) for length in job["lengths"]]
        for index in job["paths"]:
            sources[index] = os.fsdecode(sources[index])
        if pixels is None:  # the file has its size by now
            count, size = job["shape"]
            pixels = np.frombuffer(mmap.mmap(memory, 0), dtype=np.uint8).reshape(count, size, size, 3)
        part = pixels[job["start"] : job["start"] + len(sources)]
        failed = decode_into(part, sources, ImageLimits(*job["limits"]), job["framing"])
        answers.write(json.dumps(failed).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
