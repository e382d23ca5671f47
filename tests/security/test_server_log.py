"""What a stranger sends neither fills the server's log nor forges its lines."""

import io
import json
import logging
import random
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import requests
from server_kit import picture, serving, wait_until, write_model

from pupila.manifest import METADATA_KEY
from pupila.predictor import Predictor
from pupila.progress import OneLine
from pupila.server import Settings, create_app
from pupila.server.process.supervisor import LOG_FORMAT

FORGED = "2026-01-01 00:00:00,000 ERROR pupila.server: forged"
EVIL = f"a\x1b[2J\r\n{FORGED}\u202e"


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


def test_reason_from_a_model_file_is_one_line_that_steers_no_terminal(tmp_path: Path) -> None:
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log") as server:
        other = onnx.load(write_model(tmp_path / "other.onnx"))
        (entry,) = [entry for entry in other.metadata_props if entry.key == METADATA_KEY]
        entry.value = json.dumps({**json.loads(entry.value), EVIL: 1})
        (tmp_path / "new").write_bytes(other.SerializeToString())
        (tmp_path / "new").replace(tmp_path / "colours.onnx")
        wait_until(lambda: "a new model is refused" in server.log.read_text())
        log = server.log.read_bytes().decode()
    assert FORGED in log
    assert not any(line.startswith("2026-01-01") for line in log.splitlines())
    assert not {"\x1b", "\r", "\u202e"} & set(log)


def test_text_of_an_error_is_a_part_of_its_traceback() -> None:
    lines, logger = io.StringIO(), logging.Logger("here")
    handler = logging.StreamHandler(lines)
    handler.setFormatter(OneLine(LOG_FORMAT))
    logger.addHandler(handler)
    try:
        raise ValueError(EVIL)
    except ValueError:
        logger.exception("a fault %s", EVIL)
    first, *others = lines.getvalue().removesuffix("\n").split("\n")
    assert first.endswith("a fault a\\x1b[2J\\r\\n" + FORGED + "\\u202e")
    assert others and all(line.startswith("  ") for line in others)
    assert not {"\x1b", "\r", "\u202e"} & set(lines.getvalue())


@pytest.mark.parametrize(("count", "letters"), [(10_000, 25), (2_500, 100)])
def test_unknown_category_is_compared_with_few_classes_only(tmp_path: Path, count: int, letters: int) -> None:
    """They are anagrams of it, whose likeness takes longest to rule out: 0.7 s for each correction."""
    drawn, text = random.Random(0), list("abcdefghijklmnopqrstuvwxy" * (letters // 25))
    names = []
    for _ in range(count + 1):
        drawn.shuffle(text)
        names.append("".join(text))
    predictor = Predictor.load(write_model(tmp_path / "colours.onnx"))
    client = create_app(predictor, Settings(feedback_dir=tmp_path / "kept")).test_client()
    said = {"request_id": "r", "picture": 0, "category": "gren"}
    assert "Did you mean 'green'?" in client.post("/feedback", json=said).text
    predictor.manifest = replace(predictor.manifest, classes=tuple(names[1:]))
    begun = time.process_time()
    answer = client.post("/feedback", json={**said, "category": names[0]})
    assert time.process_time() - begun < 0.25
    assert (answer.status_code, "GET /model lists the classes" in answer.text) == (400, True)
