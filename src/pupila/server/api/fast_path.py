"""Answers POST /predict without Flask's routing, request and response objects, and hands all else on to Flask.

They do nothing for this route that is not done here, and took a third of the time that a request spends outside the
network. Knows WSGI; what it answers is what Flask would, to the byte. Several requests can be answered by one thread
together, so that their pictures are one batch.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

from flask import Response

from pupila.server.api.auth import AccessControl
from pupila.server.api.predict import Room, predict
from pupila.server.hooks import authorize, closing_headers, write_down
from pupila.server.inference.classifier import Found, Job, Work

Whole = tuple[str, list[tuple[str, str]], bytes]
"""Status line, headers and body of a response."""


class Front:
    """A WSGI application in front of another one."""

    def __init__(
        self,
        behind: WSGIApplication,
        room: Room,
        access: AccessControl,
        show_error: Callable[[Exception], Response],
    ) -> None:
        self.behind = behind
        self.room = room
        self.access = access
        self.show_error = show_error

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if environ["PATH_INFO"] != "/predict" or environ["REQUEST_METHOD"] != "POST":
            return self.behind(environ, start_response)
        status, headers, body = Visit(self, environ).finish()
        start_response(status, headers)
        return [body]

    def proceed(self, visits: Sequence["Visit"]) -> None:
        """Compute what these visits need now, all of it together."""
        jobs = [visit.job for visit in visits if visit.job is not None]
        if jobs:
            found = iter(self.room.classifier.rows(jobs))
            for visit in visits:
                if visit.job is not None:
                    visit.go_on(next(found))


class Visit:
    """One request to /predict on its way to its response; begun at once, as far as it goes without computing."""

    __slots__ = ("environ", "front", "job", "response", "work")

    def __init__(self, front: Front, environ: dict[str, Any]) -> None:
        self.front = front
        self.environ = environ
        self.work = self._work()
        self.job: Job | None = None
        """What is to be computed now."""
        self.response: Whole | None = None
        """Where there is neither a job nor a response, what comes may take long."""
        self.go_on(None)

    def finish(self) -> Whole:
        """Do all that is left in this thread, which may wait."""
        while self.response is None:
            if self.job is None:
                self.go_on(None)
            else:
                self.front.proceed([self])
        return self.response

    def go_on(self, found: Found | None) -> None:
        """Take the work to its next job, or to its end."""
        self.job = None
        try:
            if isinstance(found, Exception):
                self.job = self.work.throw(found)
            else:
                self.job = self.work.send(found)
        except StopIteration as end:
            body, version = end.value
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            self._close("200 OK", [*headers, ("Pupila-Model", version)], body)
        except Exception as error:
            response = self.front.show_error(error)
            self._close(response.status, list(response.headers), response.get_data())

    def _work(self) -> Work[tuple[bytes, str]]:
        authorize(self.environ, self.front.access)
        return (yield from predict(self.environ, self.front.room))

    def _close(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        ledger = self.front.room.ledger
        headers += closing_headers(self.environ, ledger)
        write_down(self.environ, int(status[:3]), ledger)
        self.response = status, headers, body
