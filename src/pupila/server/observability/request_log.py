"""What is written down of every answered request: the counts, and one line of JSON if wanted. Knows no Flask."""

import contextlib
import json
import logging
import os
import re
import stat
import time
from pathlib import Path

from pupila.server.observability.telemetry import RequestRecord, Telemetry
from pupila.server.observability.tracing import Tracer

log = logging.getLogger("pupila.server")

APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
STDOUT = Path("-")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
ROUTE_OF_PATH = {
    "/predict": "predict",
    "/model": "model",
    "/healthz": "health",
    "/readyz": "health",
    "/ping": "health",
    "/v2/health/live": "health",
    "/v2/health/ready": "health",
    "/metrics": "metrics",
}


def route_of(path: str) -> str:
    """Return the route that a path counts under."""
    if path in ROUTE_OF_PATH:
        return ROUTE_OF_PATH[path]
    if path.startswith("/v2/"):
        return "infer" if path.endswith("/infer") else "model"
    return "predictions" if path.startswith("/predictions/") else "other"


def opened(file: Path) -> int:
    """Return a descriptor of the access log. A standard output that nobody reads must not stop the server."""
    if file != STDOUT:
        return os.open(file, APPENDING, 0o640)
    if not stat.S_ISREG(os.fstat(1).st_mode):
        with contextlib.suppress(OSError):  # a socket, as systemd's, cannot be opened again
            return os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.dup(1)


class RequestLog:
    """One worker's; its methods may be called from several threads."""

    def __init__(self, telemetry: Telemetry, file: Path | None = None, tracer: Tracer | None = None) -> None:
        self.telemetry = telemetry
        self.tracer = tracer
        """Makes spans of the requests; None where nobody traces."""
        self._log = None if file is None else opened(file)
        self._full = False
        """The log could not be written the last time."""

    def request_id(self, given: str | None) -> str:
        """Return the client's own request id if it is a sane one, else a new one."""
        if given is not None and REQUEST_ID.fullmatch(given):
            return given
        return os.urandom(8).hex()  # nobody can guess another client's: without keys, feedback goes by it

    def record(self, note: RequestRecord, method: str, path: str, status: int, started: float, address: str) -> None:
        """Count a request, and write its line; called before its answer is sent, so that no client is ahead of it."""
        ended = time.monotonic()
        seconds = ended - started
        self.telemetry.request(note, status, seconds)
        if self.tracer is not None:
            self._trace(note, method, path, status, started, ended)
        if self._log is None:
            return
        line = {
            "time": round(time.time(), 3),
            "id": note.request_id,
            "client": address,
            "key": note.key,
            "method": method,
            "path": path,
            "status": status,
            "ms": round(1000 * seconds, 2),
            "stages_ms": {stage: round(1000 * spent, 2) for stage, spent in note.stages.items()},
            "pictures": len(note.confidences),
            "model": note.model,
        }
        self._write((json.dumps(line, separators=(",", ":")) + "\n").encode())

    def _trace(self, note: RequestRecord, method: str, path: str, status: int, started: float, ended: float) -> None:
        """Make spans; what goes wrong there must not cost the answer."""
        try:
            if self.tracer is not None:
                self.tracer.record(note, method, path, status, started, ended)
        except Exception:
            log.exception("a request could not be traced")

    def _write(self, line: bytes) -> None:
        """Write a line; a full disk costs the line, and is said once, but must not cost the answer."""
        try:
            os.write(self._log or -1, line)
            self._full = False
        except OSError as error:
            if not self._full:
                log.error("the access log cannot be written (%s): lines are lost until it can be", error.strerror)
            self._full = True

    def close(self) -> None:
        """Hand on what has not been sent yet; the process is about to end."""
        if self.tracer is not None:
            self.tracer.close()
