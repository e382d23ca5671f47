"""Behind a proxy, and as servers are run: Unix socket, X-Forwarded headers, nginx, logs, a closed terminal."""

import contextlib
import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from proxy_kit import COMMAND, NGINX, free_port, listening, nginx, serving_by_command
from server_kit import picture, wait_until, write_model

import pupila
from pupila.errors import SettingsError
from pupila.server.addresses import UNIX, TrustedProxies, bind_unix, read_forwarded
from pupila.server.transport.parser import parse_head

PNG = picture("red")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "colours.onnx")


# X-Forwarded-For and its kin


def applied(named: tuple[str, ...], peer: str = "10.0.0.1", path: str = "/predict", **headers: str) -> Any:
    """Return client's address, scheme, host, prefix and path of a request with these headers."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    data = f"GET {path} HTTP/1.1\r\nHost: here\r\n{lines}\r\n".encode()
    head = parse_head(data, len(data) - 2)
    client = TrustedProxies(named).apply(head, peer)
    return client, head.scheme, head.headers["HTTP_HOST"], head.prefix, head.path


@pytest.mark.parametrize(
    ("named", "hops", "client"),
    [
        ((), "1.2.3.4", "10.0.0.1"),
        (("10.0.0.2",), "1.2.3.4", "10.0.0.1"),
        (("10.0.0.1",), "1.2.3.4", "1.2.3.4"),
        (("10.0.0.0/8",), "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        (("10.0.0.0/8",), "6.6.6.6, 1.2.3.4, 10.9.9.9", "1.2.3.4"),
        (("10.0.0.0/8",), "10.1.1.1, 10.2.2.2", "10.1.1.1"),
        (("10.0.0.0/8",), "1.2.3.4, nonsense", "10.0.0.1"),
        (("10.0.0.0/8",), "", "10.0.0.1"),
        (("10.0.0.0/8",), "1.2.3.4:5678", "1.2.3.4"),
        (("10.0.0.0/8",), "[2001:db8::1]:5678", "2001:db8::1"),
        (("10.0.0.0/8",), "::ffff:1.2.3.4", "1.2.3.4"),
        (("*",), "1.2.3.4, 5.6.7.8", "1.2.3.4"),
        (("*", "10.0.0.0/8"), "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        (("10.0.0.0/8",), ",".join(["1.2.3.4"] * 3000), "1.2.3.4"),
    ],
)
def test_the_client_is_the_last_that_is_no_trusted_proxy(named: tuple[str, ...], hops: str, client: str) -> None:
    assert applied(named, X_Forwarded_For=hops)[0] == client


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("for=1.2.3.4;proto=https;host=photos.example", "1.2.3.4"),
        ('For="[2001:db8::1]:4711";Proto=https;host=photos.example', "2001:db8::1"),
        ("for=6.6.6.6, for=1.2.3.4;proto=https;host=photos.example", "1.2.3.4"),
        ("for=unknown;proto=https;host=photos.example", "10.0.0.1"),
    ],
)
def test_forwarded_is_read_where_x_forwarded_for_is_not_there(forwarded: str, client: str) -> None:
    assert applied(("10.0.0.1",), Forwarded=forwarded)[:3] == (client, "https", "photos.example")
    both = applied(("10.0.0.1",), Forwarded=forwarded, X_Forwarded_For="9.9.9.9")
    assert both[0] == "9.9.9.9"


def test_whether_a_peer_is_a_proxy_costs_nothing_once_it_is_known() -> None:
    """It is asked of every open connection, each time that one of them gives way to others."""
    proxies = TrustedProxies(["10.0.0.0/8", "192.168.0.0/16"])
    begun = time.process_time()
    assert all(proxies.names("10.0.0.7") and not proxies.names("11.0.0.7") for _ in range(20_000))
    assert time.process_time() - begun < 0.1


@pytest.mark.parametrize("elements", ["," * 15_500, "for=1," * 2_600, ";" * 15_500, 'for="' * 3_000])
@pytest.mark.parametrize("name", ["Forwarded", "X_Forwarded_For"])
def test_what_a_client_writes_in_front_of_its_proxys_word_costs_nothing(name: str, elements: str) -> None:
    """It is read in the event loop, before any limit by address is asked: 15,500 commas took 7 ms."""
    last = "for=1.2.3.4" if name == "Forwarded" else "1.2.3.4"
    assert applied(("10.0.0.1",), **{name: f"{elements}, {last}"})[0] == "1.2.3.4"
    headers = {f"HTTP_{name.upper()}": f"{elements}, {last}"}
    begun = time.process_time()
    for _ in range(100):
        read_forwarded(headers)
    assert time.process_time() - begun < 0.1


@pytest.mark.parametrize(
    ("path", "prefix", "found"),
    [
        ("/predict", "/ai", ("/ai", "/predict")),
        ("/predict", "/ai/", ("/ai", "/predict")),
        ("/x/metrics", "/x", ("/x", "/x/metrics")),
        ("/predict", "/a/b", ("/a/b", "/predict")),
        ("/predict", "", ("", "/predict")),
        ("/predict", "//evil.example", ("", "/predict")),
        ("/predict", "/<script>", ("", "/predict")),
    ],
)
def test_a_prefix_is_for_links_and_changes_no_path(path: str, prefix: str, found: tuple[str, str]) -> None:
    assert applied(("10.0.0.1",), path=path, X_Forwarded_Prefix=prefix)[3:] == found
    assert applied((), path=path, X_Forwarded_Prefix=prefix)[3:] == ("", path)


def test_nothing_is_believed_of_others() -> None:
    headers = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "evil.example", "X_Forwarded_For": "1.2.3.4"}
    assert applied((), **headers)[:3] == ("10.0.0.1", "http", "here")
    assert applied(("10.0.0.1",), **headers)[:3] == ("1.2.3.4", "https", "evil.example")
    assert applied(("10.0.0.1",), X_Forwarded_Host="a b", X_Forwarded_Proto="ftp")[1:3] == ("http", "here")
    assert applied((UNIX,), UNIX, X_Forwarded_For="1.2.3.4")[0] == "1.2.3.4"
    assert applied(("10.0.0.1",), UNIX, X_Forwarded_For="1.2.3.4")[0] == UNIX


# Unix socket


def ask_unix(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        sock.sendall(request)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    return answer


def raw_predict(*lines: str) -> bytes:
    more = "".join(f"{line}\r\n" for line in lines)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}Content-Length: {len(PNG)}\r\n\r\n"
    return head.encode() + PNG


def test_a_unix_socket_is_served_and_a_stale_one_replaced(model: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "p.sock", tmp_path / "access"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))
    options = ("--host", f"unix:{path}", "--forwarded-allow", "unix:", "--access-log", str(log))
    with serving_by_command(model, tmp_path / "log", *options) as (url, _):
        assert url == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert b'"category":"red"' in ask_unix(path, raw_predict("X-Forwarded-For: 1.2.3.4"))
        assert json.loads(log.read_text())["client"] == "1.2.3.4"
        assert (
            f"curl --unix-socket {path} -F file=@photo.jpg http://localhost/predict" in (tmp_path / "log").read_text()
        )
        with pytest.raises(SettingsError, match="another server listens there"):
            bind_unix(path)
    assert not path.exists()


def test_a_file_is_not_taken_for_a_stale_socket(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("mine")
    with pytest.raises(SettingsError, match="is no socket"):
        bind_unix(path)
    assert path.read_text() == "mine"
    with pytest.raises(SettingsError, match="Choose another path"):
        bind_unix(tmp_path / ("x" * 200))
    with pytest.raises(SettingsError, match="No such file"):
        bind_unix(tmp_path / "missing" / "p.sock")


# Logs


def test_the_access_log_goes_to_standard_output_and_the_rest_to_the_other(model: Path, tmp_path: Path) -> None:
    with (tmp_path / "err").open("w") as errors:
        command = [*COMMAND, str(model), "--port", "0", "--workers", "1", "--access-log", "-"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        try:
            url = listening(process, tmp_path / "err")
            for _ in range(3):
                requests.post(f"{url}/predict", files={"file": PNG}, timeout=20)
        finally:
            process.terminate()
            output = process.communicate(timeout=20)[0]
    assert [json.loads(line)["path"] for line in output.splitlines()] == ["/predict"] * 3


@pytest.mark.parametrize("name", ["-", "pipe"])
def test_an_access_log_that_nobody_reads_stops_no_answer(model: Path, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(tmp_path / "pipe", os.O_WRONLY)
    with (tmp_path / "err").open("w") as errors:
        command = [*COMMAND, str(model), "--port", "0", "--workers", "1", "--access-log", name]
        stdout = writing if name == "-" else errors
        process = subprocess.Popen(command, stdout=stdout, stderr=errors, cwd=tmp_path)
    try:
        url = listening(process, tmp_path / "err")
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)
        assert all(requests.get(f"{url}/model", timeout=5).ok for _ in range(20))
    finally:
        process.terminate()
        process.wait(20)
        os.close(reading)
        os.close(writing)


# Terminal


IN_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "nohup" else signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def in_terminal(model: Path, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[bytes], int, str]]:
    """A server that was started in a terminal: its process, the terminal, its address."""
    port, how = free_port(), getattr(request, "param", "plain")
    terminal, inside = pty.openpty()
    command = [sys.executable, "-c", IN_TERMINAL, how, *COMMAND, str(model), "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, start_new_session=True)
    os.close(inside)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(url), 60)
        yield process, terminal, url
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            os.close(terminal)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=5).ok
    except requests.ConnectionError:
        return False


def has_started_twice(url: str) -> bool:
    return "pupila_worker_starts_total 2.0" in requests.get(f"{url}/metrics", timeout=20).text


def test_a_server_ends_with_the_terminal_that_it_runs_in(in_terminal: tuple[Any, int, str]) -> None:
    process, terminal, _ = in_terminal
    os.close(terminal)
    assert process.wait(20) == 0


@pytest.mark.parametrize("in_terminal", ["nohup"], indirect=True)
def test_a_server_under_nohup_outlives_its_terminal(in_terminal: tuple[Any, int, str]) -> None:
    process, terminal, url = in_terminal
    os.close(terminal)
    process.send_signal(signal.SIGHUP)  # as a shell sends it that ends
    wait_until(lambda: answers(url) and has_started_twice(url), 30)
    assert process.poll() is None


def test_sighup_to_a_server_whose_terminal_is_open_reloads_it(in_terminal: tuple[Any, int, str]) -> None:
    process, _, url = in_terminal
    assert not has_started_twice(url)
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: has_started_twice(url), 30)


@pytest.mark.parametrize("moment", ["starting", "ready"])
def test_sighup_to_a_daemon_reloads_it(model: Path, tmp_path: Path, moment: str) -> None:
    """Also one that comes while the first worker loads the model."""
    with (tmp_path / "log").open("w") as output:
        command = [*COMMAND, str(model), "--port", "0", "--workers", "1"]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        if moment == "starting":
            wait_until(lambda: psutil.Process(process.pid).children(), 30)
        else:
            wait_until(lambda: answers(listening(process, tmp_path / "log")), 30)
        process.send_signal(signal.SIGHUP)
        url = listening(process, tmp_path / "log")
        wait_until(lambda: answers(url) and has_started_twice(url), 30)
        assert requests.post(f"{url}/predict", files={"file": PNG}, timeout=20).ok
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


# nginx


@needs_nginx
@pytest.mark.parametrize("upstream", ["tcp", "unix"])
def test_behind_nginx_with_its_defaults_under_a_prefix(model: Path, tmp_path: Path, upstream: str) -> None:
    """nginx takes the prefix away; the client's address is in the log, and links begin with the prefix."""
    log, path = tmp_path / "access", tmp_path / "p.sock"
    listen = ("--host", f"unix:{path}") if upstream == "unix" else ("--port", "0")
    proxy = "unix:" if upstream == "unix" else "127.0.0.1"
    with serving_by_command(model, tmp_path / "log", *listen, "--access-log", str(log), "--forwarded-allow", proxy) as (
        url,
        _,
    ):
        whole = f"http://{url}" if upstream == "unix" else url
        there = f"{whole}:/" if upstream == "unix" else f"{whole}/"
        forwarded = "proxy_set_header X-Forwarded-For 203.0.113.7; proxy_set_header X-Forwarded-Proto https;"
        server = f"""listen 127.0.0.1:PORT;
            location /plain/ {{ proxy_pass {there}; }}
            location /ai/ {{ proxy_pass {there}; {forwarded} proxy_set_header X-Forwarded-Prefix /ai; }}"""
        with nginx(tmp_path / "nginx", server) as port:
            outside = f"http://127.0.0.1:{port}"
            for prefix in ("/plain", "/ai"):
                answer = requests.post(f"{outside}{prefix}/predict?top=2", files={"file": PNG}, timeout=20)
                assert answer.json()["predictions"][0]["category"] == "red"
                page = requests.get(f"{outside}{prefix}/", timeout=20)
                assert page.ok and page.headers["Content-Type"].startswith("text/html")
            described = requests.get(f"{outside}/ai/openapi.json", timeout=20).json()
            assert described["servers"] == [{"url": "/ai"}]
    clients = [json.loads(line)["client"] for line in log.read_text().splitlines()]
    own = UNIX if upstream == "unix" else "127.0.0.1"
    assert clients == [own, own, *["203.0.113.7"] * 3]


@needs_nginx
def test_pictures_over_nginxs_limit_are_refused_by_nginx_and_explained_by_the_client(
    model: Path, tmp_path: Path
) -> None:
    with serving_by_command(model, tmp_path / "log", "--port", "0") as (url, _):
        server = f"listen 127.0.0.1:PORT; location / {{ proxy_pass {url}; }}"
        with (
            nginx(tmp_path / "nginx", server) as port,
            pupila.Client(f"http://127.0.0.1:{port}") as client,
            pytest.raises(pupila.ServerError) as caught,
        ):
            client.predict(PNG + bytes(2**21))
    assert (caught.value.status, caught.value.code) == (413, "proxy_refused")
    assert "client_max_body_size" in str(caught.value)
