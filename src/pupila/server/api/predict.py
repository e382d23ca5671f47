"""POST /predict: from a request's WSGI environment to its response, without Flask's routing and objects.

Those do nothing for this route that is not done here, and took a third of the time that a request spends outside the
network. Every POST /predict is a PredictTask, whatever options are on and whichever WSGI server calls.
"""

from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication

from pupila.errors import ImageError
from pupila.prediction import Choice, Prediction
from pupila.predictor import Predictor
from pupila.server.api import multipart
from pupila.server.api.body import NotHereError
from pupila.server.api.errors import BadPart, RequestError, let_go, request_error_of
from pupila.server.api.multipart import Part, Query
from pupila.server.api.request_context import (
    AppState,
    authorize,
    begin_inference,
    closing_headers,
    context_of,
    end_parsing,
    ensure_context,
    log_request,
    request_id_of,
    to_bytes,
)
from pupila.server.inference import BatchKey, Computation, Decoding, PictureOutputs

MAX_LISTED, LONG_NAME = 131_072, 100
"""Probabilities and numbers of maps in one answer: as many as 128 pictures of 1,000 classes have. Each takes 3 µs, and
half a kilobyte; where the longest name has more letters than that, as many times as much."""
FEW_LISTED = 1_000
"""Of them, as many as the compute thread lists itself: others would wait for more."""


def listed(parts: Sequence[Part], query: Query, predictor: Predictor) -> int:
    """Return how many probabilities and numbers of maps are in the answer, those with long names several times."""
    classes = min(query.top or 1, len(predictor.manifest.classes))
    if classes > 1:
        classes *= 1 + max(map(len, predictor.manifest.classes)) // LONG_NAME
    return len(parts) * (classes + (predictor.map_size if query.explain else 0))


def entry(index: int, part: Part, answer: Prediction | ImageError, top: int | None) -> dict[str, Any]:
    """Return one picture's entry; `top` is None unless the client asked for more than the best class."""
    if isinstance(answer, ImageError):
        return {"error": BadPart.of(index, part.filename, answer).to_json()}
    found = choice_json(answer.best)
    if answer.unknown:
        found["unknown"] = True
    if top is not None:
        found["top"] = [choice_json(choice) for choice in answer.top]
    if answer.explanation is not None:
        rows = answer.explanation
        found["explanation"] = {"height": len(rows), "width": len(rows[0]), "values": rows}
    return found


def choice_json(choice: Choice) -> dict[str, Any]:
    """Return a class and its probability."""
    return {
        "category": choice.category,
        "category_index": choice.category_index,
        "confidence": round(choice.confidence, 6),
    }


WsgiResponse = tuple[str, list[tuple[str, str]], bytes]
"""Status line, headers and body."""


JSON_TYPE = "Content-Type", "application/json"
NOT_YET = "202 Accepted"
"""Nobody gets this: the request waits for a turn of its pictures, see `Decoding.waits`, or to be read: `unread`."""


