"""Does to a running server what happens to servers, and measures what its clients get.

    python benchmarks/serving/chaos.py MODEL.onnx [--sides ours,plain,litserve,bentoml] [--json FILE]

For each side and fault: the longest that a client waited for an answer or a closed connection (waits are cut off at
CUTOFF), how many requests failed, and when all was well again. Loopback only; signals go only to processes that this
command started; each fault is bounded in time.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path

from harness import RIVALS, cpu_seconds, descendants, draw, memory, running, used

CUTOFF = 20.0
LOAD_SECONDS = 4.0


def multipart(*parts: bytes) -> bytes:
    """Return a request body."""
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="%d.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return b"".join(head % i + part + b"\r\n" for i, part in enumerate(parts)) + b"--B--\r\n"


def ask(port: int, *parts: bytes, timeout: float = CUTOFF) -> tuple[str, float]:
    """Return the status ("closed", "no answer" if none) and the seconds that it took."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", multipart(*parts))
    request.add_header("Content-Type", "multipart/form-data; boundary=B")
    started = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            response.read()
            status = str(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        status = str(error.code)
    except TimeoutError:
        status = "no answer"
    except (OSError, http.client.HTTPException) as error:
        status = "no answer" if isinstance(getattr(error, "reason", None), TimeoutError) else "closed"
    return status, time.monotonic() - started


def under_load(port: int, pid: int, picture: bytes, fault: Callable[[int], object]) -> str:
    """Load with 8 clients, do something to the busiest process in the middle, and say what they got.

    That is the one that has used most CPU time since the load began: a worker; the server itself where it has none.
    """
    results: list[tuple[str, float, float]] = []
    until = time.monotonic() + LOAD_SECONDS
    before = {one: used(one) for one in descendants(pid) or [pid]}

    def client() -> None:
        while time.monotonic() < until:
            begun = time.monotonic()
            status, spent = ask(port, picture)
            results.append((status, spent, begun))
            if status != "200":
                time.sleep(0.05)

    threads = [threading.Thread(target=client) for _ in range(8)]
    [thread.start() for thread in threads]
    time.sleep(1)
    struck = time.monotonic()
    fault(max(before, key=lambda one: used(one) - before[one]))
    [thread.join() for thread in threads]
    failed = [status for status, _, _ in results if status != "200"]
    last_bad = max((begun + spent for status, spent, begun in results if status != "200"), default=struck)
    stuck = sum(status == "no answer" for status in failed)
    well = ask(port, picture, timeout=5)[0] == "200"
    text = f"{len(failed)} of {len(results)} failed, longest wait {max(spent for _, spent, _ in results):.1f} s"
    text += f", last failure {max(0.0, last_bad - struck):.1f} s after" if failed else ""
    return text + (f", {stuck} never answered" if stuck else "") + ("" if well else ", DOWN afterwards")


def kill(port: int, pid: int, picture: bytes) -> str:
    """kill -9 of the busiest process."""
    return under_load(port, pid, picture, lambda one: os.kill(one, signal.SIGKILL))


def stop(port: int, pid: int, picture: bytes) -> str:
    """SIGSTOP of the busiest process."""
    return under_load(port, pid, picture, lambda one: os.kill(one, signal.SIGSTOP))


def slow_uploads(port: int, pid: int, picture: bytes) -> str:  # noqa: ARG001
    """100 clients that announce a body and send a byte a second: what does another client get?"""
    socks = [socket.create_connection(("127.0.0.1", port), CUTOFF) for _ in range(100)]
    for sock in socks:
        sock.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\n")
    waits = [ask(port, picture, timeout=5) for _ in range(10)]
    for sock in socks:
        sock.close()
    bad = sum(status != "200" for status, _ in waits)
    return f"another client: {bad} of 10 failed, longest wait {max(spent for _, spent in waits):.2f} s"


def bomb(port: int, pid: int, picture: bytes) -> str:  # noqa: ARG001
    """A PNG of 12 kB with 100 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1251 * 10_000), 9)) + chunk(b"IEND", b"")
    before = memory(pid)
    status, spent = ask(port, b"\x89PNG\r\n\x1a\n" + data)
    return f"{status} after {spent:.2f} s, memory +{max(0.0, memory(pid) - before):.0f} MiB"


def truncated(port: int, pid: int, picture: bytes) -> str:  # noqa: ARG001
    """A truncated picture, alone."""
    return ask(port, picture[: len(picture) // 2])[0]


def poisoned(port: int, pid: int, picture: bytes) -> str:  # noqa: ARG001
    """A truncated picture among 31 good ones that are sent at the same moment by others."""
    statuses: list[str] = []
    threads = [
        threading.Thread(target=lambda i=i: statuses.append(ask(port, picture[:300] if i == 13 else picture)[0]))
        for i in range(32)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return f"{statuses.count('200')} of 31 others answered"


def terminate(port: int, pid: int, picture: bytes) -> str:
    """SIGTERM to the server while 8 clients wait for answers."""
    results: list[str] = []
    begun = threading.Barrier(9)

    def client() -> None:
        begun.wait()
        results.append(ask(port, *[picture] * 16)[0])

    threads = [threading.Thread(target=client) for _ in range(8)]
    [thread.start() for thread in threads]
    begun.wait()
    time.sleep(0.05)
    os.kill(pid, signal.SIGTERM)
    [thread.join() for thread in threads]
    return f"{results.count('200')} of 8 accepted requests answered"


FAULTS = {
    "kill -9 of a worker under load": kill,
    "SIGSTOP of a worker under load": stop,
    "100 slow uploads": slow_uploads,
    "truncated picture": truncated,
    "one bad among 32 requests": poisoned,
    "100-megapixel PNG of 12 kB": bomb,
    "SIGTERM with requests in work": terminate,
}


def main() -> None:
    """Parse, do harm, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sides", default="ours,plain,litserve,bentoml")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    picture = draw(Path("/tmp/pupila-chaos.jpg"))  # noqa: S108
    table: dict[str, dict[str, str]] = {}
    for side in options.sides.split(","):
        if side in RIVALS and "RIVALS_PYTHON" not in os.environ:
            print(f"{side} is left out: set RIVALS_PYTHON to an interpreter that has it installed.", file=sys.stderr)
            continue
        for name, fault in FAULTS.items():
            with running(side, options.model.resolve()) as (process, port):
                time.sleep(1)
                for _ in range(20):
                    ask(port, picture.read_bytes())
                table.setdefault(name, {})[side] = fault(port, process.pid, picture.read_bytes())
                print(f"{side:10} {name:34} {table[name][side]} ({cpu_seconds(process.pid):.1f} s CPU)", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
