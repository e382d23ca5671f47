"""Serving on a cluster, without Ray: what a replica answers, and which requests are given again."""

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from server_kit import picture, write_model
from starlette.requests import Request
from starlette.types import Receive, Send

from pupila.errors import SettingsError
from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api.auth import new_key

pytest.importorskip("ray")
SECRET, KEY = new_key("ann")
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
    from pupila.cluster.serve import Replica

    predictor = Predictor.load(models[0])
    app = create_app(predictor, Settings())
    replica = Replica(str(models[0]), predictor.version, Settings())
    response = asyncio.run(replica(asked([picture("blue")], "top=2", [(b"content-type", b"image/png")])))
    assert (response.status_code, response.headers["Pupila-Model"]) == (200, predictor.version)
    same = app.test_client().post("/predict?top=2", data=picture("blue"), content_type="image/png")
    assert response.body == same.data
    form = b'--a\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + picture("red") + b"\r\n--a--"
    response = asyncio.run(replica(asked([form], "", [(b"content-type", b"multipart/form-data; boundary=a")])))
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "query", "status"), [("/health\nz", b"", 404), ("/health\tz", b"", 404), ("/healthz", b"a=\xff", 200)]
)
def test_address_is_the_one_that_came(models: tuple[Path, Path], path: str, query: bytes, status: int) -> None:
    """An URL that is taken apart loses its line ends and tabs, and its query had to be in UTF-8."""
    from pupila.cluster.serve import Replica

    replica = Replica(str(models[0]), Predictor.load(models[0]).version, Settings())
    scope = {**asked([b""]).scope, "method": "GET", "path": path, "query_string": query}
    assert asyncio.run(replica(Request(scope))).status_code == status


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"1200")]])
def test_body_over_the_limit_is_not_kept_and_is_refused_as_everywhere(
    models: tuple[Path, Path], headers: Sequence[tuple[bytes, bytes]]
) -> None:
    from pupila.cluster.serve import Replica

    pieces = [b"x" * 600] * 3
    replica = Replica(str(models[0]), Predictor.load(models[0]).version, Settings(max_body_bytes=1000))
    response = asyncio.run(replica(asked(pieces, headers=headers)))
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
        return next(coming, None) or await asyncio.sleep(60)

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
        ("POST", "/feedback", TWO_PIECES, 1, [b""], [500]),
        ("GET", "/healthz", TWO_PIECES, 0, [b""], [200]),
        ("POST", "/predict", GONE, 1, [], []),
        ("POST", "/predict", [TWO_PIECES[0], *GONE], 1, [], []),
        ("POST", "/predict", TWO_PIECES[:1], 0, [], [408]),
    ],
)
def test_request_that_was_lost_is_given_again_as_it_was_once_it_is_here(
    method: str,
    path: str,
    messages: list[dict[str, object]],
    lost: int,
    bodies: list[bytes],
    statuses: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PUPILA_REQUEST_TIMEOUT", "0.5")
    assert heard_by(method, path, messages, lost) == (bodies, statuses)


def test_request_that_is_too_large_to_keep_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pupila.cluster.retries.KEPT", 3)
    assert heard_by("POST", "/predict", TWO_PIECES, 1) == ([b"picture"], [])


def test_request_is_refused_where_all_requests_together_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pupila.cluster.retries.ALL_KEPT", 100_000)
    large = [{"type": "http.request", "body": bytes(60_000), "more_body": more} for more in (True, False)]
    assert heard_by("POST", "/predict", large, 0) == ([], [503])
    assert heard_by("POST", "/predict", TWO_PIECES, 0) == ([b"picture"], [200])


def test_bytes_of_requests_that_come_at_once_are_counted_and_forgotten() -> None:
    from pupila.cluster.retries import Retries

    async def behind(*_: object) -> None:
        pass

    async def send(_: object) -> None:
        pass

    async def ask(retries: Retries, after: int) -> None:
        coming = [{"type": "http.request", "body": b"piece", "more_body": more} for more in (False, True, True)]

        async def receive() -> dict[str, object]:
            await asyncio.sleep(0)
            return coming.pop()

        for _ in range(after):
            await asyncio.sleep(0)
        await retries({"type": "http", "method": "POST", "path": "/predict"}, receive, send)

    async def ask_at_once() -> int:
        retries = Retries(behind)
        await asyncio.gather(*[ask(retries, after) for after in range(4)])
        return len(retries._kept)

    assert asyncio.run(ask_at_once()) == 0


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/predict", [], 401),
        ("POST", "/predict", [(b"x-api-key", SECRET.encode()), (b"content-type", b"text/plain")], 415),
        ("POST", "/predict", [(b"x-api-key", SECRET.encode()), (b"content-length", b"99000000")], 413),
        ("POST", "/predict", [(b"x-api-key", SECRET.encode())], 408),
        ("POST", "/feedback", [(b"x-api-key", SECRET.encode())], 404),
        ("GET", "/healthz", [], 200),
    ],
)
def test_replica_waits_for_no_body_that_is_refused_or_not_read(
    models: tuple[Path, Path], method: str, path: str, headers: Sequence[tuple[bytes, bytes]], status: int
) -> None:
    from pupila.cluster.serve import Replica

    replica = Replica(str(models[0]), Predictor.load(models[0]).version, Settings(api_keys=(KEY,), request_timeout=0.5))

    async def receive() -> dict[str, object]:
        return await asyncio.sleep(60)

    async def ask() -> int:
        request = Request({**asked([], headers=headers).scope, "method": method, "path": path}, receive)
        async with asyncio.timeout(5):
            return (await replica(request)).status_code

    assert asyncio.run(ask()) == status


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


