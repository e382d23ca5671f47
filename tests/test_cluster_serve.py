"""Serving on a cluster, without Ray: what a replica answers, and which requests are given again."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from server_kit import picture, write_model
from starlette.requests import Request
from starlette.types import Receive, Send

from pupila.errors import SettingsError
from pupila.predictor import Predictor
from pupila.server import Settings, create_app

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore:.*`Field`:DeprecationWarning")  # Ray Serve's own, at its import


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models that differ, and say so in the header Pupila-Model."""
    folder = tmp_path_factory.mktemp("models")
    return write_model(folder / "first.onnx"), write_model(folder / "second.onnx", white=0.5)


def asked(pieces: list[bytes], query: str = "", headers: Sequence[tuple[bytes, bytes]] = ()) -> Request:
    """Return a request for /predict as Ray Serve gives it to a replica."""
    coming = iter(pieces)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": next(coming), "more_body": len(pieces) > 1}

    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": query.encode(), "headers": headers}
    return Request({**scope, "server": ("a", 80), "client": ("127.0.0.1", 1)}, receive)


def test_replica_answers_as_the_application_does(models: tuple[Path, Path]) -> None:
    from pupila.cluster.serve import answer, environ_of

    predictor = Predictor.load(models[0])
    app = create_app(predictor, Settings())
    environ = asyncio.run(environ_of(asked([picture("blue")], "top=2", [(b"content-type", b"image/png")]), 10_000))
    response = answer(app, environ)
    assert (response.status_code, response.headers["Pupila-Model"]) == (200, predictor.version)
    same = app.test_client().post("/predict?top=2", data=picture("blue"), content_type="image/png")
    assert response.body == same.data


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"1200")]])
def test_body_over_the_limit_is_not_kept_and_is_refused_as_everywhere(
    models: tuple[Path, Path], headers: Sequence[tuple[bytes, bytes]]
) -> None:
    from pupila.cluster.serve import answer, environ_of

    request = asked([b"x" * 600, b"x" * 600], headers=[*headers, (b"a", b"b")])
    environ = asyncio.run(environ_of(request, 1000))
    assert (environ["wsgi.input"].read(), environ["CONTENT_LENGTH"], environ["HTTP_A"]) == (b"", "1200", "b")
    response = answer(create_app(Predictor.load(models[0]), Settings(max_body_bytes=1000)), environ)
    assert (response.status_code, b"body_too_large" in response.body) == (413, True)


@pytest.mark.parametrize(
    ("method", "path", "repeatable"),
    [("POST", "/predict", True), ("POST", "/v2/models/a/infer", True), ("GET", "/model", True), ("POST", "/x", False)],
)
def test_only_what_changes_nothing_is_asked_twice(method: str, path: str, repeatable: bool) -> None:
    from pupila.cluster import retries

    assert retries.repeatable(method, path) is repeatable


def heard_by(method: str, path: str, messages: list[dict[str, object]], lost: int) -> tuple[list[bytes], list[int]]:
    """Ask through Retries something that is lost so many times first; return the bodies that it heard, and statuses."""
    from pupila.cluster.retries import Retries

    bodies, statuses, coming = [], [], iter(messages)

    async def behind(_: object, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        bodies.append(body + message.get("body", b""))
        if len(bodies) > lost:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"answer"})

    async def receive() -> dict[str, object]:
        return next(coming)

    async def send(message: dict[str, object]) -> None:
        statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

    asyncio.run(Retries(behind)({"type": "http", "method": method, "path": path}, receive, send))
    return bodies, statuses


TWO_PIECES = [
    {"type": "http.request", "body": b"pic", "more_body": True},
    {"type": "http.request", "body": b"ture", "more_body": False},
]
GONE = [{"type": "http.disconnect"}]


@pytest.mark.parametrize(
    ("method", "path", "messages", "lost", "bodies", "statuses"),
    [
        ("POST", "/predict", TWO_PIECES, 0, [b"picture"], [200]),
        ("POST", "/predict", TWO_PIECES, 2, [b"picture"] * 3, [200]),
        ("POST", "/predict", TWO_PIECES, 9, [b"picture"] * 4, [500]),
        ("POST", "/feedback", TWO_PIECES, 1, [b"picture"], [500]),
        ("POST", "/predict", GONE, 1, [b""], []),
    ],
)
def test_request_that_was_lost_is_given_again_as_it_was(
    method: str, path: str, messages: list[dict[str, object]], lost: int, bodies: list[bytes], statuses: list[int]
) -> None:
    assert heard_by(method, path, messages, lost) == (bodies, statuses)


def test_request_that_is_too_large_to_keep_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pupila.cluster.retries.KEPT", 6)
    assert heard_by("POST", "/predict", TWO_PIECES, 1) == ([b"picture"], [])


@pytest.mark.parametrize(("given", "wanted"), [(408, 504), (503, 503), (200, 200)])
def test_refusals_of_ray_become_those_of_the_server(given: int, wanted: int) -> None:
    from pupila.cluster.retries import Retries

    sent = []

    async def behind(_: object, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": given, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"words of Ray"})

    async def receive() -> dict[str, object]:
        return TWO_PIECES[1]

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    asyncio.run(Retries(behind)({"type": "http", "method": "POST", "path": "/predict"}, receive, send))
    assert [sent[0]["status"], b"words of Ray" in sent[1]["body"], len(sent)] == [wanted, given == 200, 2]


def test_collecting_pictures_is_refused_on_a_cluster(models: tuple[Path, Path], tmp_path: Path) -> None:
    from pupila.cluster.serve import serve_on_cluster

    with pytest.raises(SettingsError, match="on one machine"):
        serve_on_cluster(models[0], Settings(feedback_dir=tmp_path))
    for settings in (Settings(host="unix:/run/p.sock"), Settings(forwarded_allow=("*",))):
        with pytest.raises(SettingsError, match="put a proxy in front"):
            serve_on_cluster(models[0], settings)
