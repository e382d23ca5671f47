"""The pool of child processes: order, a process that dies, and a pool that is closed early."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_kit import children_of

from pupila._workers import RefusedError, Worker, WorkerPool

PROGRAM = """
import os, sys, time
from pupila._workers import serve
from pupila.errors import DataError

def answer(job):
    lines = []
    for item in job.decode().split():
        if item == "crash":
            os._exit(1)
        if item == "refuse":
            raise DataError("No more of this.")
        if item == "slow":
            time.sleep(0.3)
        if item == "print":
            os.write(1, b"a native library remarks")
        lines.append(item.upper())
    return "".join(line + "\\n" for line in lines).encode()

serve(answer)
"""


def pack(items: list[str]) -> bytes:
    return " ".join(items).encode()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[WorkerPool]:
    (tmp_path / "program.py").write_text(PROGRAM)
    before = children_of(os.getpid())
    with WorkerPool([Worker([str(tmp_path / "program.py")]) for _ in range(2)]) as workers:
        yield workers
    assert children_of(os.getpid()) == before


def test_answers_come_in_the_order_of_the_jobs(pool: WorkerPool) -> None:
    jobs = [["slow", "a"], ["b"], ["c", "print"], *([str(number)] for number in range(50))]
    assert [lines.decode().split() for _, lines in pool.map(jobs, pack, b"lost\n")] == [
        [item.upper() for item in job] for job in jobs
    ]


def test_item_that_ends_its_process_costs_no_other_item(pool: WorkerPool) -> None:
    jobs = [["a", "crash", "b"], *([str(number), "x"] for number in range(20)), ["crash"], ["c", "d"]]
    answers = pool.map(jobs, pack, b"lost\n")
    assert [lines.decode().split() for _, lines in answers] == [
        ["lost" if item == "crash" else item.upper() for item in job] for job in jobs
    ]


def test_worker_that_refuses_says_why(pool: WorkerPool) -> None:
    with pytest.raises(RefusedError, match="No more of this"):
        list(pool.map([["a"], ["refuse"]], pack, b"lost\n"))


def test_pool_that_is_left_in_an_error_ends_its_processes(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    before = children_of(os.getpid())
    with (
        pytest.raises(KeyError),
        WorkerPool([Worker([str(tmp_path / "program.py")]) for _ in range(2)]) as workers,
    ):
        next(workers.map([["slow"]] * 40, pack, b"lost\n"))
        raise KeyError
    assert children_of(os.getpid()) == before
