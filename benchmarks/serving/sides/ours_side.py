"""This project's server."""

import os
import sys
from pathlib import Path

from pupila.server import Settings, serve

serve(Path(sys.argv[1]), Settings(port=int(sys.argv[2]), workers=int(os.environ["WORKERS"])))
