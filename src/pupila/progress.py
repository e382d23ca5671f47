"""Progress bars with an ETA on a terminal, and the handler that prints what the library logs for the command line."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pupila._files import open_own
from pupila._language import translated

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

LOG = "log.txt"
"""Where a run's folder has what was printed in another process."""
STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, ends of lines, changes of the direction of writing, and bytes that are no text."""

LONGEST = 20_000
"""Letters of a line that are shown: a name in a stranger's file may have millions."""


def printable(text: str) -> str:
    """Return one line for a terminal: what steers one, line ends too, is written out. Names of files may hold it.

    Of a long line only the beginning is shown.
    """
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}..."
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), readable(text))


def shown(line: str) -> str:
    """Return one line for a terminal, printable and in the reader's language.

    What it holds may come from a model file, from the names of files or from a server: it makes no line of its own.
    """
    return translated(printable(line))


def printable_lines(*lines: str) -> str:
    """Return a text of these lines, each of them printable, in the language that they are in."""
    return "\n".join(map(printable, lines))


def readable(text: str) -> str:
    """Return a text with names in UTF-8 as such, also where the locale is another one and Python keeps their bytes."""
    with contextlib.suppress(UnicodeEncodeError):
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return text


class OneLine(logging.Formatter):
    """Writes each message as one line, and tracebacks indented: what they hold may come from a model or a client."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return the lines of a traceback."""
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


class PlainHandler(logging.Handler):
    """Prints each message as one line: warnings to standard error, the others to standard output."""

    def __init__(self) -> None:
        """Print messages of all levels."""
        super().__init__()
        self.setFormatter(OneLine())

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message; a closed terminal or pipe does not end what is being done."""
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        with contextlib.suppress(OSError, ValueError):
            print(translated(self.format(record)), file=stream, flush=True)


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
