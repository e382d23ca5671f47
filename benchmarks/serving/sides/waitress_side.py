"""The same application under waitress: one process, several threads, as it comes."""

import os
import sys

from waitress import serve

os.environ["MODEL"] = sys.argv[1]
from wsgi_app import app

serve(app, host="127.0.0.1", port=int(sys.argv[2]), threads=4)
