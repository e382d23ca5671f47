"""The same application for servers that want an importable one."""

import os
from pathlib import Path

from pupila.predictor import Predictor
from pupila.server.app import create_app

app = create_app(Predictor.load(Path(os.environ["MODEL"])))
