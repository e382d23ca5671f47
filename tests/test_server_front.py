"""The short way of /predict answers what Flask would: status, headers and body."""

import io
import re
import time
from typing import Any

import pytest
from flask import Flask
from server_kit import picture, write_model

from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api.auth import new_key
from pupila.server.api.fast_path import Front, Visit
from pupila.server.inference.classifier import FEW
from pupila.server.observability.telemetry import BATCHES, LAYOUT, Telemetry

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


def telemetry_of(app: Flask) -> Telemetry:
    telemetry: Telemetry = app.extensions["pupila"].ledger.telemetry
    return telemetry


def call(app: Any, body: bytes, content_type: str, query: str, more: dict[str, Any]) -> Response:
    """Call a WSGI application, as any server would."""
    environ = environ_of(body, content_type, query, more)
    started: list[Any] = []
    found = b"".join(app(environ, lambda status, headers, _=None: started.extend((status, headers))))
    headers = [(name, re.sub(r"[\d.]+$|dur=[\d.]+|-[0-9a-f]+$", "", value)) for name, value in started[1]]
    return started[0], headers, re.sub(rb"in [\d.]+ s", b"", found)


@pytest.mark.parametrize(
    ("body", "content_type", "query", "more"),
    [
        (picture(), "image/png", "", KEYED),
        (picture(), "image/png", "top=2&explain=1", {**KEYED, "HTTP_X_REQUEST_ID": "mine"}),
        (FORM % (picture(), picture("blue")), MULTIPART, "", KEYED),
        (FORM % (picture(), b"bad"), MULTIPART, "on_error=partial", KEYED),
        (FORM % (picture(), b"bad"), MULTIPART, "", KEYED),
        (FORM % (b"", b"bad"), MULTIPART, "", KEYED),
        (b"", "image/png", "", KEYED),
        (picture(), "text/plain", "", KEYED),
        (picture(), "image/png", "tpo=2", KEYED),
        (picture(), "image/png", "", {}),
        (picture(), "image/png", "", {**KEYED, "pupila.deadline": time.monotonic() - 1}),
        (picture(), "image/png", "", {**KEYED, "CONTENT_LENGTH": str(2**30)}),
        (picture(), "image/png", "", {**KEYED, "wsgi.input": None}),
    ],
    ids=[
        "picture",
        "top",
        "form",
        "partial",
        "bad",
        "two bad",
        "none",
        "type",
        "typo",
        "no key",
        "late",
        "large",
        "fault",
    ],
)
def test_answer_is_the_one_that_flask_gives(
    app: Flask, body: bytes, content_type: str, query: str, more: dict[str, Any]
) -> None:
    front = app.wsgi_app
    assert isinstance(front, Front)
    ours, flasks = (call(way, body, content_type, query, more) for way in (front, front.behind))
    assert ours == flasks


def test_requests_are_written_down_the_same_way(app: Flask) -> None:
    front, telemetry = app.wsgi_app, telemetry_of(app)
    assert isinstance(front, Front)
    for way in (front, front.behind):
        before = telemetry.count("predict", 200), telemetry.count("predict", 401)
        call(way, picture(), "image/png", "", KEYED)
        call(way, picture(), "image/png", "", {})
        assert (telemetry.count("predict", 200), telemetry.count("predict", 401)) == (before[0] + 1, before[1] + 1)


def test_other_methods_and_paths_are_flasks(app: Flask) -> None:
    client = app.test_client()
    assert client.get("/predict", headers={"X-API-Key": SECRET}).status_code == 405
    assert client.post("/predict/", headers={"X-API-Key": SECRET}).status_code == 404


def test_requests_that_are_answered_together_are_one_batch_and_do_not_spoil_each_other(app: Flask) -> None:
    front = app.wsgi_app
    assert isinstance(front, Front)
    bodies = [picture("red"), b"bad", picture("blue"), picture("green")]
    visits = [Visit(front, environ_of(body, "image/png", "", KEYED)) for body in bodies]
    before = telemetry_of(app).histogram(LAYOUT.batches, BATCHES)
    front.proceed(visits)
    after = telemetry_of(app).histogram(LAYOUT.batches, BATCHES)
    assert after[1] - before[1] == 3 and after[0][-1][1] - before[0][-1][1] == 1  # three pictures in one batch
    answers = [visit.finish() for visit in visits]
    assert [status[:3] for status, _, _ in answers] == ["200", "415", "200", "200"]
    assert [b"red" in answers[0][2], b"blue" in answers[2][2], b"green" in answers[3][2]] == [True] * 3


def test_big_picture_goes_on_in_a_thread_that_may_wait(app: Flask) -> None:
    front = app.wsgi_app
    assert isinstance(front, Front)
    visit = Visit(front, environ_of(picture("blue", size=(1000, 600)), "image/png", "", KEYED))
    assert visit.job is None and visit.response is None
    assert b'"blue"' in visit.finish()[2]


def test_many_pictures_go_on_in_a_thread_that_may_wait(app: Flask) -> None:
    front = app.wsgi_app
    assert isinstance(front, Front)
    part = b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\n%s\r\n' % picture("red")
    visit = Visit(front, environ_of(part * (FEW + 1) + b"--XX--\r\n", MULTIPART, "", KEYED))
    assert visit.job is None and visit.response is None
    assert visit.finish()[2].count(b'"red"') == FEW + 1
