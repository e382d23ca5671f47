"""The same application under gunicorn's own workers, one process per core, loaded after the fork."""

import os
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication

from pupila.predictor import Predictor
from pupila.server.app import create_app


class Application(BaseApplication):  # type: ignore[misc]
    """gunicorn, set up in code."""

    def __init__(self, model: str, settings: dict[str, Any]) -> None:
        self.model = model
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Tell gunicorn what was chosen."""
        for name, value in self.settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Load in the worker."""
        return create_app(Predictor.load(Path(self.model)))


def run(model: str, port: str, worker: str, threads: int) -> None:
    """Serve until ended."""
    settings = {
        "bind": f"127.0.0.1:{port}",
        "workers": int(os.environ["WORKERS"]),
        "worker_class": worker,
        "threads": threads,
        "control_socket_disable": True,
    }
    Application(model, settings).run()
