"""POST /predict takes one path, whatever options are on and whichever server calls: real application, real model."""

import functools
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from server_kit import picture, write_model

from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api.auth import new_key
from pupila.server.api.predict import NOT_YET, PredictMiddleware, PredictTask
from pupila.server.api.request_context import SECURITY_HEADERS, context_of, ensure_context
from pupila.server.inference import FEW, Computation
from pupila.server.observability.request_log import BATCHES, REQUESTS, Telemetry, request_index

SECRET, KEY = new_key("ours")
FORM = (
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n%s\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="b.png"\r\n\r\n%s\r\n--XX--\r\n'
)
MULTIPART = "multipart/form-data; boundary=XX"
KEYED = {"HTTP_X_API_KEY": SECRET}
Response = tuple[str, list[tuple[str, str]], bytes]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    path = write_model(tmp_path_factory.mktemp("model") / "colours.onnx")
    return create_app(Predictor.load(path), Settings(api_keys=(KEY,)))


def environ_of(body: bytes, content_type: str, query: str, more: dict[str, Any]) -> dict[str, Any]:
    """Return a WSGI environment, as any server would."""
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/predict",
        "QUERY_STRING": query,
        "CONTENT_TYPE": content_type,
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": "here",
        "SERVER_PORT": "80",
        "HTTP_HOST": "here",
        "wsgi.input": io.BytesIO(body),
        "wsgi.url_scheme": "http",
        **more,
    }


def batches(app: Flask) -> tuple[float, float]:
    """Return how many batches there were, and how many pictures in them."""
    sums = telemetry_of(app).table.sums()
    return BATCHES.buckets(sums, 0)[-1][1], BATCHES.total(sums, 0)


def telemetry_of(app: Flask) -> Telemetry:
    telemetry: Telemetry = app.extensions["pupila"].request_log.telemetry
    return telemetry


def call(app: Any, body: bytes, content_type: str, query: str, more: dict[str, Any]) -> Response:
    """Call a WSGI application, as any server would."""
    environ = environ_of(body, content_type, query, more)
    started: list[Any] = []
    found = b"".join(app(environ, lambda status, headers, _=None: started.extend((status, headers))))
    return started[0], started[1], found


@pytest.mark.parametrize(
    ("status", "code", "body", "content_type", "query", "more"),
    [
        (200, None, picture(), "image/png", "", KEYED),
        (200, None, picture(), "image/png", "top=2&explain=1", {**KEYED, "HTTP_X_REQUEST_ID": "mine"}),
        (200, None, FORM % (picture(), picture("blue")), MULTIPART, "", KEYED),
        (200, None, FORM % (picture(), b"bad"), MULTIPART, "on_error=partial", KEYED),
        (415, "image_unrecognised", FORM % (picture(), b"bad"), MULTIPART, "", KEYED),
        (400, "images_rejected", FORM % (b"", b"bad"), MULTIPART, "", KEYED),
        (400, "no_picture", b"", "image/png", "", KEYED),
        (415, "content_type_unsupported", picture(), "text/plain", "", KEYED),
        (400, "query_invalid", picture(), "image/png", "tpo=2", KEYED),
        (401, "key_missing", picture(), "image/png", "", {}),
        (413, "body_too_large", picture(), "image/png", "", {**KEYED, "CONTENT_LENGTH": str(2**30)}),
        (400, "no_picture", picture(), "image/png", "", {**KEYED, "CONTENT_LENGTH": "\u00b2"}),
        (400, "no_picture", picture(), "image/png", "", {**KEYED, "CONTENT_LENGTH": "9" * 5000}),
        (500, "internal_error", picture(), "image/png", "", {**KEYED, "wsgi.input": None}),
    ],
    ids=[
        *("picture", "top", "form", "partial", "bad", "two bad", "none", "type", "typo", "no key", "large"),
        *("no length", "no length either", "fault"),
    ],
)
def test_every_answer_has_its_status_and_the_headers_of_all(
    app: Flask, status: int, code: str | None, body: bytes, content_type: str, query: str, more: dict[str, Any]
) -> None:
    answered, headers, found = call(app, body, content_type, query, more)
    assert int(answered[:3]) == status
    assert json.loads(found).get("error", {}).get("code") == code
    names = [name for name, _ in headers]
    assert {"X-Request-Id", *dict(SECURITY_HEADERS)} <= set(names) and len(names) == len(set(names))
    assert dict(headers)["Content-Type"] == "application/json"
    assert found.endswith(b"}\n") and dict(headers)["Content-Length"] == str(len(found))


