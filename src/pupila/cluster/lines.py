"""What a training prints on a node, shown where the command was given: through a log in the run's folder, which all
nodes share. Knows no Ray.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from pupila.progress import printed_log

LOG = "log.txt"
EVERY = 0.2
"""Seconds between two looks at the log."""


@contextlib.contextmanager
def printing_to(folder: Path) -> Iterator[None]:
    """Let what is printed in this process, errors too, be added to the folder's log, line by line."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / LOG).open("a", encoding="utf-8", buffering=1))
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        stack.enter_context(printed_log())
        yield


@contextlib.contextmanager
def shown(folder: Path) -> Iterator[None]:
    """Print here the lines that are added to the folder's log, as they come, and the last of them before it ends."""
    log, over = folder / LOG, threading.Event()
    begun = log.stat().st_size if log.exists() else 0
    thread = threading.Thread(target=_follow, args=(log, begun, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(log: Path, place: int, over: threading.Event) -> None:
    last = False
    while not last:
        last = over.wait(EVERY)
        if not log.exists():
            continue
        with log.open("rb") as file:  # opened each time: so a network's file system looks for what is new
            file.seek(place)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        place += len(whole)
        sys.stdout.write(whole.decode(errors="replace"))
        sys.stdout.flush()
