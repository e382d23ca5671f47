"""A predicting process: reads jobs from standard input, writes answers to standard output, ends with its input.

Decodes and runs an ONNX Runtime session of its own, with one thread: a process a core keeps a crash to one chunk
(benchmarks/batch compares other ways). A plain child process, for the reasons in pupila.data.decoding.worker. Knows
nothing of tables.

First it writes what it knows of the model, or what is wrong with it: one line of JSON. A job is one line, JSON: a list
of paths. Its answer is one line, the number of bytes that follow, then the line of each path (answer.py).
"""

import json
import os
import signal
import stat
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pupila import images
from pupila.batch import remote
from pupila.batch.answer import FileAnswer
from pupila.errors import ImageError, ModelError
from pupila.images import DEFAULT_LIMITS, Pixels
from pupila.predictor import Predictor

BATCH = 32
"""Pictures in one call of the session, at most, up to a network size of REFERENCE_SIZE; a larger one gets fewer."""
REFERENCE_SIZE = 64


def predict(predictor: Predictor, paths: Sequence[str], top: int) -> list[FileAnswer]:
    """Return the answer to each path; a file that cannot be read spoils none of the others."""
    answers = [_decode(path, predictor) for path in paths]
    good = [index for index, pixels in enumerate(answers) if not isinstance(pixels, FileAnswer)]
    step = max(1, min(BATCH, BATCH * REFERENCE_SIZE**2 // predictor.manifest.network_size**2))
    for start in range(0, len(good), step):
        part = good[start : start + step]
        pictures = images.stack([pixels for index in part if not isinstance(pixels := answers[index], FileAnswer)])
        for index, prediction in zip(part, predictor.interpret(predictor.scores(pictures), top), strict=True):
            answers[index] = FileAnswer.of(prediction)
    return [answer for answer in answers if isinstance(answer, FileAnswer)]


def _decode(path: str, predictor: Predictor) -> Pixels | FileAnswer:
    try:
        return predictor.decode(_read(path))
    except ImageError as error:
        return FileAnswer.of(error)
    except OSError as error:
        reason = f"It cannot be read ({error.strerror or error}). Check the path and its permissions."
        return FileAnswer(code="file_unreadable", error=reason)


def _read(path: str) -> bytes:
    """Return the content, at most one byte more than the limit; never waits for a pipe, and never reads a device."""
    if remote.is_url(path):
        return remote.read(path, DEFAULT_LIMITS.max_bytes + 1)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file")
        return file.read(min(status.st_size, DEFAULT_LIMITS.max_bytes + 1))


def serve(model: str, top: int) -> None:
    """FileAnswer jobs until standard input ends, as it does when the parent is done, or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then closes our input
    warnings.simplefilter("ignore")  # Pillow remarks on odd metadata; what matters comes as ImageError
    jobs, answers = sys.stdin.buffer, _answers()
    known: tuple[str, str, tuple[str, ...]] | str
    try:
        predictor = Predictor.load(Path(model))
        known = (predictor.version, predictor.manifest.name, predictor.manifest.classes)
    except ModelError as error:
        known = str(error)
    try:
        answers.write(json.dumps(known).encode() + b"\n")
        answers.flush()
        if isinstance(known, str):
            return
        for paths in _jobs(jobs):
            lines = b"".join(answer.to_line() for answer in predict(predictor, paths, top))
            answers.write(b"%d\n" % len(lines) + lines)
            answers.flush()
    except BrokenPipeError:
        os._exit(1)  # the parent was killed; leaving in the ordinary way would try to flush once more


def _answers() -> BinaryIO:
    """Take standard output for the answers alone: what a native library prints goes to standard error."""
    answers = open(os.dup(1), "wb")  # noqa: PTH123, SIM115 - a descriptor, open as long as the process
    os.dup2(2, 1)
    return answers


def _jobs(file: BinaryIO) -> Iterator[list[str]]:
    while line := file.readline():
        yield json.loads(line)
