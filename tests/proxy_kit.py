"""What the tests of a server behind a proxy share: `pupila serve` as a command, nginx, certificates."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
COMMAND = [sys.executable, "-m", "pupila", "serve"]


@contextlib.contextmanager
def serving_by_command(
    model: Path, log: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `pupila serve` until the block ends; yield the address that it prints, and its process."""
    output = log.open("w")
    command = [*COMMAND, str(model), "--workers", "1", *options]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        yield listening(process, log), process
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
            output.close()


def listening(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address that the server prints."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit and process.poll() is None:
        if found := re.search(r"Listening on (\S+)", log.read_text()):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def free_port() -> int:
    """Return a port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def nginx(folder: Path, server: str) -> Iterator[int]:
    """Run nginx with its defaults around one `server` block until this block ends; yield the port that it listens on.

    In `server`, PORT stands for the port. Everything that nginx writes goes into the folder.
    """
    port = free_port()
    folder.mkdir(exist_ok=True)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = folder / "nginx.conf"
    user = "user root root;" if os.geteuid() == 0 else ""  # the default, nobody, may not use others' Unix sockets
    config.write_text(
        f"{user} pid {folder}/pid; error_log {folder}/error.log; daemon off; worker_processes 1;\n"
        f"events {{}}\nhttp {{ access_log off; {paths}\nserver {{ {server.replace('PORT', str(port))} }} }}\n"
    )
    process = subprocess.Popen([str(NGINX), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)])
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once somebody listens on a port."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.02)
    raise AssertionError("nginx did not start")


def make_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """Write a self-signed certificate for localhost and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *kind, *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