OPTIONS = {
    "none": {},
    "CORS": {"cors_origins": ("https://example.org",)},
    "keys": {"api_keys": (KEY,)},
    "collecting": {"feedback_dir": True},
    "access log": {"access_log": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_no_option_takes_a_request_off_the_path(name: str, tmp_path: Path) -> None:
    values = {key: tmp_path / key if value is True else value for key, value in OPTIONS[name].items()}
    app = create_app(Predictor.load(write_model(tmp_path / "colours.onnx")), Settings(**values))
    app.before_request(lambda: pytest.fail("Flask is not asked"))
    assert isinstance(app.wsgi_app, PredictMiddleware)
    status, headers, body = call(app, picture(), "image/png", "", {**KEYED, "HTTP_ORIGIN": "https://example.org"})
    assert (status, json.loads(body)["predictions"][0]["category"]) == ("200 OK", "red")
    assert (("Access-Control-Allow-Origin", "https://example.org") in headers) == (name == "CORS")
    if app.extensions["pupila"].collector is not None:
        app.extensions["pupila"].collector.close()


def test_each_request_is_counted_once(app: Flask) -> None:
    def counts() -> list[float]:
        sums = telemetry_of(app).table.sums()
        return [REQUESTS.total(sums, request_index("predict", status)) for status in (200, 401)]

    before = counts()
    call(app, picture(), "image/png", "", KEYED)
    call(app, picture(), "image/png", "", {})
    assert counts() == [count + 1 for count in before]


def test_other_methods_and_paths_are_flasks(app: Flask) -> None:
    client = app.test_client()
    found = client.get("/predict", headers={"X-API-Key": SECRET})
    assert found.status_code == 405 and set(found.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    assert client.post("/predict/", headers={"X-API-Key": SECRET}).status_code == 404


def task_of(app: Flask, body: bytes, content_type: str) -> PredictTask:
    middleware = app.wsgi_app
    assert isinstance(middleware, PredictMiddleware)
    environ = environ_of(body, content_type, "", KEYED)
    ensure_context(environ, Settings())
    return PredictTask(middleware.state, environ)


def test_requests_that_are_answered_together_are_one_batch_and_do_not_spoil_each_other(app: Flask) -> None:
    bodies = [picture("red"), b"\x00bad\x00", picture("blue"), picture("green")]
    tasks = [task_of(app, body, "image/png") for body in bodies]
    left = threading.Semaphore(0)

    def begin(task: PredictTask) -> Computation | None:
        task.begin()
        computation = task.computation(lambda found: (task.finish(found), left.release()))
        if computation is None:
            task.finish(None)
            left.release()
        return computation

    before = batches(app)
    app.extensions["pupila"].classifier.batcher.submit([functools.partial(begin, task) for task in tasks])
    for _ in range(4):
        assert left.acquire(timeout=10)
    after = batches(app)
    assert after[1] - before[1] == 3 and after[0] - before[0] < 3  # three pictures, fewer batches
    answers = [task.run() for task in tasks]
    assert [status[:3] for status, _, _ in answers] == ["200", "415", "200", "200"]
    assert [b"red" in answers[0][2], b"blue" in answers[2][2], b"green" in answers[3][2]] == [True] * 3


def test_moderate_picture_is_left_to_a_thread_that_decodes_it(app: Flask) -> None:
    task = task_of(app, picture("blue", size=(1000, 600)), "image/png")
    context = context_of(task.environ)
    context.started = context.arrived = time.monotonic()  # as under our own transport
    task.begin()
    assert not task.is_begun and task.response is None
    assert context.decoding is not None and context.decoding.moderate and not context.decoding.large
    assert task.run()[0] == NOT_YET and context.decoding.moderate
    context.has_time = True
    assert b'"blue"' in PredictTask(task._state, task.environ).run()[2]


def test_large_picture_is_left_to_a_thread_that_may_wait(app: Flask) -> None:
    task = task_of(app, picture("blue", size=(2000, 1500)), "image/png")
    context = context_of(task.environ)
    context.started = context.arrived = time.monotonic()  # as under our own transport
    task.begin()
    assert not task.is_begun and task.response is None
    assert task.run()[0] == NOT_YET and context.decoding is not None
    context.decoding.decode_large()
    assert b'"blue"' in PredictTask(task._state, task.environ).run()[2]


def test_long_list_is_left_to_a_thread_that_may_wait(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pupila.server.api.predict.FEW_LISTED", 1)
    for query, taken in (("top=1", True), ("", True), ("top=2", False)):
        middleware, environ = app.wsgi_app, environ_of(picture("red"), "image/png", query, KEYED)
        assert isinstance(middleware, PredictMiddleware)
        ensure_context(environ, Settings())
        task = PredictTask(middleware.state, environ)
        task.begin()
        assert task.is_begun == taken and task.response is None
        if not taken:
            assert task.run()[2].count(b'"confidence"') >= 2


def test_many_pictures_are_left_to_a_thread_that_may_wait(app: Flask) -> None:
    part = b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\n%s\r\n' % picture("red")
    task = task_of(app, part * (FEW + 1) + b"--XX--\r\n", MULTIPART)
    task.begin()
    assert not task.is_begun and task.response is None
    assert task.run()[2].count(b'"red"') == FEW + 1
