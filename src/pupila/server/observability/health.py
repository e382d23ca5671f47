"""Readiness: whether this server can answer, as GET /readyz shows it."""

from dataclasses import dataclass

from pupila.server.process.scoreboard import Scoreboard


@dataclass
class Health:
    """The state of one worker process, and through the scoreboard of all."""

    scoreboard: Scoreboard | None = None
    """None outside `serve`, where this process is the only one we know of."""
    draining: bool = False
    refused: str | None = None
    """Why the model file that is in place now is not the one that serves."""

    def workers(self) -> int:
        """Return how many workers are ready."""
        return self.scoreboard.ready() if self.scoreboard else 1

    def status(self) -> str:
        """Return "ready", or in a word or two why not."""
        if self.draining:
            return "draining"
        return "ready" if self.workers() else "no worker"
