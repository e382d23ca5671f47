"""A decoding process: reads jobs from standard input, writes pixels to shared memory, uint8 [N, size, size, 3].

A job is one line of JSON, then the pictures. Its answer is one line of JSON a picture: an empty text, or why it
could not be read.
"""

import io
import json
import mmap
import os
import sys
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila._workers import serve
from pupila.errors import ImageError
from pupila.images import ImageLimits

Sources = Sequence[bytes | str]
"""Pictures, or the paths to read them from."""
UNREADABLE = "The file cannot be read"
"""Begins the reason where it is not the content that is wrong: another time it may be read."""


def decode_into(pixels: NDArray[np.uint8], sources: Sources, limits: ImageLimits, framing: str = "squash") -> list[str]:
    """Decode N pictures into uint8 [N, size, size, 3]; return why each could not be, empty where it could."""
    reasons = [""] * len(sources)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow remarks on odd metadata; what matters comes as ImageError
        for index, source in enumerate(sources):
            try:
                pixels[index] = images.decode(source, pixels.shape[1], limits, framing)
            except ImageError as error:
                reasons[index] = str(error)
            except OSError as error:
                reasons[index] = f"{UNREADABLE} ({error.strerror or error})."
    return reasons


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


def main(memory: int) -> None:
    """Answer jobs. memory: the descriptor of the file that the pixels go into, which has its size before the first."""

    def answer(message: bytes) -> bytes:
        content = io.BytesIO(message)
        job = json.loads(content.readline())
        sources: list[bytes | str] = [content.read(length) for length in job["lengths"]]
        for index in job["paths"]:
            sources[index] = os.fsdecode(sources[index])
        count, size = job["shape"]
        pixels = np.frombuffer(mmap.mmap(memory, 0), dtype=np.uint8).reshape(count, size, size, 3)
        part = pixels[job["start"] : job["start"] + len(sources)]
        reasons = decode_into(part, sources, ImageLimits(*job["limits"]), job["framing"])
        return b"".join(json.dumps(reason).encode() + b"\n" for reason in reasons)

    serve(answer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
