"""The same application under granian, one process per core."""

import os
import sys

from granian import Granian

os.environ["MODEL"] = sys.argv[1]
if __name__ == "__main__":
    workers = int(os.environ["WORKERS"])
    Granian(
        "wsgi_app:app",
        address="127.0.0.1",
        port=int(sys.argv[2]),
        interface="wsgi",
        workers=workers,
        blocking_threads=4,
    ).serve()
