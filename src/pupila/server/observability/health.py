"""Whether this server can answer: what /readyz tells. Knows no HTTP."""

from dataclasses import dataclass
from pathlib import Path

from pupila.server.process.scoreboard import Board


@dataclass
class Health:
    """The state of one worker process, and through the board of all."""

    board: Board | None = None
    """None outside `serve`, where this process is the only one we know of."""
    draining: bool = False
    refused: str | None = None
    """Why the model file that is in place now is not the one that serves."""

    def workers(self) -> int:
        """Return how many workers are ready."""
        return self.board.ready() if self.board else 1

    def status(self) -> str:
        """Return "ready", or in a word or two why not."""
        if self.draining:
            return "draining"
        return "ready" if self.workers() else "no worker"


def public_reason(error: Exception, path: Path) -> str:
    """Return what an error says, with the file's name in place of its path: /readyz is open to everybody."""
    text = str(error)
    for folder in {str(path.absolute().parent), str(path.resolve().parent), str(path.parent)} - {"."}:
        text = text.replace(f"{folder.rstrip('/')}/", "")
    return text
