"""Errors of requests: each has a status, a code and a sentence, and all have one shape as JSON."""

import logging
import math
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pupila._arguments import counted, first_few
from pupila.errors import ImageError, ModelError

log = logging.getLogger("pupila.server")

SILENCE = 60.0
"""Seconds between two tracebacks of one fault in the log; between them it gets a line."""
silent_until: dict[tuple[object, ...], float] = {}
"""By the fault's type and place in the code."""
STATUS_OF_IMAGE_ERROR = {
    "image_empty": 400,
    "image_unrecognised": 415,
    "image_truncated": 422,
    "image_too_many_bytes": 413,
    "image_too_many_pixels": 413,
    "image_too_complex": 413,
}


@dataclass(frozen=True)
class BadPart:
    """One picture of a request that cannot be used."""

    index: int
    """Its place among the request's pictures, from 0."""
    filename: str
    code: str
    message: str
    status: int = 400

    @classmethod
    def of(cls, index: int, filename: str, error: ImageError) -> "BadPart":
        """Say where the picture is that the error is about."""
        return cls(index, filename, error.code, str(error), STATUS_OF_IMAGE_ERROR[error.code])

    def to_json(self) -> dict[str, Any]:
        """Return what the client reads."""
        return {"index": self.index, "filename": self.filename, "code": self.code, "message": self.message}


class RequestError(Exception):
    """Ends a request with a status and an error body."""

    def __init__(
        self, status: int, code: str, message: str, parts: Sequence[BadPart] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.parts = tuple(parts)
        self.retry_after = retry_after
        """Seconds after which it pays to try again; None where it does not."""

    @classmethod
    def of_parts(cls, bad: Sequence[BadPart], total: int) -> "RequestError":
        """Sum up the bad pictures of a request: their own code and status where they agree, else 400."""
        first = bad[0]
        same = all(part.code == first.code for part in bad)
        named = first_few([f"part {part.index}{f' ({part.filename})' if part.filename else ''}" for part in bad])
        counts, text = Counter(part.code for part in bad), {part.code: part.message for part in reversed(bad)}
        reasons = [f"{count} of them: {text[code]}" for code, count in counts.items()]
        why = first.message if same else " ".join(reasons)
        message = f"{len(bad)} of {counted(total, 'picture')} cannot be used: {named}. {why}"
        return cls(first.status if same else 400, first.code if same else "images_rejected", message, bad)

    def to_json(self) -> dict[str, Any]:
        """Return the body that every error has."""
        parts = [part.to_json() for part in self.parts]
        return {"error": {"code": self.code, "message": str(self), "parts": parts}}

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that go with this error."""
        found = [] if self.retry_after is None else [("Retry-After", str(max(1, math.ceil(self.retry_after))))]
        if self.status == 401:
            found.append(("WWW-Authenticate", "Bearer"))
        if self.code == "content_encoding_unsupported":
            found.append(("Accept-Encoding", "gzip, deflate"))
        return found


class QueueFullError(RequestError):
    """Too much waits already (backpressure); `retry_after` is when to try again, in seconds."""

    def __init__(self, retry_after: float) -> None:
        message = "The server has more to do than it can answer in time. Try again later."
        super().__init__(503, "overloaded", message, retry_after=retry_after)


class DeadlineError(RequestError):
    """The request's time was over before its answer was there."""

    def __init__(self) -> None:
        super().__init__(504, "deadline_exceeded", "The answer was not ready by the request's deadline.")


def too_slow(seconds: float, what: str = "The request") -> RequestError:
    """Say that too little of a request has come in time; `what` begins the sentence."""
    return RequestError(408, "upload_too_slow", f"{what} did not arrive within {seconds:g} seconds.")


def request_error_of(error: Exception) -> RequestError:
    """Return what the client is answered, and let go of all else that the error holds.

    A fault of the server's own is logged, and the client sees nothing of it but what the model could not answer.
    """
    if not isinstance(error, RequestError):
        log_fault(error)
    let_go(error)
    if isinstance(error, RequestError):
        return error
    message = (
        error.reason if isinstance(error, ModelError) else "The server failed on this request. It has been logged."
    )
    return RequestError(500, "internal_error", message)


def let_go(error: Exception) -> None:
    """Forget where an error comes from: those frames hold the request's pictures, and some of them the error itself."""
    error.__traceback__ = error.__context__ = error.__cause__ = None


def log_fault(error: Exception, what: str = "unexpected fault") -> None:
    """Log a fault of the server's own, or of its disk, with its traceback once in SILENCE seconds."""
    now, steps = time.monotonic(), list(traceback.walk_tb(error.__traceback__))
    kind = type(error), *((frame.f_code, line) for frame, line in steps[-1:])
    if now < silent_until.get(kind, 0.0):  # who can bring it about may do so again and again
        log.error("%s again: %s", what, type(error).__name__)
    else:
        silent_until[kind] = now + SILENCE
        log.error("%s", what, exc_info=error)
