"""No client without a key takes the places of others: unread answers, half-sent bodies, bodies that no route takes."""

import contextlib
import gc
import gzip
import http.client
import io
import json
import os
import socket
import struct
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from server_kit import CLASSES, Running, picture, serving, wait_until, write_model
from werkzeug.test import EnvironBuilder

from pupila.predictor import Predictor
from pupila.server import create_app
from pupila.server.addresses import TrustedProxies, network_part
from pupila.server.api.auth import Access, AccessControl, new_key
from pupila.server.api.body import pause
from pupila.server.api.errors import DeadlineError, QueueFullError, RequestError, request_error_of
from pupila.server.api.multipart import Part
from pupila.server.api.request_context import KEY as KEY_OF_CONTEXT
from pupila.server.api.request_context import RequestContext
from pupila.server.inference import BatchKey, Classifier, Computation, Decoding
from pupila.server.observability.request_log import RequestLog, Telemetry
from pupila.server.process.scoreboard import Scoreboard
from pupila.server.settings import Settings
from pupila.server.transport.admission import UNKEYED, AdmissionControl, Listener
from pupila.server.transport.connection import CONTINUE, READ_ALL, UNREAD, WRITE, Connection, ConnectionTable, Request
from pupila.server.transport.event_loop import Reactor, has_given_way
from pupila.server.transport.executor import Executor

SECRET, KEY = new_key("ann")
HALF_BODY = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 50000\r\n\r\nx"
PAGE = b"GET /page/style.css HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def pool() -> Iterator[ConnectionTable]:
    """Yield a table of connections, of which an address may hold two."""
    pool = ConnectionTable(memoryview(bytearray(64)).cast("d"), 60, 1000, share=2)
    yield pool
    for connection in list(pool.open.values()):
        pool.drop(connection)
    pool.selector.close()


def connected(server: Running, host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    sock.settimeout(9)
    sock.bind((host, 0))
    sock.connect(("127.0.0.1", server.port))
    return sock


def health_takes(server: Running) -> float:
    begun = time.monotonic()
    assert requests.get(server.url + "/healthz", timeout=20).status_code == 200
    return time.monotonic() - begun


def test_answers_that_one_client_leaves_unread_keep_nobody_out(tmp_path: Path) -> None:
    settings = json.dumps({"port": 0, "workers": 1, "max_connections": 24, "api_keys": [KEY.line()]})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server, ExitStack() as stack:
        for _ in range(24):
            stack.enter_context(connected(server)).sendall(PAGE * 300 + b"G")
        time.sleep(1)  # until none of them goes on
        assert health_takes(server) < 5


def ask_for_ever(server: Running, over: threading.Event) -> None:
    """From one address, ask 30 times at once without a key, and read the answers: connections that are closed are not
    idle, and half sent is nothing."""
    with ExitStack() as stack:
        clients = []
        while not over.is_set():
            clients += [stack.enter_context(connected(server, "127.0.0.2")) for _ in range(30 - len(clients))]
            for client in tuple(clients):
                client.settimeout(0)
                try:
                    client.send(PAGE * 300)
                except BlockingIOError:
                    pass
                except OSError:
                    clients.remove(client)
                with contextlib.suppress(OSError):
                    client.recv(2**20)


def test_requests_that_one_address_sends_without_end_keep_nobody_out(tmp_path: Path) -> None:
    settings = json.dumps({"port": 0, "workers": 1, "max_connections": 24, "api_keys": [KEY.line()]})
    over = threading.Event()
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server:
        server.headers = {"X-API-Key": SECRET}
        thread = threading.Thread(target=ask_for_ever, args=(server, over))
        thread.start()
        try:
            time.sleep(2)
            for _ in range(5):
                assert health_takes(server) < 5
                assert server.predict(picture(), timeout=9).status_code == 200
        finally:
            over.set()
            thread.join()


def test_half_sent_bodies_of_many_addresses_keep_nobody_out(tmp_path: Path) -> None:
    settings = json.dumps({"port": 0, "workers": 1, "max_connections": 24})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server, ExitStack() as stack:
        for number in range(24):
            stack.enter_context(connected(server, f"127.0.0.{2 + number % 6}")).sendall(HALF_BODY)
        assert health_takes(server) < 5  # the uploads' deadline comes after 10


def test_half_sent_bodies_of_as_many_addresses_as_there_are_places_keep_nobody_out(tmp_path: Path) -> None:
    settings = json.dumps({"port": 0, "workers": 1, "max_connections": 24})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server, ExitStack() as stack:
        for number in range(24):
            stack.enter_context(connected(server, f"127.0.0.{2 + number}")).sendall(HALF_BODY)
        assert health_takes(server) < 5


def test_body_of_a_request_that_its_client_gives_up_is_let_go(tmp_path: Path) -> None:
    """While it waits for a thread: those for large requests are at pictures that take seconds."""
    slow, big = picture("red", size=(6_000, 6_000)), bytes(20 * 2**20)
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(big)
    settings = json.dumps({"port": 0, "workers": 1, "request_timeout": 8})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server, ExitStack() as stack:
        server.predict(slow)
        before = server.memory()
        form = requests.Request("POST", f"{server.url}/predict", files=[("file", slow)] * 40).prepare()
        for _ in range(4):
            assert isinstance(form.body, bytes)
            sock = stack.enter_context(connected(server))
            lines = "".join(f"{name}: {value}\r\n" for name, value in form.headers.items())
            sock.sendall(f"POST /predict HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode() + form.body)
        time.sleep(0.5)
        for _ in range(14):
            with connected(server) as sock:
                sock.sendall(head + big)
                time.sleep(0.05)  # until all of it is there
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert server.memory() - before < 300


def post(server: Running, host: str, path: str, name: str, *files: bytes) -> int:
    """Send pictures from an address, and return the answer's status."""
    form = requests.Request("POST", server.url + path, files=[(name, file) for file in files]).prepare()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, 60, (host, 0))) as connection:
        connection.request("POST", path, form.body, dict(form.headers))
        return connection.getresponse().status


