"""TLS at the server's own socket: every client, slow and broken handshakes, renewed certificates."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from page_kit import categories, choose, opened, settle
from proxy_kit import NGINX, make_certificate, nginx, serving_by_command
from server_kit import picture, wait_until, write_model

import pupila
from pupila.errors import SettingsError
from pupila.server.api.auth import new_key
from pupila.server.transport.tls import context_of

PNG = picture("red")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "colours.onnx")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def server(
    model: Path, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A server's address, and its access log."""
    folder = tmp_path_factory.mktemp("server")
    options = ["--port", "0", "--tls-certificate", str(certificate[0]), "--tls-key", str(certificate[1])]
    with serving_by_command(model, folder / "log", *options, "--access-log", str(folder / "access")) as (url, _):
        yield url, folder / "access"
    assert "Traceback" not in (folder / "log").read_text()


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


@contextlib.contextmanager
def connected(url: str, certificate: Path, **options: Any) -> Iterator[ssl.SSLSocket]:
    port = int(url.rpartition(":")[2])
    context = trusting(certificate)
    for name, value in options.items():
        setattr(context, name, value)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        yield tls


class Client:
    """A client that sends and reads in pieces of its own choice."""

    def __init__(self, tls: ssl.SSLSocket, piece: int = 65536) -> None:
        self.tls = tls
        self.piece = piece
        self.rest = b""

    def body(self) -> Any:
        """Return the JSON of the next answer."""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.tls.recv(self.piece)
        head, _, body = self.rest.partition(b"\r\n\r\n")
        length = int(
            next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split()[1]
        )
        while len(body) < length:
            body += self.tls.recv(self.piece)
        self.rest = body[length:]
        return json.loads(body[:length])

    def category(self) -> Any:
        """Send a picture, and return its class."""
        self.tls.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(PNG) + PNG)
        return self.body()["predictions"][0]["category"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_pictures_are_answered_in_both_versions(
    server: tuple[str, Path], certificate: tuple[Path, Path], version: ssl.TLSVersion
) -> None:
    with connected(server[0], certificate[0], maximum_version=version, minimum_version=version) as tls:
        client = Client(tls)
        assert [client.category() for _ in range(3)] == ["red"] * 3


def test_ordinary_clients_are_answered(server: tuple[str, Path], certificate: tuple[Path, Path]) -> None:
    url = server[0].replace("127.0.0.1", "localhost")
    files = [("file", (f"{n}.png", picture(c, size=(900, 900)))) for n, c in enumerate(("red", "blue") * 10)]
    answer = requests.post(f"{url}/predict", files=files, verify=str(certificate[0]), timeout=30).json()
    assert [entry["category"] for entry in answer["predictions"]] == ["red", "blue"] * 10
    done = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "--cacert", str(certificate[0]), "-F", "file=@-", f"{url}/predict"],
        input=PNG, capture_output=True, timeout=30, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["predictions"][0]["category"] == "red"


def test_big_bodies_and_answers_go_both_ways_in_pieces_of_any_size(
    server: tuple[str, Path], certificate: tuple[Path, Path]
) -> None:
    body = json.dumps({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [128, 32, 32, 3]}]}).encode()
    pixels = bytes(128 * 32 * 32 * 3)
    head = (
        f"POST /v2/models/colours/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(body)}\r\n"
        f"Content-Length: {len(body) + len(pixels)}\r\n\r\n"
    ).encode()
    whole = head + body + pixels
    with connected(server[0], certificate[0]) as tls:
        client = Client(tls)
        for size in (1, 7, 16384, 65537, len(whole)):
            start = whole[: 2000 if size < 10 else 0]
            for byte in range(0, len(start), size):
                tls.sendall(start[byte : byte + size])
            for at in range(len(start), len(whole), max(size, 3000)):
                tls.sendall(whole[at : at + max(size, 3000)])
            assert len(client.body()["outputs"]) == 4


def test_a_client_that_reads_slowly_gets_all_of_a_long_answer(
    server: tuple[str, Path], certificate: tuple[Path, Path]
) -> None:
    with connected(server[0], certificate[0]) as tls:
        tls.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        time.sleep(0.5)
        client = Client(tls, 3000)
        assert all(client.body()["openapi"] == "3.1.0" for _ in range(200))


def test_many_clients_at_once_are_answered(server: tuple[str, Path], certificate: tuple[Path, Path]) -> None:
    def ask(_: int) -> str:
        with connected(server[0], certificate[0]) as tls:
            return str(Client(tls).category())

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(64))) == {"red"}


def test_plain_http_at_the_port_is_named(server: tuple[str, Path]) -> None:
    answer = requests.get(server[0].replace("https", "http"), timeout=20)
    assert answer.status_code == 400 and "Use an address of https://" in answer.text


def test_stalled_and_broken_handshakes_hold_nothing(
    model: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """More of them than there may be connections; they are closed in time, and nobody else waits for them."""
    options = ("--tls-certificate", str(certificate[0]), "--tls-key", str(certificate[1]))
    limits = ("--max-connections", "20", "--keepalive-timeout", "1.5")
    with serving_by_command(model, tmp_path / "log", "--port", "0", *options, *limits) as (url, _):
        port = int(url.rpartition(":")[2])
        hello = ssl_hello()
        stalled = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(60)]
        for number, sock in enumerate(stalled):
            sock.sendall((b"", hello[:40], hello, b"\x16\x03\x01" + b"\xff" * 200)[number % 4])
        begun = time.monotonic()
        assert requests.get(f"{url}/readyz", verify=str(certificate[0]), timeout=10).ok
        assert time.monotonic() - begun < 5
        for sock in stalled:
            with contextlib.suppress(OSError):
                while sock.recv(65536):
                    pass
            sock.close()
        assert time.monotonic() - begun < 15
    assert "Traceback" not in (tmp_path / "log").read_text()