class PredictTask:
    """One request: `begin`, its `computation`, then `finish`; or `run`, which is all that is left of it in one thread.

    None of them raises: whatever goes wrong becomes the response.
    """

    __slots__ = ("_context", "_decoding", "_state", "environ", "is_begun", "response")

    def __init__(self, state: AppState, environ: dict[str, Any]) -> None:
        self._state = state
        self._context = context_of(environ)
        self.environ = environ
        self.is_begun = False
        """All its pictures are decoded, which were few and small, and little is to be listed of each."""
        self.response: WsgiResponse | None = None
        """Once it is there, nothing more is to be done."""

    def begin(self) -> None:
        """Read the request, and decode its pictures if they are few and small."""
        try:
            self._read()
            decoding = self._decoding
            few = listed(decoding.parts, decoding.also, decoding.predictor) <= FEW_LISTED
            self.is_begun = few and decoding.decode_few()
        except Exception as error:
            self.fail(error)

    def _read(self) -> None:
        """Read the request, unless that was done before it waited for a turn."""
        state, environ = self._state, self.environ
        authorize(environ, state)
        decoding = self._context.decoding  # looked at once: the event loop may give the request up
        if decoding is None:
            with begin_inference(environ, state) as (context, body):
                parts, fields = multipart.read_upload(environ.get("CONTENT_TYPE", ""), body, state.settings)
            query = Query.parse(environ.get("QUERY_STRING", ""), fields)
            if listed(parts, query, state.classifier.predictor) > MAX_LISTED:
                what = f"Classes (top) and numbers of maps (explain) for {len(parts)} pictures"
                message = f"{what} are over {MAX_LISTED:,}. Ask for fewer."
                raise RequestError(400, "query_invalid", message)
            end_parsing(context, state, len(parts))
            self._decoding = Decoding(state.classifier, parts, context, also=query)
        else:
            self._decoding = decoding

    def computation(self, done: Callable[[Computation], object]) -> Computation | None:
        """Return what is to be computed; None where that is nothing."""
        pictures = self._decoding.pictures
        return Computation(pictures, self._kind, self._context.deadline, done) if pictures else None

    def finish(self, computed: Computation | None) -> None:
        """Answer with what was computed."""
        try:
            if computed is not None:
                self._context.end_computation(computed.begun)
            self._answer([] if computed is None else computed.found())
        except Exception as error:
            self.fail(error)

    def run(self) -> WsgiResponse:
        """Do all that is left in this thread, which may wait, or what is left until the pictures' next turn."""
        if self.response is not None:
            return self.response
        try:
            self._read()
            if not (self._decoding.decode() and self._decoding.compute(self._decoding.also.explain)):
                return NOT_YET, [], b""
            return self._answer(self._decoding.rows)
        except NotHereError as error:
            let_go(error)
            return NOT_YET, [], b""
        except Exception as error:
            return self.fail(error)

    @property
    def _kind(self) -> BatchKey:
        return BatchKey(self._decoding.predictor, self._decoding.also.explain)

    def _answer(self, rows: Sequence[PictureOutputs]) -> WsgiResponse:
        """Answer every picture of the request, in order."""
        decoding, query = self._decoding, self._decoding.also
        if not query.partial:
            decoding.reject_bad()
        found = decoding.answers(rows, query.top or 1)
        self._context.record_answers(decoding.predictor, found)
        self._collect(found)
        pairs = zip(decoding.parts, found, strict=True)
        document = {"predictions": [entry(i, part, answer, query.top) for i, (part, answer) in enumerate(pairs)]}
        return self._close("200 OK", [("Pupila-Model", decoding.predictor.version)], to_bytes(document))

    def _collect(self, found: Sequence[Prediction | ImageError]) -> None:
        """Keep what was answered, where that is wanted; never what a page of another site made a browser send."""
        state, key = self._state, self._context.key
        if state.collector is not None and (key is not None or not state.access.is_cross_site(self.environ)):
            parts, version = self._decoding.parts, self._decoding.predictor.version
            request_id, owner = request_id_of(self.environ, state.request_log), "" if key is None else key.name
            state.collector.offer(request_id, parts, found, version, owner, self._context.line)

    def fail(self, error: Exception) -> WsgiResponse:
        """Answer with an error."""
        problem = request_error_of(error)
        status = f"{problem.status} {HTTPStatus(problem.status).phrase}"
        return self._close(status, problem.headers(), to_bytes(problem.to_json()))

    def _close(self, status: str, headers: list[tuple[str, str]], body: bytes) -> WsgiResponse:
        context_headers = closing_headers(self.environ, self._state)
        headers = [JSON_TYPE, ("Content-Length", str(len(body))), *headers, *context_headers]
        log_request(self.environ, int(status[:3]), self._state.request_log)
        self.response = status, headers, body
        return self.response


class PredictMiddleware:
    """WSGI middleware around Flask: makes each request's context, and answers POST /predict itself."""

    def __init__(self, app: WSGIApplication, state: AppState) -> None:
        self._app = app
        self.state = state

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        ensure_context(environ, self.state.settings)
        if not is_predict(environ["REQUEST_METHOD"], environ["PATH_INFO"]):
            return self._app(environ, start_response)
        status, headers, body = PredictTask(self.state, environ).run()
        start_response(status, headers)
        return [body]


def is_predict(method: str, path: str) -> bool:
    """Return whether a request is a PredictTask."""
    return path == "/predict" and method == "POST"