def test_large_pictures_of_one_request_take_turns_with_those_of_others(tmp_path: Path) -> None:
    """Whatever the protocol, and though one address has more requests than there are threads of any kind."""
    settings = json.dumps({"port": 0, "workers": 1, "request_timeout": 30, "graceful_timeout": 1})
    large, model = picture("red", size=(4_000, 4_000)), write_model(tmp_path / "colours.onnx")
    with ThreadPoolExecutor(10) as pool, serving(model, tmp_path / "log", settings) as server:
        ways = [("/predictions/colours", "data"), ("/predict", "file")]
        many = [pool.submit(post, server, "127.0.0.1", *ways[n % 2], *[large] * 128) for n in range(10)]
        time.sleep(1)
        for path, name in ways:
            assert post(server, "127.0.0.2", path, name, picture()) == 200
            assert post(server, "127.0.0.2", path, name, large) == 200
        assert {one.result() for one in many if one.done()} <= {503}


def test_pictures_of_one_request_are_computed_in_turns(tmp_path: Path) -> None:
    """Six requests of 128 small ones had kept all threads for a second, and others' of some pictures waited for one."""
    predictor, now = Predictor.load(write_model(tmp_path / "colours.onnx")), time.monotonic()
    context = RequestContext("predict", now + 60, started=now)
    parts = [Part("", picture(colour)) for colour in CLASSES * 10]
    decoding, turns = Decoding(Classifier(predictor, Settings()), parts, context), [0]
    while not decoding.decode():
        pass
    while not decoding.compute():
        turns.append(len(decoding.rows))
        assert decoding.waits and decoding.decode()
    assert turns == [0, 16, 32]
    assert [found.category for found in decoding.answers(decoding.rows, 1)] == [*CLASSES] * 10


@pytest.mark.parametrize(("path", "name"), [("/predict", "file"), ("/predictions/colours", "data")])
def test_request_of_several_turns_is_answered_in_order(keyed: Running, path: str, name: str) -> None:
    files = [(name, picture(colour)) for colour in CLASSES * 10]
    found = requests.post(keyed.url + path, files=files, headers={"X-API-Key": SECRET}, timeout=20).json()
    named = (
        [one["category"] for one in found["predictions"]]
        if isinstance(found, dict)
        else [next(iter(one)) for one in found]
    )
    assert named == [*CLASSES] * 10


