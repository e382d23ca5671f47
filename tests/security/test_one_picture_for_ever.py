"""Whoever sends one picture for ever slows nobody's lists: of a key, few answers about one picture are kept."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from server_kit import picture, write_model

from pupila.feedback import Answered, Store
from pupila.feedback.store import SAME_PICTURE
from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api.auth import ApiKey, digest_of

SOON = 0.5
"""Seconds of processor time."""
ANSWER = Answered("r", 0, picture("red"), "red", 0.5, False, "m1", 1.0, "sender")
COPY = """
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?2)
INSERT INTO answers (request, picture, sha256, category, confidence, unknown, model, time, owner)
SELECT 'c' || n, 0, sha256, category, confidence, unknown, model, time, ?1 FROM number, (SELECT * FROM answers LIMIT 1)
"""
FLOOD = (
    """
    WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 300000)
    INSERT INTO pictures (sha256, kind, bytes) SELECT printf('%064x', n), 'png', 4608 FROM number
    """,
    """
    INSERT INTO answers (request, picture, sha256, category, confidence, unknown, model, time, owner)
    SELECT 'x', 0, sha256, 'red', 0.5, 0, 'm1', 1.0, 'sender' FROM pictures
    """,
)
"""Pictures that take a fifth of a second to be passed over on a fast machine."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "collected", create=True)
    yield opened
    opened.close()


def flood(store: Store) -> None:
    with store._writing() as database:
        for statement in FLOOD:
            database.execute(statement)


def test_last_answers_about_a_picture_and_the_last_correction_are_kept(store: Store) -> None:
    others = replace(ANSWER, data=picture("blue"), request="other")
    store.add([others, replace(ANSWER, owner="else"), replace(ANSWER, request="r0"), replace(ANSWER, request="r1")])
    for request, category, at in (("r1", "blue", 5.0), ("r0", "green", 6.0)):
        store.correct(store.of_request(request, 0)[0].id, category, at)
    store.add([replace(ANSWER, request=f"r{number}") for number in range(2, 2 * SAME_PICTURE)])
    assert store.counts("else").answers == 1 and len(store.of_request("other", 0)) == 1
    kept = [number for number in range(2 * SAME_PICTURE) if store.of_request(f"r{number}", 0, "sender")]
    assert kept == [0, *range(SAME_PICTURE + 1, 2 * SAME_PICTURE)]
    assert [row.correction for row in store.corrected(owner="sender")] == ["green"]
    assert store.counts().corrected == 1


def test_rows_of_before_go_with_the_next_answer_and_lists_are_quick(store: Store) -> None:
    store.add([ANSWER])
    store._database.execute(COPY, ("victim", 400))
    store._database.execute(COPY, ("sender", 20_000))
    store._database.execute("UPDATE answers SET corrected = id WHERE owner = 'sender' AND id % 200 = 0")
    store.add([ANSWER])
    begun = time.process_time()
    assert len(store.uncertain(50, owner="victim")) == 1 and len(store.corrected(50)) == 1
    assert time.process_time() - begun < SOON
    assert store.counts("sender").answers == SAME_PICTURE and store.counts("victim").answers == 400


def test_list_ends_when_its_time_is_over_and_feedback_does_not_wait_for_it(store: Store, tmp_path: Path) -> None:
    """Whoever lists from a great offset has the whole store looked through."""
    store.add([ANSWER])
    flood(store)
    key = ApiKey("sender", digest_of("secret"))
    settings = Settings(feedback_dir=store.path, api_keys=(key,), request_timeout=0.2)
    app = create_app(Predictor.load(write_model(tmp_path / "colours.onnx")), settings)
    headers = {"X-API-Key": "secret"}

    def took(method: str, path: str, **options: object) -> tuple[float, int]:
        begun = time.monotonic()
        status = app.test_client().open(path, method=method, headers=headers, **options).status_code
        return time.monotonic() - begun, status

    with ThreadPoolExecutor() as pool:
        lists = [pool.submit(took, "GET", "/review/pictures?offset=999999999") for _ in range(3)]
        correction = {"request_id": "r", "picture": 0, "category": "blue"}
        assert pool.submit(took, "POST", "/feedback", json=correction).result()[1] == 200
        assert [(one.result()[0] < SOON, one.result()[1]) for one in lists] == [(True, 503)] * 3


def test_counts_and_list_end_together(store: Store, tmp_path: Path) -> None:
    """Each had a quarter of the request's time for itself."""
    store.add([ANSWER])
    flood(store)
    settings = Settings(feedback_dir=store.path, api_keys=(ApiKey("sender", digest_of("secret")),), request_timeout=4.0)
    app = create_app(Predictor.load(write_model(tmp_path / "colours.onnx")), settings)
    lists = app.wsgi_app.state.collector.lists
    with ThreadPoolExecutor() as pool, lists._lock:  # as another list has it
        path, begun = "/review/pictures?offset=999999999", time.monotonic()
        answer = pool.submit(app.test_client().get, path, headers={"X-API-Key": "secret"})
        time.sleep(0.95)
        lists._lock.release()
        try:
            assert answer.result().status_code == 503
        finally:
            lists._lock.acquire()
        assert time.monotonic() - begun < 2


def test_fault_of_the_disk_is_answered_with_503_whatever_is_asked_of_a_picture(store: Store, tmp_path: Path) -> None:
    """Deleting one while somebody else was writing, or asking for one, had ended in a traceback and 500."""
    store.add([ANSWER])
    (kept,) = store.uncertain(1)
    settings = Settings(feedback_dir=store.path, api_keys=(ApiKey("sender", digest_of("secret")),))
    client = create_app(Predictor.load(write_model(tmp_path / "colours.onnx")), settings).test_client()
    path, headers = f"/review/pictures/{kept.id}", {"X-API-Key": "secret"}
    with contextlib.closing(sqlite3.connect(store.path / "feedback.sqlite", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert client.delete(path, headers=headers).json["error"]["code"] == "feedback_not_stored"
    file = store.file(kept.sha256, kept.kind)
    file.unlink()
    file.mkdir()
    assert client.get(path, headers=headers).status_code == 503
