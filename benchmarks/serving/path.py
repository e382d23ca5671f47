"""CPU time of one request from its parsed head to its response's bytes, with and without Flask, beside the bare loop.

    python benchmarks/serving/path.py MODEL.onnx [--rounds 15]

One process, one thread, no network: what a worker's handler thread does. The three ways take turns, 50 requests each.
CPU time moves much less with a machine's other load than the clock does.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chaos import multipart
from harness import draw

from pupila import images
from pupila.predictor import Predictor
from pupila.server import create_app
from pupila.server.api.fast_path import Front
from pupila.server.transport.connection import Request
from pupila.server.transport.parser import parse_head
from pupila.server.transport.wsgi import environ_of, respond

REQUESTS = 50


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = draw(Path(folder) / "picture.jpg").read_bytes()
    ways = ways_of(Predictor.load(options.model), data)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            way()
            started = time.process_time()
            for _ in range(REQUESTS):
                way()
            spent[name].append(1e6 * (time.process_time() - started) / REQUESTS)
    for name, times in spent.items():
        ratio = statistics.median(a / b for a, b in zip(times, spent["through Flask"], strict=True))
        least, middle = min(times), statistics.median(times)
        print(f"{name:20}{middle:8.0f} us (median), {least:6.0f} (least), {ratio:.2f} of the way through Flask")


def ways_of(predictor: Predictor, data: bytes) -> dict[str, Callable[[], object]]:
    """Return what is compared, by name."""
    app = create_app(predictor)
    front = app.wsgi_app
    assert isinstance(front, Front)
    body = multipart(data)
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    head += b"Content-Length: %d\r\n" % len(body)

    def request() -> dict[str, object]:
        now = time.monotonic()
        parsed = parse_head(head, len(head))
        return environ_of(Request(parsed, body, "127.0.0.1", now, now, now + 60), ("127.0.0.1", "3000"))

    def bare() -> object:
        return predictor.predict(images.stack([predictor.decode(data)]))

    return {
        "through Flask": lambda: respond(front.behind, request(), False),
        "in front of it": lambda: respond(front, request(), False),
        "the bare loop": bare,
    }


if __name__ == "__main__":
    main()