def test_clients_do_not_say_how_long_ray_keeps_their_requests() -> None:
    from pupila.cluster.retries import Retries

    heard: list[list[tuple[bytes, bytes]]] = []

    async def behind(scope: dict[str, list[tuple[bytes, bytes]]], _: Receive, send: Send) -> None:
        heard.append(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, object]:
        return TWO_PIECES[1]

    async def send(_: dict[str, object]) -> None:
        pass

    given = [(b"X-Request-Timeout-Seconds", b"0"), (b"x-api-key", b"k"), (b"x-request-disconnect-disabled", b"?1")]
    given += [(b"X_Session_Id", b"a"), (b"serve_multiplexed_model_id", b"\xff"), (b"x-request-id", b"\xff\x1b[2J")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": given}
    asyncio.run(Retries(behind)(scope, receive, send))
    assert heard == [[(b"x-api-key", b"k")]]


def test_collecting_pictures_is_refused_on_a_cluster(models: tuple[Path, Path], tmp_path: Path) -> None:
    from pupila.cluster.serve import serve_on_cluster

    with pytest.raises(SettingsError, match="on one machine"):
        serve_on_cluster(models[0], Settings(feedback_dir=tmp_path))
    for settings in (Settings(host="unix:/run/p.sock"), Settings(forwarded_allow=("*",))):
        with pytest.raises(SettingsError, match="put a proxy in front"):
            serve_on_cluster(models[0], settings)


# One client among others


@contextlib.contextmanager
def proxy() -> Iterator[int]:
    """Run what Ray's proxies run, by the same server, in front of eight who answer in 0.1 s; yield its port."""
    import uvicorn

    from pupila.cluster.retries import Retries

    queue = asyncio.Semaphore(8)

    async def ray(_: object, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        async with queue:  # first come, first served
            await asyncio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    server = uvicorn.Server(uvicorn.Config(Retries(ray), lifespan="off", log_level="error"))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            thread.join(20)


def sending(stack: contextlib.ExitStack, port: int, data: bytes, address: str = "127.0.0.1") -> socket.socket:
    """Open a connection from an address, and send something."""
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20, source_address=(address, 0)))
    sock.sendall(data)
    return sock


def asked_from(port: int, address: str, body: bytes = b"") -> tuple[int, float]:
    """Return the status of an answer, and after how many seconds it came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20, source_address=(address, 0))
    begun = time.monotonic()
    with contextlib.closing(connection):
        connection.request("POST", "/predict", body)
        return connection.getresponse().status, time.monotonic() - begun


@pytest.mark.parametrize("waiting", [20, 256])
def test_one_client_with_many_connections_keeps_no_other_waiting(waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one waited for all that had come before, 2.5 seconds."""
    monkeypatch.setenv("PUPILA_WORKERS", "1")
    monkeypatch.setattr("pupila.cluster.places.MAX_WAITING", waiting)
    with proxy() as port, contextlib.ExitStack() as stack:
        many = [sending(stack, port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(200)]
        time.sleep(0.5)
        status, seconds = asked_from(port, "127.0.0.2")
        assert (status, seconds < 0.5) == (200, True), seconds
        answers = [sock.recv(4096) for sock in many]
        found = Counter(answer[9:12] for answer in answers)
        assert set(found) <= {b"200", b"503"} and (found[b"200"] == 200) == (waiting > 200)
        assert all(b"retry-after: 1" in answer.lower() for answer in answers if answer[9:12] == b"503")


def test_places_that_are_given_back_can_be_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients go while they wait, and while they are answered."""
    monkeypatch.setenv("PUPILA_WORKERS", "1")
    with proxy() as port:
        for _ in range(3):
            with contextlib.ExitStack() as stack:
                for _ in range(30):
                    sending(stack, port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                time.sleep(0.15)
        with contextlib.ExitStack() as stack:
            many = [sending(stack, port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(30)]
            assert [sock.recv(4096)[9:12] for sock in many] == [b"200"] * 30


def test_request_that_finds_no_place_in_time_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_WORKERS", "1")
    monkeypatch.setenv("PUPILA_REQUEST_TIMEOUT", "0.35")
    with proxy() as port, contextlib.ExitStack() as stack:
        many = [sending(stack, port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(60)]
        found = Counter(sock.recv(4096)[9:12] for sock in many)
    assert set(found) == {b"200", b"504"} and found[b"200"] >= 18


def test_bodies_of_one_address_leave_room_for_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pupila.cluster.retries.ALL_KEPT", 400_000)
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n"
    with proxy() as port, contextlib.ExitStack() as stack:
        sending(stack, port, head + bytes(190_000))
        time.sleep(0.3)
        second = sending(stack, port, head + bytes(190_000))
        assert second.recv(4096)[9:12] == b"503"
        assert asked_from(port, "127.0.0.2", bytes(190_000))[0] == 200


def test_websocket_takes_no_place_of_a_replica() -> None:
    """It went past all bounds of requests."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    with proxy() as port, contextlib.ExitStack() as stack:
        asking = sending(stack, port, b"GET / HTTP/1.1\r\nHost: a\r\n" + upgrade + b"AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        assert asking.recv(4096)[9:12] == b"403"
