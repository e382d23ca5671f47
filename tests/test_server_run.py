"""Starting, stopping and surviving: real processes, real signals."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from server_kit import Running, launch, picture, serving, signal_worker, wait_for_url, wait_until, write_model

from pupila._workers import usable_cores
from pupila.errors import SettingsError
from pupila.server import Settings

DEADLINE = 2.0
BODY = b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + picture() + b"\r\n--XX--\r\n"
POST = (
    b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)
"""A whole request as it goes over the wire."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "colours.onnx")


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[Running]:
    with serving(
        model, tmp_path / "log", json.dumps({"port": 0, "workers": 2, "request_timeout": DEADLINE})
    ) as running:
        wait_until(lambda: running.get("/readyz").json()["workers"] == 2)
        yield running


def answers(server: Running) -> bool:
    try:
        return server.predict(picture(), timeout=0.5).status_code == 200
    except requests.RequestException:
        return False


def failure(model: Path, log: Path, settings: str) -> str:
    process = launch(model, log, settings)
    try:
        assert process.wait(20) == 1
        return log.read_text()
    finally:
        process.kill()
        process.wait()


def test_port_in_use_is_one_sentence_with_the_fix(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = failure(model, tmp_path / "log", json.dumps({"port": port}))
    assert text.strip() == (
        f"SettingsError: Port {port} is in use. "
        f"Stop the program that uses it, or choose another port: --port {port + 1}"
    )


@pytest.mark.parametrize(
    ("name", "content"), [("missing.onnx", None), ("empty.onnx", b""), ("foreign.onnx", b"hello"), ("cut.onnx", b"cut")]
)
def test_model_that_cannot_be_used_is_one_sentence(
    model: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(model.read_bytes()[:-400] if content == b"cut" else content)
    text = failure(path, tmp_path / "log", '{"port": 0}')
    assert text.startswith(f"ModelError: {path}: ") and text.count("\n") == 1, text


def test_model_that_fails_its_golden_set_does_not_serve(tmp_path: Path) -> None:
    path = write_model(tmp_path / "bad.onnx", spoil_golden=True)
    assert "golden set differently" in failure(path, tmp_path / "log", '{"port": 0}')


@pytest.mark.parametrize("values", [{"port": 70_000}, {"port": -1}, {"request_timeout": 0}, {"max_parts": -5}])
def test_settings_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        Settings(**values)


def test_there_is_one_worker_for_each_usable_cpu_unless_a_number_is_given(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path / "log", '{"port": 0}') as server:
        wait_until(lambda: server.get("/readyz").json()["workers"] == usable_cores())


def test_serving_loads_no_training_library() -> None:
    code = "import sys, pupila.server; print(sorted({'torch', 'onnx', 'ray', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_sigterm_lets_accepted_requests_finish_and_exits_with_0(server: Running) -> None:
    codes: list[int] = []
    with socket.create_connection(("127.0.0.1", server.port), 9) as sock:
        sock.sendall(POST[:-20])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        sock.sendall(POST[-20:])
        answer = sock.recv(65536)
        codes.append(int(answer.split()[1]))
        assert b"Connection: close" in answer
    assert codes == [200]
    assert server.process.wait(5) == 0
    assert "Traceback" not in server.log.read_text()


def test_draining_refuses_new_connections_and_is_not_ready(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 9) as sock:
        sock.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.6)
        with pytest.raises(requests.ConnectionError):
            server.get("/readyz")


def test_killed_worker_is_replaced_within_3_seconds_and_others_notice_nothing(server: Running) -> None:
    victim = server.workers()[0]
    signal_worker(victim, signal.SIGKILL)
    assert wait_until(lambda: len(server.workers()) == 2 and victim not in server.workers()) < 3
    assert wait_until(lambda: server.get("/readyz").json()["workers"] == 2) < 3
    assert all(answers(server) for _ in range(20))


def test_worker_that_seems_to_hang_is_stood_in_for_before_it_is_killed(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path / "log", '{"port": 0, "workers": 1}') as server:
        wait_until(lambda: answers(server))
        (stopped,) = server.workers()
        signal_worker(stopped, signal.SIGSTOP)
        wait_until(lambda: len(server.workers()) == 2)
        wait_until(lambda: answers(server))
        signal_worker(stopped, signal.SIGCONT)
        wait_until(lambda: len(server.workers()) == 1)
        assert answers(server)


def test_stopped_worker_is_replaced_and_its_clients_are_let_go_in_time(server: Running) -> None:
    """Clients that were connected to the stopped worker get an answer or a closed connection by deadline + 1 s."""
    waits: list[float] = []
    replies: list[bytes] = []

    def client(sock: socket.socket) -> None:
        started = time.monotonic()
        try:
            sock.sendall(POST)
            replies.append(sock.recv(65536)[:12])
        except OSError:
            replies.append(b"")
        waits.append(time.monotonic() - started)

    socks = [socket.create_connection(("127.0.0.1", server.port), 20) for _ in range(8)]
    for sock in socks:  # accepted and warm
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        sock.recv(65536)
    victim = server.workers()[0]
    signal_worker(victim, signal.SIGSTOP)
    threads = [threading.Thread(target=client, args=(sock,)) for sock in socks]
    [thread.start() for thread in threads]
    [thread.join(20) for thread in threads]
    [sock.close() for sock in socks]
    assert max(waits) < DEADLINE + 1
    assert set(replies) <= {b"", b"HTTP/1.1 200"} and replies.count(b"HTTP/1.1 200") >= 1
    assert b"" in replies
    wait_until(lambda: victim not in server.workers(), 3)
    wait_until(lambda: answers(server), 3)


def test_clients_come_to_a_worker_that_has_fewer_connections_and_lose_no_answer(model: Path, tmp_path: Path) -> None:
    with (
        serving(model, tmp_path / "log", '{"port": 0, "workers": 2}') as server,
        contextlib.ExitStack() as stack,
    ):
        wait_until(lambda: server.get("/readyz").json()["workers"] == 2)
        wait_until(lambda: [*map(sockets, server.workers())] == [sockets(server.workers()[0])] * 2)
        without = sockets(server.workers()[0])
        stopped = server.workers()[0]
        signal_worker(stopped, signal.SIGSTOP)  # all connect to the other one ...
        time.sleep(1.2)  # ... which by then does not count on this one
        clients = [stack.enter_context(requests.Session()) for _ in range(4)]

        def ask() -> list[int]:
            return [client.get(f"{server.url}/healthz", timeout=20).status_code for client in clients]

        assert ask() == [200] * 4
        signal_worker(stopped, signal.SIGCONT)
        limit = time.monotonic() + 20
        while sorted(sockets(pid) - without for pid in server.workers()) != [2, 2]:
            assert ask() == [200] * 4
            assert time.monotonic() < limit


def sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    links = [path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    return sum(str(link).startswith("socket:") for link in links)


def test_reload_replaces_every_worker_and_loses_no_request(server: Running) -> None:
    before = server.workers()
    server.process.send_signal(signal.SIGHUP)
    limit = time.monotonic() + 30
    while set(before) & set(server.workers()):
        assert server.predict(picture()).status_code == 200
        assert time.monotonic() < limit
    assert len(server.workers()) == 2 and server.get("/readyz").json()["workers"] == 2


ENDING = """
import sys
from pathlib import Path
from pupila.errors import ModelError
from pupila.predictor import Predictor
from pupila.server import Settings
from pupila.server.process import supervisor
supervisor.GIVE_UP = 0.5
def load(path):
    if Path(sys.argv[2]).exists():
        raise ModelError("It cannot be loaded any more.", path)
    return Predictor.load(path)
try:
    supervisor.serve(Path(sys.argv[1]), Settings(port=0, workers=1), load)
except ModelError as error:
    sys.exit(f"ModelError: {error}")
"""


def test_server_without_a_worker_that_can_load_a_model_ends_with_the_reason(model: Path, tmp_path: Path) -> None:
    flag, log = tmp_path / "broken", tmp_path / "log"
    with log.open("w") as output:
        arguments = [sys.executable, "-c", ENDING, str(model), str(flag)]
        process = subprocess.Popen(arguments, stdout=output, stderr=output, text=True)
    try:
        wait_for_url(process, log)
        flag.touch()
        (worker,) = Running(process, "http://127.0.0.1:1", log).workers()
        signal_worker(worker, signal.SIGKILL)
        assert process.wait(30) == 1
        assert "ModelError" in log.read_text() and "It cannot be loaded any more" in log.read_text().splitlines()[-1]
    finally:
        process.kill()
        process.wait()


def test_slow_uploads_do_not_keep_others_waiting_and_end_at_the_deadline(server: Running) -> None:
    slow = [socket.create_connection(("127.0.0.1", server.port), 20) for _ in range(100)]
    started = time.monotonic()
    for sock in slow:
        sock.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n")
    waits = []
    while time.monotonic() < started + DEADLINE - 0.5:
        for sock in slow[:20]:
            sock.sendall(b"x")
        before = time.monotonic()
        assert server.predict(picture()).status_code == 200
        waits.append(time.monotonic() - before)
        time.sleep(0.05)
    assert sorted(waits)[len(waits) // 2] < 0.2
    for sock in slow:
        assert sock.recv(65536).startswith(b"HTTP/1.1 408")
        sock.close()
    assert time.monotonic() - started < DEADLINE + 1


def test_idle_connections_are_closed_and_requests_in_a_row_share_one(model: Path, tmp_path: Path) -> None:
    with (
        serving(model, tmp_path / "log", '{"port": 0, "workers": 1, "keepalive_timeout": 0.5}') as server,
        socket.create_connection(("127.0.0.1", server.port), 9) as sock,
    ):
        for _ in range(3):
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 2)  # pipelined
            received = b""
            while received.count(b'{"status":"alive"}') < 2:
                received += sock.recv(65536)
        assert sock.recv(65536) == b""


def test_server_answers_with_more_connections_than_it_keeps(model: Path, tmp_path: Path) -> None:
    with serving(model, tmp_path / "log", '{"port": 0, "workers": 1, "max_connections": 10}') as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), 9) for _ in range(40)]
        assert answers(server)
        [sock.close() for sock in idle]


