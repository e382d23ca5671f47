"""The same application under granian, one process per core."""

import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.remove(here)  # this file would hide the package of the same name
from granian import Granian  # noqa: E402

os.environ["MODEL"] = sys.argv[1]
sys.path.append(here)
if __name__ == "__main__":
    Granian(
        "wsgi_app:app", address="127.0.0.1", port=int(sys.argv[2]), interface="wsgi",
        workers=len(os.sched_getaffinity(0)), blocking_threads=4,
    ).serve()  # fmt: skip
