"""Runs jobs on this machine: one after another here, or several at once in processes. Knows nothing of what they do.

With `fork` a child would inherit torch's threads in an unknown state, so processes are started afresh (`spawn`).
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from pupila._cpus import usable_cores
from pupila.errors import TrainingError
from pupila.training.sweeps.trial import Failure, Job, Result, run_job, run_quietly

log = logging.getLogger("pupila.training")

Outcome = Result | Failure
Execute = Callable[[Sequence[Job]], Iterator[Outcome]]
"""Runs jobs in any order and yields what becomes of each."""


def in_turn(jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Run them one after another in this process, which prints what a training prints."""
    for number, job in enumerate(jobs, 1):
        log.info(f"[{number}/{len(jobs)}] {job.trial.name}")
        yield run_job(job)


def at_once(count: int) -> Execute:
    """Return what runs `count` jobs at a time, each in a process with its share of the cores, at least one thread."""
    threads = max(1, usable_cores() // count)

    def execute(jobs: Sequence[Job]) -> Iterator[Outcome]:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(count, len(jobs)), context, _begin)
        try:
            waiting = [pool.submit(run_quietly, job, threads) for job in jobs]
            for number, future in enumerate(as_completed(waiting), 1):
                outcome = future.result()
                log.info(f"[{number}/{len(jobs)}] {outcome.trial}")
                yield outcome
        except BrokenProcessPool as error:
            raise TrainingError(
                "A trial's process was killed, perhaps for want of memory. Give the same command again, it goes on "
                "where it stopped; fewer --jobs need less memory."
            ) from error
        except BaseException:
            for child in multiprocessing.active_children():  # else Ctrl-C would wait until their trials are over
                child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    return execute


def _begin() -> None:
    """Make this process end at once with Ctrl-C, and with its parent, however that ends: the folder is then free."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
