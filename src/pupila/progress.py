"""Progress bars with an ETA on a terminal, and the handler that prints what the library logs for the command line."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pupila._files import open_own
from pupila._language import translated

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

LOG = "log.txt"
"""Where a run's folder has what was printed in another process."""
STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, ends of lines, changes of the direction of writing, and bytes that are no text."""


def printable(text: str) -> str:
    """Return one line for a terminal: what steers one, line ends too, is written out. Names of files may hold it."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), readable(text))


def shown(text: str) -> str:
    """Return a text of several lines for a terminal, in the reader's language: each of them printable.

    What it holds may come from a model file, from the names of files or from a server.
    """
    return translated(printable_lines(text))


def printable_lines(text: str) -> str:
    """Return a text of several lines for a terminal, each of them printable, in the language that it is in."""
    return "\n".join(map(printable, text.split("\n")))


def readable(text: str) -> str:
    """Return a text with names in UTF-8 as such, also where the locale is another one and Python keeps their bytes."""
    with contextlib.suppress(UnicodeEncodeError):
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return text


class PlainHandler(logging.Handler):
    """Prints messages as they are: warnings to standard error, the others to standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message; a closed terminal or pipe does not end what is being done."""
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        with contextlib.suppress(OSError, ValueError):
            print(shown(self.format(record)), file=stream, flush=True)


@contextlib.contextmanager
def printed_log() -> Iterator[None]:
    """Print what the library logs, once, however often this is called."""
    logger, before = logging.getLogger("pupila"), logging.getLogger("pupila").level
    if any(isinstance(handler, PlainHandler) for handler in logger.handlers):
        yield
        return
    handler = PlainHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # ONNX Runtime's quantiser gives the root logger a handler of its own
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = True


@contextlib.contextmanager
def quiet_log() -> Iterator[None]:
    """Log warnings and errors only."""
    logger = logging.getLogger("pupila")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def printing_to(folder: Path) -> Iterator[None]:
    """Add what is printed and logged in this process, errors too, to the folder's log.txt, line by line."""
    folder.mkdir(parents=True, exist_ok=True)
    log = os.fdopen(open_own(folder / LOG, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8", buffering=1)
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), printed_log():
        yield


def progress_bar(label: str, total: int, *, hidden: bool = False) -> "ProgressBar[int]":
    """Count work done against a total: `with progress_bar("decoding", 60_000) as bar: bar.update(100)`."""
    hidden = hidden or not sys.stderr.isatty()
    return click.progressbar(length=total, label=translated(label), file=sys.stderr, show_pos=True, hidden=hidden)