@pytest.mark.parametrize(("allowed", "kept"), [([], 16), (["127.0.0.1"], 40), (["*"], 16)])
def test_one_address_has_its_share_of_half_sent_bodies(tmp_path: Path, allowed: list[str], kept: int) -> None:
    """Of 64 connections an address may hold 16, though there is room; who is named as a proxy may hold all."""
    settings = json.dumps({"port": 0, "workers": 1, "max_connections": 64, "forwarded_allow": allowed})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server, ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connected(server)).sendall(HALF_BODY)
        time.sleep(2)
        wait_until(lambda: f"pupila_connections {kept + 1:.1f}" in server.get("/metrics").text, 4)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a server with keys."""
    folder = tmp_path_factory.mktemp("server")
    settings = json.dumps({"port": 0, "workers": 1, "api_keys": [KEY.line()]})
    with serving(write_model(folder / "colours.onnx"), folder / "log", settings) as running:
        yield running


@pytest.mark.parametrize("framing", ["Content-Length: 60000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("POST /healthz", 405),
        ("GET /healthz", 200),
        ("GET /page/style.css", 200),
        ("OPTIONS /review", 200),
        ("POST /page/nothing", 405),
        ("POST /nowhere", 404),
        ("GET /predict", 405),
        ("GET /model", 200),
    ],
)
def test_body_that_no_route_takes_is_not_waited_for(keyed: Running, line: str, status: int, framing: str) -> None:
    with connected(keyed) as sock:
        sock.sendall(f"{line} HTTP/1.1\r\nHost: a\r\nX-API-Key: {SECRET}\r\n{framing}\r\n\r\n1".encode())
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 %d" % status) and b"\r\nConnection: close\r\n" in answer


def test_body_that_no_route_takes_may_still_be_sent(keyed: Running) -> None:
    """So that a client sees the answer and no broken pipe."""
    for _ in range(20):
        assert requests.post(keyed.url + "/healthz", data=bytes(60_000), timeout=9).status_code == 405


def added(pool: ConnectionTable, stack: ExitStack, peer: str) -> Connection:
    ours, _ = map(stack.enter_context, socket.socketpair())
    pool.add(ours, peer)
    return pool.open[ours.fileno()]


def test_who_takes_nothing_of_an_answer_makes_room_and_who_takes_it_slowly_does_not(pool: ConnectionTable) -> None:
    with ExitStack() as stack:
        long_ago = time.monotonic() - UNREAD - 1
        slow, silent = (added(pool, stack, f"10.0.0.{number}") for number in range(2))
        for connection in (slow, silent):
            connection.out, connection.since, connection.taken = b"x", long_ago, long_ago
            connection.buffer += b"G"
        slow.taken = time.monotonic()
        assert pool.evict() and list(pool.open.values()) == [slow]
        assert not pool.evict()
        slow.since -= READ_ALL  # as one of many addresses that each hold few places
        assert pool.evict() and not pool.open


class Looking(ConnectionTable):
    """Counts how often it goes through all connections."""

    looks = 0

    def held(self) -> dict[str, list[Connection]]:
        self.looks += 1
        return super().held()


@pytest.fixture
def looking() -> Iterator[Looking]:
    """Yield a table of connections that counts, of which an address may hold sixteen."""
    pool = Looking(memoryview(bytearray(64)).cast("d"), 60, 1000, share=16)
    yield pool
    for connection in list(pool.open.values()):
        pool.drop(connection)
    pool.selector.close()


def half_sent(pool: ConnectionTable, stack: ExitStack, addresses: int, count: int) -> list[Connection]:
    """Add connections with half-sent bodies in turn from so many addresses, the oldest first."""
    found = [added(pool, stack, f"10.0.0.{number % addresses}") for number in range(count)]
    for number, connection in enumerate(found):
        connection.started = 1.0 + number / 1000
        connection.buffer += HALF_BODY
        connection.head_arrived()
    return found


@pytest.mark.parametrize("addresses", [200, 50, 5])
def test_making_room_for_many_goes_through_all_connections_a_few_times(looking: Looking, addresses: int) -> None:
    with ExitStack() as stack:
        connections = half_sent(looking, stack, addresses, 200)
        for _ in range(100):
            assert looking.evict()
        assert looking.looks <= 20
        assert list(looking.open.values()) == connections[100:]  # the oldest have gone, of each address as many


def test_who_goes_on_after_a_look_is_not_closed_for_others(looking: Looking) -> None:
    with ExitStack() as stack:
        connections = half_sent(looking, stack, 40, 80)
        assert looking.evict()
        connections[1].finish(time.monotonic(), 60)
        assert looking.evict()
        assert list(looking.open.values()) == [connections[1], *connections[3:]]


def test_addresses_of_one_network_of_ipv6_share_their_places(pool: ConnectionTable) -> None:
    with ExitStack() as stack:
        for number in range(5):
            added(pool, stack, f"2001:db8:0:1::{number:x}").started = 1.0 + number
        others = [added(pool, stack, f"2001:db8:0:{number:x}::1") for number in (2, 3)]
        for connection in others:
            connection.started = 1.0
        pool.limit_shares(time.monotonic())
        assert sorted(connection.started for connection in pool.open.values()) == [1.0, 1.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix:", "unix:"),
    ],
)
def test_part_of_an_address_that_a_client_cannot_choose(address: str, part: str) -> None:
    assert network_part(address) == part


def test_refused_upload_keeps_nothing_of_its_body(pool: ConnectionTable) -> None:
    with ExitStack() as stack:
        connection, admission = added(pool, stack, "10.0.0.1"), admission_of(pool, Settings())
        connection.max_body = 200_000
        connection.begin(time.monotonic(), 10)
        connection.buffer += b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.head_arrived()
        connection.buffer += b"186A0\r\n" + bytes(100_000)
        assert connection.take(time.monotonic()) is None and connection.received == 100_000
        admission.refuse(connection, RequestError(400, "request_malformed", "no chunk"))
        assert connection.received == 0


def uploading(admission: AdmissionControl, stack: ExitStack, peer: str, sent: int) -> Connection:
    """Add a connection that has sent so much of a body of 1,000,000 bytes."""
    connection = added(admission.pool, stack, peer)
    connection.begin(time.monotonic(), 10)
    connection.buffer += b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    head = connection.head_arrived()
    if head is not None and admission.begin(connection, head):
        connection.buffer += bytes(sent)
        admission.reserve(connection)
    return connection


@pytest.mark.parametrize("path", ["/v2/models/colours/infer", "/predictions/colours", "/predict"])
def test_compressed_bodies_are_read_by_two_threads_in_any_protocol(pool: ConnectionTable, path: str) -> None:
    with ExitStack() as stack:
        executor, connection = admission_of(pool, Settings()).executor, added(pool, stack, "10.0.0.1")
        connection.buffer += f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\n\r\n".encode()
        connection.head_arrived()
        request = connection.take(time.monotonic())
        assert request is not None and executor.queue_of(request) is executor.large
        assert request.context.line == connection.queue_line == "10.0.0.1"


def test_lists_of_what_is_kept_take_no_thread_of_feedback(pool: ConnectionTable) -> None:
    """One of 200,000 pictures takes seconds, and two of a key had kept all feedback waiting."""
    with ExitStack() as stack:
        executor, queues = admission_of(pool, Settings()).executor, []
        for path in ("/review/pictures", "/review/pictures/7", "/feedback"):
            connection = added(pool, stack, "10.0.0.1")
            connection.buffer += f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            connection.head_arrived()
            request = connection.take(time.monotonic())
            assert request is not None
            queues.append(executor.queue_of(request))
        assert queues[1] is queues[2] is not queues[0]


class Body(io.BytesIO):
    """Of which it can be seen whether anything holds it still."""


@pytest.mark.parametrize("refusal", [None, QueueFullError(1)])
@pytest.mark.parametrize(
    "path",
    ["/predict", "/v2/models/colours/infer", "/v2/models/a/b/infer", "/predictions/colours", "/predictions/a/b/c"],
)
def test_refused_request_lets_go_of_its_body_at_once(tmp_path: Path, path: str, refusal: RequestError | None) -> None:
    """And not when cycles are collected, which may be never: an error holds all frames that it came through."""
    app = create_app(Predictor.load(write_model(tmp_path / "colours.onnx")))
    context, statuses = RequestContext("predict", time.monotonic() + 60, access=Access(refusal=refusal)), []
    made = EnvironBuilder(path, method="POST", input_stream=Body(b"no picture"), content_length=10)
    environ = {**made.get_environ(), KEY_OF_CONTEXT: context}
    body = weakref.ref(environ["wsgi.input"])
    gc.collect()
    gc.disable()
    try:
        b"".join(app(environ, lambda status, _: statuses.append(status[:3])))
        del environ, made, context
        assert body() is None
    finally:
        gc.enable()
    assert statuses[0] in (("503",) if refusal else ("400", "404", "415"))


def test_computation_that_has_failed_is_not_held_by_its_own_error() -> None:
    error = DeadlineError()
    computation = Computation([], BatchKey(None, False), 0.0, print, error=error)
    try:
        computation.found()
    except DeadlineError as raised:
        assert request_error_of(raised) is error
    assert error.__traceback__ is None


def test_nothing_is_read_of_a_body_as_long_as_its_client_takes_no_answer(pool: ConnectionTable) -> None:
    """Else it would be kept beside what is reserved."""
    with ExitStack() as stack:
        connection, admission = added(pool, stack, "10.0.0.1"), admission_of(pool, Settings())
        with contextlib.suppress(BlockingIOError):
            while True:
                connection.sock.send(bytes(65536))
        connection.begin(time.monotonic(), 10)
        connection.buffer += b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        head = connection.head_arrived()
        assert head is not None and not admission.begin(connection, head)
        assert connection in pool and connection.out == CONTINUE and connection.watched == WRITE


def test_who_has_most_memory_for_bodies_gives_way_to_who_has_less(pool: ConnectionTable) -> None:
    with ExitStack() as stack:
        pool.max_buffered = 4_000_000
        admission = admission_of(pool, Settings())
        many = [uploading(admission, stack, "10.0.0.1", 800_000) for _ in range(4)]
        assert uploading(admission, stack, "10.0.0.1", 100_000).closing  # an address does not give way to itself
        other = uploading(admission, stack, "10.0.0.2", 900_000)
        assert not other.closing and [one.closing for one in many].count(True) == 1
        assert sum(one.body_bytes for one in pool.open.values()) == 4_000_000
        request = next(one for one in many if not one.closing)
        request.buffer += bytes(200_000)
        admission.dispatch(
            request, waiting := request.take(time.monotonic())
        )  # it waits for a thread, and still gives way
        third = [uploading(admission, stack, f"10.0.0.{number}", 900_000) for number in (3, 4)]
        assert waiting.claim.locked() and request.closing and not any(one.closing for one in (other, *third))


@pytest.mark.parametrize("arrived", [False, True])
def test_who_has_most_gives_way_to_what_a_thread_works_on(pool: ConnectionTable, arrived: bool) -> None:
    """Of what waits for a thread, and of what is arriving: 132 MiB sent and no more had kept others out for 10 s."""
    with ExitStack() as stack:
        pool.max_buffered = 4_000_000
        admission, reactor = admission_of(pool, Settings()), Reactor(pool, 60, 10)
        reactor.start(admission)
        for sock in (reactor.wake_reader, reactor.wake_writer):
            stack.enter_context(sock)
        many = [uploading(admission, stack, "10.0.0.1", 800_000) for _ in range(4)]
        for one in many if arrived else []:
            one.buffer += bytes(200_000)
            admission.dispatch(one, one.take(time.monotonic()))
        assert not reactor.reserve(added(pool, stack, "10.0.0.1"), 900_000)  # an address does not give way to itself
        other = added(pool, stack, "10.0.0.2")
        assert reactor.reserve(other, 900_000) and other.body_bytes == 900_000
        reactor.take_back()
        assert [one.closing for one in many].count(True) == 1 and not other.closing


def test_upload_that_ended_or_is_another_by_now_does_not_give_way(pool: ConnectionTable) -> None:
    """The thread that chose it does not hold it: the loop looks again."""
    with ExitStack() as stack:
        admission = admission_of(pool, Settings())
        connection = uploading(admission, stack, "10.0.0.1", 800_000)
        head = connection.head
        assert has_given_way(connection, head)
        assert not has_given_way(connection, None)
        connection.buffer += bytes(200_000)
        admission.dispatch(connection, request := connection.take(time.monotonic()))
        request.claim.acquire()  # a thread has it
        assert not has_given_way(connection, head)
        request.claim.release()
        assert has_given_way(connection, head) and request.claim.locked()


@pytest.mark.parametrize(("most", "status"), [(10_000_000, 503), (50_000_000, 415)])
def test_body_that_inflates_counts_with_what_is_kept_of_it_while_it_waits(
    tmp_path: Path, most: int, status: int
) -> None:
    """0.4 MB hold 20 MB beside a picture that has to wait for its turn."""
    settings = json.dumps({"port": 0, "workers": 1, "max_buffered_bytes": most})
    files = [("file", file) for file in [picture(size=(3_000, 2_000)), *[bytes(5_000_000)] * 4, os.urandom(300_000)]]
    form = requests.Request("POST", "http://a", files=files).prepare()
    headers = {"Content-Type": form.headers["Content-Type"], "Content-Encoding": "gzip"}
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server:
        url = server.url + "/predict"
        assert requests.post(url, gzip.compress(form.body), headers=headers, timeout=60).status_code == status


@pytest.mark.parametrize(("most", "status"), [(200_000, 503), (2_000_000, 200)])
def test_pixels_of_small_files_count_while_they_wait_for_a_large_picture(
    tmp_path: Path, most: int, status: int
) -> None:
    """100 files of a hundred bytes are 3 KiB each once they are decoded."""
    settings = json.dumps({"port": 0, "workers": 1, "max_buffered_bytes": most})
    files = [("file", file) for file in [picture(size=(3_000, 2_000)), *[picture()] * 99]]
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server:
        assert requests.post(server.url + "/predict", files=files, timeout=60).status_code == status


def test_who_asks_too_often_without_a_key_waits_whatever_connections_a_proxy_has(pool: ConnectionTable) -> None:
    """Behind a named proxy each connection had had a hundred answers, or each request."""
    pool.proxies = TrustedProxies(["10.0.0.9"])
    with ExitStack() as stack:
        admission = admission_of(pool, Settings())
        admission.access = AccessControl([KEY])

        def asks(address: str, peer: str = "10.0.0.9") -> bool:
            connection = added(pool, stack, peer)
            connection.begin(time.monotonic(), 10)
            connection.buffer += f"GET /docs HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {address}\r\n\r\n".encode()
            return goes_on(connection)

        def goes_on(connection: Connection) -> bool:
            head = connection.head_arrived()
            return head is not None and admission.begin(connection, head)

        assert [asks("1.2.3.4") for _ in range(UNKEYED + 5)].count(False) == 5
        assert asks("1.2.3.5") and not asks("1.2.3.4")
        waiting = admission.begin_tick()
        assert [goes_on(connection) for connection in waiting] == [True] * 6
        assert [asks("1.2.3.4", "10.0.0.1") for _ in range(UNKEYED + 5)].count(False) == 5


def test_tensor_counts_while_it_waits_as_pictures_do(tmp_path: Path) -> None:
    """With its scores, of which a model of 20,000 classes has 80 KB a picture."""
    predictor = Predictor.load(write_model(tmp_path / "colours.onnx"))
    decoding = Decoding(Classifier(predictor, Settings()), [], RequestContext("infer", time.monotonic() + 60))
    decoding.found = [np.zeros((32, 32, 3), np.uint8)] * 20
    assert decoding.size == 20 * (32 * 32 * 3 + 4 * 5)


def test_requests_in_work_leave_places_to_others(pool: ConnectionTable) -> None:
    """Seven of eight, whichever queues they wait in; the next is refused."""
    with ExitStack() as stack:
        admission = admission_of(pool, Settings(max_connections=8))
        for number in range(8):
            connection = added(pool, stack, "10.0.0.1")
            connection.begin(time.monotonic(), 10)
            connection.buffer += b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"docs", b"v2/models/a")[number % 2]
            connection.head_arrived()
            request = connection.take(time.monotonic())
            assert request is not None
            admission.dispatch(connection, request)
        assert admission.executor.in_work == 7


def test_request_in_work_gives_way_to_another_address_where_places_are_scarce(pool: ConnectionTable) -> None:
    with ExitStack() as stack:
        admission = admission_of(pool, Settings(max_connections=8))
        for address in ["10.0.0.1"] * 7 + ["10.0.0.2"]:
            connection = added(pool, stack, address)
            connection.begin(time.monotonic(), 10)
            connection.buffer += b"GET /docs HTTP/1.1\r\nHost: a\r\n\r\n"
            connection.head_arrived()
            request = connection.take(time.monotonic())
            assert request is not None
            admission.dispatch(connection, request)
        answered = [connection.peer for connection in pool.open.values() if connection.out]
        assert answered == ["10.0.0.1"] and admission.executor.in_work == 7


def admission_of(pool: ConnectionTable, settings: Settings) -> AdmissionControl:
    """Return a worker's, whose threads do not run."""
    log = RequestLog(Telemetry(), None)
    executor = executor_of(pool, lambda *_: [], settings)
    listener = Listener(None, pool, Scoreboard(1), 10)  # whose socket nothing listens on
    return AdmissionControl(pool, listener, executor, log, settings, AccessControl())


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_early_refusal_of_head_has_no_body_that_would_be_taken_for_the_next_answer(
    pool: ConnectionTable, method: str
) -> None:
    admission = admission_of(pool, Settings())
    ours, client = socket.socketpair()
    with ours, client:
        pool.add(ours, "127.0.0.1")
        connection = pool.open[ours.fileno()]
        connection.begin(time.monotonic(), 10)
        connection.buffer += f"{method} /docs HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        connection.head_arrived()
        connection.request = connection.take(time.monotonic())
        admission.refuse(connection, QueueFullError(1.0))
        head, _, body = client.recv(65536).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        length = int(head.partition(b"Content-Length: ")[2].split()[0])
        assert length > 0 and len(body) == (0 if method == "HEAD" else length)


