"""Quick answers wait for nothing that is slow: not for a disk that hangs, and not for a scrape of the metrics."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from server_kit import Running, picture, serving, wait_until, write_model

from pupila.feedback.store import DATABASE


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    settings = json.dumps({"port": 0, "workers": 1, "feedback_dir": str(tmp_path / "kept")})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as running:
        yield running


def test_quick_routes_are_answered_while_the_disk_of_feedback_hangs(server: Running, tmp_path: Path) -> None:
    request_id = server.predict(picture()).headers["X-Request-Id"]
    wait_until(lambda: 'pupila_collected_total{outcome="kept"} 1.0' in server.get("/metrics").text)
    body = {"request_id": request_id, "picture": 0, "category": "red"}
    holder = sqlite3.connect(tmp_path / "kept" / DATABASE, isolation_level=None, timeout=20)
    with ThreadPoolExecutor(8) as pool:
        holder.execute("BEGIN IMMEDIATE")
        answers = [pool.submit(requests.post, f"{server.url}/feedback", json=body, timeout=30) for _ in range(8)]
        wait_until(lambda: server.get("/readyz").status_code == 200 and waiting(server) >= 1, 20)
        for path in ("/card", "/model", "/metrics", "/healthz"):
            assert requests.get(server.url + path, timeout=3).status_code == 200
        holder.execute("ROLLBACK")
        assert {answer.result().status_code for answer in answers} <= {200, 503}
    holder.close()


def waiting(server: Running) -> float:
    """Return how many requests wait for a thread."""
    lines = requests.get(f"{server.url}/metrics", timeout=3).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("pupila_waiting "))


THREADS = """
import socket, sys, threading
from pathlib import Path
from flask import request
from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.addresses import bind
from pupila.server.api.auth import AccessControl
from pupila.server.observability.request_log import RequestLog, Telemetry
from pupila.server.process.scoreboard import Health, Scoreboard
from pupila.server.transport.event_loop import EventLoop
settings, log, access = Settings(port=0), RequestLog(Telemetry()), AccessControl()
app = create_app(Predictor.load(Path(sys.argv[1])), settings, request_log=log, access=access)
app.before_request(lambda: print(request.path, threading.current_thread().name, flush=True))
listener, scoreboard = bind(settings), Scoreboard(2)
listener.setblocking(False)
address = listener.getsockname()
loop = EventLoop(app, listener, settings, Health(scoreboard), log, scoreboard, 0, access)
threading.Thread(target=loop.run, args=(lambda: True,), daemon=True, name="loop").start()
client = socket.create_connection(address)
for path in (b"/healthz", b"/metrics"):
    client.sendall(b"GET " + path + b" HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
"""


def test_metrics_are_put_together_beside_the_event_loop(tmp_path: Path) -> None:
    model = write_model(tmp_path / "colours.onnx")
    command = [sys.executable, "-c", THREADS, str(model)]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    threads = dict(line.split(" ", 1) for line in lines)
    assert threads["/healthz"] == "loop" and threads["/metrics"] != "loop"
