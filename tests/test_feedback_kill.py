"""Real servers are killed at random moments of a thousand corrections: none that was acknowledged is lost."""

import contextlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from feedback_kit import Acknowledged, ask_and_correct, check_acknowledged, check_files, correct, first
from server_kit import Running, launch, serving, wait_for_url, write_model

from pupila import images
from pupila.feedback import Answered, Store
from pupila.feedback.schema import ROW_BYTES, on_disk

WRITES = 1000
CLIENTS = 4
LIMIT = 240.0
"""Seconds that a very busy machine may take."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: what a killed process has written is there all the same, only sooner."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() and os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


class Killed:
    """A server that comes back, and clients that go on asking it."""

    def __init__(self, folder: Path) -> None:
        self.model = write_model(folder / "colours.onnx")
        self.kept = folder / "kept"
        self.settings = json.dumps({"port": 0, "workers": 2, "feedback_dir": str(self.kept)})
        self.log = folder / "log"
        self.acknowledged: Acknowledged = {}
        self.over = threading.Event()
        self.start()

    def start(self) -> None:
        process = launch(self.model, self.log, self.settings)
        self.server = Running(process, wait_for_url(process, self.log), self.log)

    def kill_worker(self, draw: random.Random) -> None:
        workers = self.server.workers()
        if workers:
            os.kill(draw.choice(workers), signal.SIGKILL)

    def kill_all(self) -> None:
        for pid in [self.server.process.pid, *self.server.workers()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.process.wait()

    def client(self, number: int) -> None:
        """Ask, and correct every answer, until enough is acknowledged. Whatever fails is asked anew."""
        draw = np.random.default_rng(number)
        for count in itertools.count():
            if self.over.is_set():
                break
            ask_and_correct(self.server.url, f"c{number}-{count}", draw, self.acknowledged)

    def kill_until_enough(self, draw: random.Random) -> int:
        """Kill a worker or the whole server now and then, until enough is acknowledged; return how often."""
        kills, limit = 0, time.monotonic() + LIMIT
        while len(self.acknowledged) < WRITES and time.monotonic() < limit:
            target = min(len(self.acknowledged) + draw.randint(40, 140), WRITES)
            while len(self.acknowledged) < target and time.monotonic() < limit:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.05))  # so that it is at any point of a write
            kills += 1
            if kills % 3:
                self.kill_worker(draw)
            else:
                self.kill_all()
                self.start()
        return kills


@pytest.mark.slow
def test_no_acknowledged_correction_is_lost_and_nothing_is_left_half_written(folder: Path) -> None:
    killed = Killed(folder)
    clients = [threading.Thread(target=killed.client, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        kills = killed.kill_until_enough(random.Random(6))
    finally:
        killed.over.set()
        killed.kill_all()
        for client in clients:
            client.join(60)
    assert len(killed.acknowledged) >= WRITES
    assert kills >= 6
    with serving(killed.model, killed.log, killed.settings):
        pass  # starts, which clears up, and ends
    store = Store(killed.kept)
    check_acknowledged(store, killed.acknowledged)
    check_files(store)


# A process that is killed at a line of one's choice


def write_once(kept: Path, number: int) -> None:
    """All kinds of writing: new pictures, one that is there already, a correction, and the oldest make room."""
    store = Store(kept)
    room = 6 * (on_disk(2000) + ROW_BYTES)
    pictures = [(f"n{number}-{place}", picture_of(100 * number + place)) for place in range(3)]
    pictures.append((f"n{number}-again", picture_of(0)))
    store.add([Answered(name, 0, data, "red", 0.5, False, "m1", 0.0) for name, data in pictures], room)
    correct(store, f"n{number}-0", 0, "blue", 1.0)


def picture_of(seed: int) -> bytes:
    return images.encode_png(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8))


def killed_at_line(kept: Path, number: int, line: int, write: Callable[[Path, int], object] = write_once) -> bool:
    """Write in a process that kills itself before the so-maniest line of the feedback room; whether it came to that."""
    pid = os.fork()
    if pid == 0:
        left = line

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            if "/pupila/feedback/" not in frame.f_code.co_filename:
                return None
            left -= event == "line"
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            write(kept, number)
        finally:
            os._exit(0)
    return bool(os.waitpid(pid, 0)[1])


def test_process_killed_at_every_seventh_line_leaves_whole_pictures_with_rows_after_recovery(folder: Path) -> None:
    kept = folder / "kept"
    Store(kept, create=True).close()
    orphans = 0
    for number in range(1, 200):
        before = Store(kept)
        corrected = {one.request for one in before.corrected()}
        before.close()
        killed = killed_at_line(kept, number, line=7 * number)
        store = Store(kept)
        files, lost = store.recover()
        orphans += files
        assert lost == 0
        assert {one.request for one in store.corrected()} >= corrected
        check_files(store)
        if number % 20 == 0:
            store.delete()  # or the corrected ones, which stay, would fill it
        store.close()
        if not killed:
            break
    assert not killed
    assert 7 * number > 100
    assert orphans > 0  # without recovery there would have been some


def test_process_killed_at_every_ninth_line_leaves_no_picture_behind_what_deletes_everything(folder: Path) -> None:
    kept = folder / "kept"
    Store(kept, create=True).close()
    orphans = 0
    for number in range(1, 100):
        killed = killed_at_line(kept, number, line=9 * number)
        store = Store(kept)
        orphans += len(list(store.pictures.iterdir())) - store.counts().pictures
        store.delete()
        assert not any(store.pictures.iterdir())
        store.close()
        if not killed:
            break
    assert not killed
    assert orphans > 0  # there was something to find


def test_process_killed_while_room_is_made_in_steps_leaves_no_file_or_row_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one large picture for which many go, and of one correction."""
    monkeypatch.setattr("pupila.feedback.store.EVICTED_TOGETHER", 2)
    monkeypatch.setattr("pupila.feedback.store.ROOM_PAUSE", 0.0)
    large = images.encode_png(np.random.default_rng(1).integers(0, 256, (100, 100, 3), dtype=np.uint8))
    room = 12 * (on_disk(2000) + ROW_BYTES)
    full = [Answered(f"s{seed}", 0, picture_of(seed), "red", 0.5, False, "m1", 0.0) for seed in range(12)]

    def write(kept: Path, _: int) -> None:
        store = Store(kept)
        store.add([Answered("large", 0, large, "red", 0.5, False, "m1", 0.0)], room)
        for corrected in ("large", *(f"s{seed}" for seed in range(12))):
            one = first(store, corrected, 0)
            if one is not None:
                store.correct(one.id, "blue", 1.0, room)

    orphans, states = 0, set()
    for number in range(1, 200):
        kept = folder / f"kept{number}"
        store = Store(kept, create=True)
        store.add(full)
        store.close()
        killed = killed_at_line(kept, number, 29 * number, write)
        store = Store(kept)
        files, lost = store.recover()
        orphans += files
        assert lost == 0
        states.add(store.counts().answers)
        check_files(store)
        assert store.counts().bytes <= room
        store.close()
        if not killed:
            break
    assert not killed
    assert orphans > 0 and len(states) > 3
