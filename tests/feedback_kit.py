"""What the tests of the feedback store share: one picture by its request, clients that correct, and whole files."""

import contextlib
import hashlib
import sqlite3

import numpy as np
import requests
from server_kit import CLASSES

from pupila import images
from pupila.feedback import Kept, Store

PICTURES = 8
"""In one request of `ask_and_correct`."""
Acknowledged = dict[tuple[str, int], str | None]
"""By request id and place: the category that the server has taken."""


def first(store: Store, request: str, picture: int) -> Kept | None:
    """Return the first answer of this request id and place."""
    return next(iter(store.of_request(request, picture)), None)


def correct(store: Store, request: str, picture: int, category: str | None, time: float) -> Kept | None:
    """Correct the first answer of this request id and place."""
    kept = first(store, request, picture)
    return None if kept is None else store.correct(kept.id, category, time)


def ask_and_correct(url: str, request: str, draw: np.random.Generator, acknowledged: Acknowledged) -> None:
    """Ask a server for a few pictures and correct each answer, until something fails; note what it took."""
    pixels = draw.integers(0, 256, (PICTURES, 24, 24, 3), dtype=np.uint8)
    files = [("file", (f"{i}.png", images.encode_png(one))) for i, one in enumerate(pixels)]
    with contextlib.suppress(requests.RequestException), requests.Session() as session:
        answer = session.post(f"{url}/predict", files=files, headers={"X-Request-Id": request}, timeout=20)
        if answer.status_code != 200:
            return
        for place in range(PICTURES):
            category = [*CLASSES, None][int(draw.integers(0, 5))]
            body: dict[str, str | int | None] = {"request_id": request, "picture": place, "category": category}
            if session.post(f"{url}/feedback", json=body, timeout=20).status_code == 200:
                acknowledged[request, place] = category


def check_acknowledged(store: Store, acknowledged: Acknowledged) -> None:
    """Every correction that a server has taken is there as it was taken, with a picture that can be read."""
    lost = {
        key: category
        for key, category in acknowledged.items()
        if (kept := first(store, *key)) is None
        or kept.corrected is None
        or kept.correction != category
        or images.decode(store.read(kept) or b"", 24).shape != (24, 24, 3)
    }
    assert lost == {}


def check_files(store: Store) -> None:
    """Compare rows and files; every file must be whole."""
    with contextlib.closing(sqlite3.connect(store.path / "feedback.sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = {f"{name}.{kind}" for name, kind in database.execute("SELECT sha256, kind FROM pictures")}
        used = {name for (name,) in database.execute("SELECT DISTINCT sha256 FROM answers")}
    files = {path.name: path.read_bytes() for path in store.pictures.iterdir()}
    assert files.keys() == rows
    assert {name.partition(".")[0] for name in rows} == used
    for name, data in files.items():
        assert hashlib.sha256(data).hexdigest() == name.partition(".")[0]
        assert images.decode(data, 24).shape == (24, 24, 3)