def test_files_are_counted_before_they_are_decoded(keyed: Running) -> None:
    entry = {"name": "files", "datatype": "BYTES", "shape": [1], "data": ["no base64!"] * 2}
    url = f"{keyed.url}/v2/models/colours/infer"
    answer = requests.post(url, json={"inputs": [entry]}, headers={"X-API-Key": SECRET}, timeout=20)
    assert answer.status_code == 400 and "1 files were announced by the shape" in answer.json()["error"]


def test_document_is_not_taken_up_before_the_pause_after_the_last_one_is_over(pool: ConnectionTable) -> None:
    """It was: it waited for the pause and was read long past its deadline, as by a thread that hangs."""

    def app(*_: object) -> list[bytes]:
        pause[0] = time.monotonic() + 0.5  # as reading a document does
        return []

    executor = executor_of(pool, app)
    with ExitStack() as stack:
        jobs = [asked(pool, stack) for _ in range(2)]
        executor.start()
        for connection, request in jobs:
            executor.submit(executor.documents, connection, request)
        (_, first), (_, second) = jobs
        wait_until(lambda: first.taken)
        time.sleep(0.2)
        assert not second.taken and second.give_up()  # as the event loop does at its deadline
        time.sleep(0.5)
        assert not second.taken and not executor.in_work