@pytest.fixture
def sticky(model: Path, tmp_path: Path) -> Iterator[Running]:
    """Yield a server that never ends computing a lone blue picture."""
    log = tmp_path / "log"
    with log.open("w") as output:
        command = [sys.executable, "-c", STUCK, str(model)]
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
    try:
        yield Running(process, wait_for_url(process, log), log)
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_stuck_computation_is_answered_and_its_worker_replaced_while_it_ends_other_work(sticky: Running) -> None:
    """A computation that never ends costs its client a 504 at the deadline, and its worker its place a second later.

    What else is in that worker may still end there, while another one serves already.
    """
    with socket.create_connection(("127.0.0.1", sticky.port), 20) as other:
        other.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        response = sticky.predict(picture("blue"))
        assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert STUCK_DEADLINE - 0.1 < time.monotonic() - started < STUCK_DEADLINE + 1
        other.sendall(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nha")
        old = sticky.workers()
        wait_until(lambda: answers(sticky))
        assert set(old) < set(sticky.workers())
        assert time.monotonic() - started < STUCK_DEADLINE + 3
        other.sendall(b"lf")
        assert other.recv(65536).startswith(b"HTTP/1.1 404")
    wait_until(lambda: not set(old) & set(sticky.workers()), 2 * STUCK_DEADLINE)
    assert len(sticky.workers()) == 1


def test_worker_whose_compute_thread_has_ended_is_replaced(model: Path, tmp_path: Path) -> None:
    """Also where nobody waits for that thread but those who give up at their deadline."""
    log = tmp_path / "log"
    with log.open("w") as output:
        command = [sys.executable, "-c", COMPUTES_NO_MORE, str(model)]
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
    try:
        server = Running(process, wait_for_url(process, log), log)
        (old,) = server.workers()
        answer = requests.post(f"{server.url}/predictions/colours", data=picture("blue"), timeout=20)
        assert answer.status_code == 504
        wait_until(lambda: server.workers() and old not in server.workers())
        assert answers(server) and "or none is computed" in log.read_text()
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


COMPUTES_NO_MORE = """
import sys
from pathlib import Path
from pupila.predictor import Predictor
from pupila.server import Settings, serve

class Ending(Predictor):
    def scores(self, pictures):
        if len(pictures) == 1 and pictures[0, 0, 0, 2] > 150 and pictures[0, 0, 0, 0] < 100:
            raise SystemExit
        return super().scores(pictures)

serve(Path(sys.argv[1]), Settings(port=0, workers=1, request_timeout=2.0), Ending.load)
"""
STUCK_DEADLINE = 4.0
STUCK = """
import sys, time
from pathlib import Path
from pupila.predictor import Predictor
from pupila.server import Settings, serve

class Sticky(Predictor):
    def scores(self, pictures):
        if len(pictures) == 1 and pictures[0, 0, 0, 2] > 150 and pictures[0, 0, 0, 0] < 100:
            time.sleep(60)
        return super().scores(pictures)

serve(Path(sys.argv[1]), Settings(port=0, workers=1, request_timeout=4.0), Sticky.load)
"""


def test_server_out_of_file_descriptors_waits_for_one_without_spinning(model: Path, tmp_path: Path) -> None:
    """No upload of less than a second is closed to make room; on a busy machine they may get older."""
    with (
        serving(model, tmp_path / "log", '{"port": 0, "workers": 1}') as server,
        contextlib.ExitStack() as stack,
    ):

        def upload(count: int) -> list[socket.socket]:
            socks = [socket.create_connection(("127.0.0.1", server.port), 20) for _ in range(count)]
            for sock in socks:
                stack.enter_context(sock)
                sock.sendall(POST[:-10])
            return socks

        (worker,) = server.workers()
        first = upload(5)
        wait_until(lambda: "pupila_connections 6.0" in server.get("/metrics").text)
        taken = {int(path.name) for path in Path(f"/proc/{worker}/fd").iterdir()}
        free = min(set(range(len(taken) + 1)) - taken)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (free, free))
        rest = upload(5)
        wait_until(lambda: "new connections have to wait" in server.log.read_text())
        before = cpu_seconds(worker)
        time.sleep(0.5)
        assert cpu_seconds(worker) - before < 0.1
        begun, answers = time.monotonic(), []
        for sock in first + rest:
            with contextlib.suppress(ConnectionError):
                sock.sendall(POST[-10:])
                answers.append(sock.recv(65536))
            sock.close()
        answered = [answer for answer in answers if answer.startswith(b"HTTP/1.1 200")]
        assert len(answered) >= 5, answers
        assert len(answered) == 10 or time.monotonic() - begun > 0.2, "young uploads were closed"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_old_client_that_asks_for_keep_alive_is_told_that_it_has_it(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 9) as sock:
        for path in (b"/healthz", b"/nowhere"):
            sock.sendall(b"GET %s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % path)
            assert b"\r\nConnection: keep-alive\r\n" in sock.recv(65536)
        sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b"\r\nConnection: close\r\n" in sock.recv(65536)


def test_tls_and_other_foreign_bytes_are_refused_at_once(server: Running) -> None:
    for hello, word in ((b"\x16\x03\x01\x02\x00\x01", b"TLS"), (b"\x00", b"request line")):
        with socket.create_connection(("127.0.0.1", server.port), 9) as sock:
            started = time.monotonic()
            sock.sendall(hello)
            answer = sock.recv(65536)
            assert time.monotonic() - started < DEADLINE / 2
            assert answer.startswith(b"HTTP/1.1 400") and word in answer
