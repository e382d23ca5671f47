"""What the tests of pupila.batch share: folders of small real pictures, and jobs in processes that can be killed."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from server_kit import CLASSES, picture

SCRIPT = """
import resource, sys
from pathlib import Path
from pupila.batch import predict_all
from pupila.errors import PupilaError
try:
    predict_all(Path(sys.argv[1]), [Path(sys.argv[2])], Path(sys.argv[3]))
except PupilaError as error:
    sys.exit(str(error))
print(*(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def fill(root: Path, count: int) -> Path:
    """Write so many pictures, of the colours in turn: 0000.png is red, 0001.png is green."""
    root.mkdir(parents=True)
    contents = [picture(colour) for colour in CLASSES]
    for index in range(count):
        (root / f"{index:04d}.png").write_bytes(contents[index % len(contents)])
    return root


def fill_with_links(root: Path, count: int, targets: Sequence[Path]) -> Path:
    """Link so many names, 100 a folder, to a few files in turn."""
    for index in range(count):
        if index % 100 == 0:
            (root / f"{index // 100:04d}").mkdir(parents=True)
        os.link(targets[index % len(targets)], root / f"{index // 100:04d}" / f"{index:06d}.png")
    return root


def link_to_each_other(root: Path, count: int) -> Path:
    """Make so many folders with a picture and a link to each of the others: the number of paths is their factorial."""
    for one in range(count):
        (root / f"{one}").mkdir(parents=True)
        (root / f"{one}" / "p.png").write_bytes(picture())
        for other in range(count):
            (root / f"{one}" / f"to{other}").symlink_to(root / f"{other}")
    return root


def start(model: Path, folder: Path, out: Path) -> subprocess.Popen[str]:
    """Start a job in a process of its own; it prints the most KiB of memory that it and one of its children took."""
    command = [sys.executable, "-c", SCRIPT, str(model), str(folder), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_after(process: subprocess.Popen[str], out: Path, answers: int) -> int:
    """Kill a job with SIGKILL once it has so many answers, and return how many it had in the end."""
    wait_for_answers(process, out, answers)
    process.kill()
    process.communicate()
    return count_answers(out)


def wait_for_answers(process: subprocess.Popen[str], out: Path, answers: int) -> None:
    """Return once a job has so many answers, or has ended."""
    limit = time.monotonic() + 30
    while count_answers(out) < answers and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.001)


def count_answers(out: Path) -> int:
    """Return how many answers the job of this output has, also while it runs."""
    database = f"file:{out}.unfinished/job.sqlite?mode=ro"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(database, uri=True)) as job:
        return int(job.execute("SELECT count(*) FROM files WHERE answer IS NOT NULL").fetchone()[0])
    return 0


def count_lines(path: Path) -> int:
    """Return the number of line ends in a file, 0 if there is none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    return [child.pid for child in psutil.Process(pid).children()]
