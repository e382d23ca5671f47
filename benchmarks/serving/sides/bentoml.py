"""BentoML with the same model file, decoding and answer; one worker per core."""

import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
os.environ["MODEL"] = sys.argv[1]
os.environ["BENTOML_DO_NOT_TRACK"] = "True"
command = [sys.executable, "-m", "bentoml", "serve", "bento_service:Service"]
os.chdir(os.path.join(here, "bento"))
os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", sys.argv[2]])