@pytest.mark.parametrize(("name", "seconds"), [("light", 2), ("documents", 30), ("store", 1e6)])
def test_thread_hangs_from_so_long_after_a_deadline_on(pool: ConnectionTable, name: str, seconds: float) -> None:
    """A document is read to its end once it is begun; what hangs at a disk would hang in the next worker, too."""
    begun, go_on = threading.Event(), threading.Event()
    executor = executor_of(pool, lambda *_: begun.set() or [b""][: go_on.wait(10)])
    with ExitStack() as stack:
        connection, request = asked(pool, stack)
        executor.start()
        executor.submit(getattr(executor, name), connection, request)
        assert begun.wait(10)
        late = request.context.deadline + seconds
        assert not executor.is_stuck(late - 1)
        assert executor.is_stuck(late + 1) == (name != "store")
        go_on.set()


def executor_of(pool: ConnectionTable, app: Any, settings: Settings | None = None) -> Executor:
    log = RequestLog(Telemetry(), None)
    return Executor(app, ("a", "80"), settings or Settings(), log, lambda _: None, lambda: None, pool.reserve)


def asked(pool: ConnectionTable, stack: ExitStack) -> tuple[Connection, Request]:
    """Return a request that has arrived."""
    connection = added(pool, stack, "10.0.0.1")
    connection.begin(time.monotonic(), 10)
    connection.buffer += b"GET /docs HTTP/1.1\r\nHost: a\r\n\r\n"
    connection.head_arrived()
    request = connection.take(time.monotonic())
    assert request is not None
    return connection, request
