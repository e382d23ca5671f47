"""A small, fast, honest HTTP API over one model file. Imports neither torch nor onnx."""

from pupila.server.app import create_app
from pupila.server.process.supervisor import serve
from pupila.server.settings import Settings

__all__ = ["Settings", "create_app", "serve"]
