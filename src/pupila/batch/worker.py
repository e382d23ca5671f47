"""The predicting processes of a job, one a core: each decodes files and runs an ONNX Runtime session with one thread.

A process a core keeps a crash to one chunk (benchmarks/batch compares other ways). A job is JSON, a list of paths; its
answer is the line of each path (job.py).
"""

import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pupila import images
from pupila._files import DEEPEST_FOLDER
from pupila._workers import RefusedError, Worker, WorkerPool, serve
from pupila.batch.job import FileAnswer, to_line
from pupila.batch.listing import is_stored, read_stored
from pupila.errors import ImageError, ModelError
from pupila.images import DEFAULT_LIMITS, Pixels
from pupila.predictor import Predictor

BATCH = 32
"""Pictures in one call of the session, at most, up to a network size of REFERENCE_SIZE; a larger one gets fewer."""
REFERENCE_SIZE = 64
LOST = to_line(ImageError("file_unreadable", "Reading it ended the process, twice. Save the picture anew."))


class Workers(WorkerPool):
    """The predicting processes of one job."""

    def __init__(self, count: int, model: Path, version: str, top: int) -> None:
        """`version`: of the model, which must not change meanwhile."""
        arguments = ["-m", "pupila.batch.worker", str(model), version, str(top)]
        super().__init__([Worker(arguments) for _ in range(count)])

    def answers(self, chunks: Iterator[list[str]]) -> Iterator[tuple[list[str], bytes]]:
        """Yield each chunk of paths and its lines of answers, in order; raises ModelError if the model changed."""
        try:
            yield from self.map(chunks, lambda paths: json.dumps(paths).encode(), LOST)
        except RefusedError as error:
            raise ModelError(str(error)) from None


def predict(predictor: Predictor, paths: Sequence[str], top: int) -> list[FileAnswer]:
    """Return the answer to each path; a file that cannot be read spoils none of the others."""
    decoded = [_decode(path, predictor) for path in paths]
    pictures = [one for one in decoded if not isinstance(one, ImageError)]
    step = max(1, min(BATCH, BATCH * REFERENCE_SIZE**2 // predictor.manifest.network_size**2))
    found: list[FileAnswer] = []
    for start in range(0, len(pictures), step):
        found += _answered(predictor, pictures[start : start + step], top)
    answers = iter(found)
    return [one if isinstance(one, ImageError) else next(answers) for one in decoded]


def _answered(predictor: Predictor, pictures: Sequence[Pixels], top: int) -> list[FileAnswer]:
    """Return the answer to each picture; one for which the model gives no numbers spoils none of the others."""
    try:
        return [*predictor.interpret(predictor.scores(images.stack(pictures)), top)]
    except ModelError as error:
        if len(pictures) == 1:
            return [ImageError("image_unanswered", error.reason)]
        return [one for picture in pictures for one in _answered(predictor, [picture], top)]


def _decode(path: str, predictor: Predictor) -> Pixels | ImageError:
    try:
        return predictor.decode(read(path))
    except ImageError as error:
        return error.with_traceback(None)  # which holds the picture
    except OSError as error:
        reason = f"It cannot be read ({error.strerror or error}). Check the path and its permissions."
        return ImageError("file_unreadable", reason)


def read(path: str) -> bytes:
    """Return the content of a listed file; never waits for a pipe, and never reads a device."""
    if is_stored(path):
        return read_stored(path, DEFAULT_LIMITS.max_bytes + 1)
    mode = os.stat(path).st_mode  # noqa: PTH116 - called often
    if stat.S_ISDIR(mode):
        raise OSError(0, f"a closed folder, or one in over {DEEPEST_FOLDER} others")
    if not stat.S_ISREG(mode):
        raise OSError(0, "not a regular file")
    return images.read(path)


def main(path: str, version: str, top: int) -> None:
    """Load the model at once and answer jobs; what is wrong with the model is the answer to each of them."""
    predictor: Predictor | ModelError
    try:
        predictor = Predictor.load(Path(path))
        if predictor.version != version:
            predictor = ModelError(
                f"{path}: changed while the job ran. Put it back and give the same command once more: "
                "it goes on where it stopped."
            )
    except ModelError as error:
        predictor = error

    def answer(job: bytes) -> bytes:
        if isinstance(predictor, ModelError):
            raise predictor
        return b"".join(to_line(one) for one in predict(predictor, json.loads(job), top))

    serve(answer)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
