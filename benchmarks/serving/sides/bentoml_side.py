"""BentoML with the same model file, decoding and answer; one worker per core."""

import os
import sys
from pathlib import Path

os.environ["MODEL"] = sys.argv[1]
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.chdir(Path(__file__).parent / "bento")
command = [sys.executable, "-m", "bentoml", "serve", "bento_service:Service"]
os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", sys.argv[2]])  # noqa: S606
