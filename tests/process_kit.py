"""Commands of pupila in processes that tests wait for, interrupt and kill."""

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from server_kit import wait_until

from pupila.cli import main
from pupila.training.export import graph
from pupila.training.loop import resnet

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    [
        *("process_kit", "pupila.training.train", "pupila.training.sweeps.run", "pupila.batch"),
        *("torch._dynamo", "sklearn.datasets", "matplotlib.backends.backend_agg", "matplotlib.figure"),
    ]
)
"""Importing what a training takes is most of a short one: one process does it, and each command is a fork of that."""
OUTPUT = "out.txt"


def _inside(
    folder: Path, environment: dict[str, str], widths: tuple[int, ...], function: Callable[..., object], arguments: Any
) -> None:
    os.environ.update(environment)
    resnet.WIDTHS, resnet.FEATURES, graph.FEATURES = widths, widths[-1], widths[-1]
    os.chdir(folder)
    os.setpgrp()  # so that it can be killed with the processes that it starts
    out = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it ...
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ... and nohup this one
    function(*arguments)


def _command(*words: str) -> None:
    main(words)


@contextlib.contextmanager
def running(folder: Path, function: Callable[..., object], *arguments: object) -> Iterator[BaseProcess]:
    """Run a function in a folder until the block ends; what it prints is added to OUTPUT there."""
    (folder / OUTPUT).touch()
    process = FORK.Process(target=_inside, args=(folder, dict(os.environ), resnet.WIDTHS, function, arguments))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(60)


def started(folder: Path, *words: object) -> contextlib.AbstractContextManager[BaseProcess]:
    """The same with a command of pupila."""
    return running(folder, _command, *map(str, words))


def interrupted(folder: Path, said: str, times: int, *words: object) -> contextlib.AbstractContextManager[BaseProcess]:
    """The same, and the process gets so many Ctrl-C when it logs `said`."""
    return running(folder, _interrupted, said, times, *map(str, words))


def _interrupted(said: str, times: int, *words: str) -> None:
    class CtrlC(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            for _ in range(times if said in record.getMessage() else 0):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)  # or two signals would count as one

    logging.getLogger("pupila").addHandler(CtrlC())
    main(words)


def printed(folder: Path) -> str:
    """Return what the commands in a folder have printed so far."""
    return (folder / OUTPUT).read_text()


def wait_for(condition: Callable[[], object], process: BaseProcess, folder: Path, seconds: float = 900) -> None:
    """Wait until a command in a folder has done something; it must not end before."""

    def found() -> bool:
        ended = not process.is_alive()
        met = bool(condition())
        assert met or not ended, printed(folder)
        return met

    wait_until(found, seconds)


def ended(process: BaseProcess, folder: Path, seconds: float = 900) -> str:
    """Wait for the end of a command, which must go well; return what was printed in the folder."""
    process.join(seconds)
    assert process.exitcode == 0, printed(folder)
    return printed(folder)
