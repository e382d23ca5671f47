"""What a stranger sends neither fills the server's log nor forges its lines."""

import json
import sqlite3
from pathlib import Path

import requests
from server_kit import picture, serving, write_model


def test_disk_fault_has_its_traceback_once_and_then_a_line(tmp_path: Path) -> None:
    """Each correction that could not be stored, which anybody may repeat, had one of a kilobyte."""
    kept = tmp_path / "kept"
    settings = json.dumps({"port": 0, "workers": 1, "feedback_dir": str(kept)})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server:
        server.predict(picture())
        database = kept / "feedback.sqlite"
        with sqlite3.connect(database, timeout=20) as other:
            other.execute("DROP TABLE answers")
        said = {"request_id": "r", "picture": 0, "category": "red"}
        answers = [requests.post(f"{server.url}/feedback", json=said, timeout=20).status_code for _ in range(20)]
        assert answers == [503] * 20
        log = server.log.read_text()
    assert log.count("Traceback") == 1
    assert log.count("feedback could not be stored") == 20
