"""What one key has sent makes lists, counts and feedback of others cost no more, nor those of a reviewer.

Counted in SQLite's steps: a list of fifty takes some thousands, and several for each answer where all are looked at.
"""

from collections.abc import Callable, Iterator

import pytest
from server_kit import picture

from pupila.feedback import Answered, Store

PICTURES, ANSWERS = 1_000, 20
"""Of the key that sends much; one answer about each picture is corrected."""
MANY = PICTURES * ANSWERS
STEPS = MANY // 2
OWN = Answered("own", 0, picture("red"), "red", 0.9, False, "m1", 1.0, "victim")
FLOOD = (
    """
    WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :pictures)
    INSERT INTO pictures (sha256, kind, bytes) SELECT printf('%064x', n), 'png', 4608 FROM number
    """,
    """
    WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :answers)
    INSERT INTO answers (request, picture, sha256, category, confidence, unknown, model, time, owner)
    SELECT 'x', 0, sha256, 'red', 0.1, 1, 'm1', 1.0, 'sender' FROM number CROSS JOIN pictures WHERE sha256 < '0001'
    """,
    "UPDATE answers SET corrected = id, correction = 'blue' WHERE owner = 'sender' AND id <= :pictures + 2",
)
ASKED: dict[str, tuple[Callable[[Store], object], object]] = {
    "list": (lambda store: [kept.request for kept in store.uncertain(50, owner="victim")], ["own"]),
    "corrections": (lambda store: [kept.request for kept in store.corrected(50, owner="victim")], ["mine"]),
    "counts": (lambda store: store.counts("victim").pictures, 2),
    "feedback": (lambda store: store.of_request("x", 0, "victim"), []),
    "list of all": (lambda store: [kept.request for kept in store.uncertain(50)], ["own"]),
    "corrections of all": (lambda store: len(store.corrected(50)), 50),
    "counts of all": (lambda store: (store.counts().answers, store.counts().pictures), (MANY + 2, PICTURES + 2)),
    "feedback of a reviewer": (lambda store: store.owners_of("x", 0), ["sender"]),
    "answers of a request": (lambda store: len(store.of_request("x", 0)), 100),
}
"""What is asked, and what the answer is."""


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store in which all but two pictures are of one key."""
    store = Store(tmp_path_factory.mktemp("flooded") / "collected", create=True)
    blue = Answered("mine", 0, picture("blue"), "red", 0.9, False, "m1", 1.0, "victim")
    store.add([OWN, blue])
    store.correct(store.of_request("mine", 0)[0].id, "blue", 0.5)
    with store._writing() as database:
        for statement in FLOOD:
            database.execute(statement, {"pictures": PICTURES, "answers": ANSWERS})
    yield store
    store.close()


@pytest.mark.parametrize("asked", ASKED)
def test_what_one_key_has_sent_is_not_looked_through_for_others(flooded: Store, asked: str) -> None:
    """Every list and count looked at all rows, and feedback at all of its request's id: seconds of a full store."""
    ask, answer = ASKED[asked]
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 10

    flooded._database.set_progress_handler(count, 10)
    assert ask(flooded) == answer
    assert steps < STEPS
