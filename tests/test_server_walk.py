"""One picture, from POST to answer, enters few files: who follows it reads no more than that."""

import subprocess
import sys
from pathlib import Path

from server_kit import picture, write_model

WALK = """
import socket, sys, threading
from pathlib import Path
from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.addresses import bind
from pupila.server.api.auth import AccessControl
from pupila.server.observability.request_log import RequestLog, Telemetry
from pupila.server.process.scoreboard import Health, Scoreboard
from pupila.server.transport.event_loop import EventLoop
settings, log, access = Settings(port=0), RequestLog(Telemetry()), AccessControl()
app = create_app(Predictor.load(Path(sys.argv[1])), settings, request_log=log, access=access)
listener, scoreboard = bind(settings), Scoreboard(2)
listener.setblocking(False)
address = listener.getsockname()
loop = EventLoop(app, listener, settings, Health(scoreboard), log, scoreboard, 0, access)
entered = set()
def note(frame, event, _):
    if event == "call":
        entered.add(frame.f_code.co_filename)
threading.setprofile(note)
threading.Thread(target=loop.run, args=(lambda: True,), daemon=True).start()
client, body = socket.create_connection(address), Path(sys.argv[2]).read_bytes()
client.sendall(b"POST /predict HTTP/1.1\\r\\nHost: a\\r\\nContent-Type: image/jpeg\\r\\n")
client.sendall(b"Content-Length: %d\\r\\n\\r\\n" % len(body))
client.sendall(body)
assert client.recv(65536).startswith(b"HTTP/1.1 200")
print(*sorted(name.partition("/pupila/")[2] for name in entered if "/src/pupila/" in name), sep="\\n")
"""


def test_a_picture_enters_at_most_18_files(tmp_path: Path) -> None:
    model, photo = write_model(tmp_path / "colours.onnx"), tmp_path / "photo.jpg"
    photo.write_bytes(picture(kind="JPEG", size=(80, 60)))
    done = subprocess.run(
        [sys.executable, "-c", WALK, str(model), str(photo)], capture_output=True, text=True, timeout=60, check=True
    )
    assert 12 < len(done.stdout.split()) <= 18, done.stdout