def ssl_hello() -> bytes:
    """Return a client's first message."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def serial(url: str) -> str:
    """Return the certificate that the server shows."""
    return ssl.get_server_certificate(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20)


def test_a_renewed_certificate_is_taken_over_and_a_wrong_one_is_not(
    model: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    shown, key = tmp_path / "shown.pem", tmp_path / "shown.key"
    first, second = certificate, make_certificate(tmp_path, "second")
    for source, target in zip(first, (shown, key), strict=True):
        shutil.copy(source, target)
    options = ("--tls-certificate", str(shown), "--tls-key", str(key))
    with serving_by_command(model, tmp_path / "log", "--port", "0", *options) as (url, _):
        assert serial(url) == first[0].read_text()
        shutil.copy(second[0], shown)  # without its key
        wait_until(lambda: serial(url) and "is not used" in (tmp_path / "log").read_text(), 20)
        assert serial(url) == first[0].read_text()
        shutil.copy(second[1], key)
        wait_until(lambda: serial(url) == second[0].read_text(), 20)


def test_files_that_cannot_be_used_are_named(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "other")
    encrypted = tmp_path / "encrypted.key"
    command = [
        "openssl",
        "pkey",
        "-in",
        str(certificate[1]),
        "-aes128",
        "-passout",
        "pass:secret",
        "-out",
        str(encrypted),
    ]
    subprocess.run(command, check=True, capture_output=True)
    words = tmp_path / "words.pem"
    words.write_text("These are words.")
    for pair, part in [
        ((tmp_path / "missing.pem", None), "cannot be read"),
        ((certificate[0], tmp_path / "missing.key"), "cannot be read"),
        ((certificate[0], None), "cannot be used"),
        ((certificate[0], other[1]), "key values mismatch"),
        ((certificate[0], encrypted), "is encrypted"),
        ((words, None), "cannot be used"),
    ]:
        with pytest.raises(SettingsError, match=part):
            context_of(*pair)
    both = tmp_path / "both.pem"
    both.write_text(certificate[0].read_text() + certificate[1].read_text())
    assert context_of(both, None).minimum_version == ssl.TLSVersion.TLSv1_2
    with pytest.raises(SettingsError, match="--tls-certificate"):
        pupila.Settings(tls_key=certificate[1])


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_tls_at_nginx_and_tls_at_both(
    model: Path, server: tuple[str, Path], certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    shared = f"listen 127.0.0.1:PORT ssl; ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};"
    forwarded = "proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-For $remote_addr;"
    with serving_by_command(model, tmp_path / "log", "--port", "0", "--forwarded-allow", "127.0.0.1") as (plain, _):
        locations = "".join(
            f"location /{name}/ {{ proxy_pass {url}/; {forwarded} }}"
            for name, url in (("plain", plain), ("both", server[0]))
        )
        with nginx(tmp_path / "nginx", f"{shared} {locations}") as port:
            for name in ("plain", "both"):
                url = f"https://localhost:{port}/{name}/predict"
                answer = requests.post(url, files={"file": PNG}, verify=str(certificate[0]), timeout=20)
                assert answer.json()["predictions"][0]["category"] == "red"


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_every_client_works_behind_nginx_with_tls_and_a_prefix(
    browser: Any, model: Path, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """The page, the review, Triton's client with compression, TorchServe's path, and our own client."""
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    secret, key = new_key("me", ("admin",))
    keys, kept = tmp_path / "keys", tmp_path / "kept"
    keys.write_text(key.line() + "\n")
    bearer = {"Authorization": f"Bearer {secret}"}
    options = ("--port", "0", "--api-keys", str(keys), "--feedback-dir", str(kept), "--forwarded-allow", "127.0.0.1")
    server = f"""listen 127.0.0.1:PORT ssl; ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};
        location /ai/ {{ proxy_pass URL/; proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Prefix /ai; proxy_set_header X-Forwarded-For $remote_addr; }}"""
    with (
        serving_by_command(model, tmp_path / "log", *options) as (url, _),
        nginx(tmp_path / "nginx", server.replace("URL", url)) as port,
    ):
        outside = f"https://localhost:{port}"
        triton_client = triton.InferenceServerClient(
            f"localhost:{port}/ai", ssl=True, ssl_context_factory=lambda: trusting(certificate[0])
        )
        files = triton.InferInput("files", [1], "BYTES")
        files.set_data_from_numpy(np.array([PNG], dtype=object))
        for algorithm in (None, "gzip", "deflate"):
            answer = triton_client.infer(
                "colours", [files], headers={**bearer}, request_compression_algorithm=algorithm
            )
            assert answer.as_numpy("category").tolist() == [b"red"]
        triton_client.close()
        found = requests.post(
            f"{outside}/ai/predictions/colours", data=PNG, headers=bearer, verify=str(certificate[0]), timeout=20
        )
        assert next(iter(found.json())) == "red"
        held = {"extra_http_headers": bearer, "ignore_https_errors": True}
        with opened(browser, outside, "/ai/", **held) as page:
            (tmp_path / "blue.png").write_bytes(picture("blue", size=(60, 50)))
            choose(page, [tmp_path / "blue.png"])
            settle(page, 1)
            assert categories(page) == ["blue"]
        with opened(browser, outside, "/ai/review", **held) as page:
            page.locator("#picture").wait_for()
            page.wait_for_function("document.getElementById('picture').naturalWidth > 0")
