"""The same application under waitress: one process, several threads, as it comes."""

import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.remove(here)  # this file would hide the package of the same name
from waitress import serve  # noqa: E402

os.environ["MODEL"] = sys.argv[1]
sys.path.append(here)
from wsgi_app import app  # noqa: E402

serve(app, host="127.0.0.1", port=int(sys.argv[2]), threads=4)
