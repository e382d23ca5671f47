"""A decoding process: reads jobs from standard input, writes pixels to standard output, ends with its input.

A plain child process in place of `multiprocessing`: that would run the user's main script again in every worker, cannot
be used from a script read from standard input, and not from within another worker. Knows nothing of data sets.

A job is one line of JSON, then the pictures; an answer is one line of JSON, then uint8 [N, size, size, 3].
"""

import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila.errors import ImageError
from pupila.images import ImageLimits

Decoded = tuple[NDArray[np.uint8], dict[int, str]]
"""Pixels [N, size, size, 3], and the reason for each of the N that could not be read: its pixels are zero."""


def decode_all(sources: Sequence[bytes | Path], size: int, limits: ImageLimits, framing: str = "squash") -> Decoded:
    """Decode N pictures; one that cannot be read spoils none of the others."""
    pixels = np.zeros((len(sources), size, size, 3), dtype=np.uint8)
    failed: dict[int, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on odd metadata; what matters comes as ImageError
        for index, source in enumerate(sources):
            try:
                pixels[index] = images.decode(read(source, limits), size, limits, framing)
            except ImageError as error:
                failed[index] = str(error)
            except OSError as error:
                failed[index] = f"The file cannot be read ({error.strerror or error})."
    return pixels, failed


def read(source: bytes | Path, limits: ImageLimits) -> bytes:
    """Return the picture's bytes, at most one more than the limit: enough for the decoder to refuse it."""
    if isinstance(source, bytes):
        return source
    descriptor = os.open(source, os.O_RDONLY)  # no file object: for a small picture that costs as much as reading it
    try:
        wanted = min(os.fstat(descriptor).st_size, limits.max_bytes + 1)
        data = os.read(descriptor, wanted)
        while len(data) < wanted and (more := os.read(descriptor, wanted - len(data))):
            data += more  # only ever of a file that is on a network, or larger than 2 GiB
        return data
    finally:
        os.close(descriptor)


def pack(sources: Sequence[bytes | Path], size: int, limits: ImageLimits, framing: str) -> bytes:
    """Write a job."""
    payloads = [source if isinstance(source, bytes) else os.fsencode(source) for source in sources]
    head = {
        "size": size,
        "framing": framing,
        "limits": [limits.max_bytes, limits.max_pixels],
        "lengths": [len(payload) for payload in payloads],
        "paths": [index for index, source in enumerate(sources) if isinstance(source, Path)],
    }
    return json.dumps(head).encode() + b"\n" + b"".join(payloads)


def serve() -> None:
    """Answer jobs until standard input ends, as it does when the parent is done, or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then closes our input
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := jobs.readline():
        job = json.loads(line)
        sources: list[bytes | Path] = [jobs.read(length) for length in job["lengths"]]
        for index in job["paths"]:
            sources[index] = Path(os.fsdecode(sources[index]))
        pixels, failed = decode_all(sources, job["size"], ImageLimits(*job["limits"]), job["framing"])
        answers.write(json.dumps(failed).encode() + b"\n")
        answers.write(pixels.data)
        answers.flush()
