"""The work folder beside a job's output: all that is needed to go on after a kill. Knows nothing of pictures or tables.

    predictions.csv.unfinished/
        files       the listing: path and stamp of every file, sorted; complete if job.json is there
        job.json    model, choices a row, number of files
        rows        the journal
        result      the finished table, before it gets its name
        lock        held by the running process

A job goes on only with the same model, choices and files; any difference is an error that names it.
"""

import fcntl
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from pupila.batch.listing import Walk, differences, identities, write_listing
from pupila.errors import DataError

SUFFIX = ".unfinished"
NAMES = ("files", "files.new", "rows", "result", "job.json", "job.json.new", "lock")


@dataclass(frozen=True)
class About:
    """What must not change while a job is interrupted, and how many files it is about."""

    model: str
    version: str
    top: int
    files: int = 0
    hidden: int = 0


class Job:
    """A locked work folder: `with Job(output) as job: about = job.begin(...)`."""

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(output.name + SUFFIX)
        self.files = self.folder / "files"
        self.rows = self.folder / "rows"
        self.result = self.folder / "result"
        self._about = self.folder / "job.json"

    def __enter__(self) -> "Job":
        self.folder.mkdir(exist_ok=True)
        self._lock: BinaryIO = (self.folder / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise DataError(f"{self.folder}: another process works on it. Wait for it, or end it.") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._about.exists() or not self.rows.exists():
            self.remove()  # stopped before there was an answer to go on with
        self._lock.close()

    def begin(self, paths: Sequence[Path | str], without: Sequence[Path], about: About) -> About:
        """List the files and return what the job is about; if it was begun before, it must be about the same."""
        walk = Walk(paths, identities([*without, self.folder]))
        fresh = self.folder / "files.new"
        count = write_listing(walk, fresh)
        if not count:
            raise DataError(f"{', '.join(map(str, paths))}: holds no file that is not hidden. Give another folder.")
        if self._about.exists():
            self._check(About(**json.loads(self._about.read_text())), about, fresh)
            fresh.unlink()
        else:
            self.rows.unlink(missing_ok=True)
            fresh.replace(self.files)
            self._save(About(about.model, about.version, about.top, count, walk.hidden))
        return About(**json.loads(self._about.read_text()))

    def _save(self, about: About) -> None:
        temporary = self.folder / "job.json.new"
        temporary.write_text(json.dumps(asdict(about)))
        temporary.replace(self._about)

    def _check(self, before: About, now: About, fresh: Path) -> None:
        found = []
        if before.version != now.version:
            found.append(f"model: {before.model!r} {before.version} then, {now.model!r} {now.version} now")
        if before.top != now.top:
            found.append(f"choices a row (--top): {before.top} then, {now.top} now")
        found += [f"files {difference}" for difference in differences(self.files, fresh)]
        if found:
            fresh.unlink()
            raise DataError(
                f"{self.folder}: the job was begun with something else ({'; '.join(found)}). "
                "Go on with what it was begun with, or remove that folder to begin anew."
            )

    def published_as(self, output: Path) -> bool:
        """True if the output is there, and is this job's result: the process was stopped after giving it its name."""
        return self.result.exists() and output.exists() and os.path.samefile(self.result, output)  # noqa: PTH121

    def remove(self) -> None:
        """Remove what the job wrote, and the folder if nothing else is in it."""
        for name in sorted(NAMES, key=lambda name: name != "job.json"):  # without it, the rest counts as nothing
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
