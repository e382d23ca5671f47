"""The same application under gunicorn's sync workers."""

import sys

from under_gunicorn import run

run(sys.argv[1], sys.argv[2], "sync", 1)
