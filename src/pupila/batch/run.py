"""One batch job, from paths to a table or to sorted folders."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pupila._arguments import counted
from pupila._files import publish, sync
from pupila._workers import usable_cores
from pupila.batch import table
from pupila.batch.job import About, BatchJob
from pupila.batch.listing import shown_name
from pupila.batch.sorting import Sorting, placements, sort
from pupila.batch.worker import Workers
from pupila.data.sources.archive import room_for
from pupila.errors import DataError, ImageError
from pupila.images.process import MEMORY
from pupila.predictor import COPIES, Predictor
from pupila.progress import printable_lines, progress_bar

CHUNK = 64
"""Files that a process is given at a time, and that a kill can make it do again: two calls of the session."""
FAILURES_SHOWN = 3


@dataclass
class Summary:
    """The outcome of a job; every number is of files."""

    files: int
    hidden: int
    """Passed over; a hidden folder counts as one."""
    resumed: int
    """Answered before this run."""
    seconds: float = 0.0
    """This run's, without the resumed ones."""
    failed: int = 0
    unknown: int = 0
    categories: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """The first few paths that could not be read, and why."""
    out: Path | None = None
    sorted_into: Path | None = None
    applied: bool = False
    folders: dict[str, int] = field(default_factory=dict)
    kept: Path | None = None
    """Where the answers wait for --apply."""

    @property
    def files_per_second(self) -> float:
        """Files answered by this run, by the time that it took."""
        return (self.files - self.resumed) / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return all of it with a JSON form."""
        fields = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        return {**fields, "files_per_second": self.files_per_second}

    def to_text(self) -> str:
        """Return a few lines."""
        lines = [f"{counted(self.files, 'file')} done in {self.seconds:.1f} s ({self.files_per_second:,.0f} files/s)"]
        if self.resumed:
            lines[0] += f", {self.resumed:,} of them answered before"
        if self.hidden:
            lines.append(f"Hidden files and folders passed over: {self.hidden:,}")
        if self.failed:
            lines += [f"{self.failed:,} could not be read:", *(f"  {failure}" for failure in self.failures)]
        lines += [f"{category:20} {count:9,}" for category, count in self.categories.items()]
        if self.out is not None:
            lines.append(f"Written: {self.out}")
        return printable_lines(*lines, *self._sorting_lines())

    def _sorting_lines(self) -> list[str]:
        if self.sorted_into is None:
            return []
        counts = ", ".join(f"{folder} {count:,}" for folder, count in self.folders.items())
        if self.applied:
            return [f"Sorted into {self.sorted_into}: {counts}"]
        return [
            f"A dry run: nothing was sorted. {self.sorted_into} would hold: {counts}",
            f"Add --apply to do it; the answers wait for that in {self.kept}.",
        ]


class Mapper(Protocol):
    """Answers chunks of paths: yields each chunk and its lines of answers, in order, each once."""

    def answers(self, chunks: Iterator[list[str]]) -> Iterator[tuple[list[str], bytes]]:
        """Answer each chunk of paths."""


Crew = Callable[[int, Path, str, int], AbstractContextManager[Mapper]]
"""Makes a mapper for (processes, model file, its version, choices a picture): `Workers`, or a cluster's."""


def predict_all(
    model: Path,
    paths: Sequence[Path | str],
    out: Path | None = None,
    *,
    top: int = 1,
    kaggle_format: bool = False,
    excel: bool = False,
    sorting: Sorting | None = None,
    say: Callable[[str], None] = print,
    crew: Crew = Workers,
) -> Summary:
    """Answer every file at or below `paths`, write the table `out`, and sort the pictures; at least one of the two.

    Killed at any time, the same call goes on where it stopped. `say` gets the lines of a dry run of sorting.
    `crew` makes the processes that answer.
    Raises ModelError, DataError, or MissingExtraError; a picture that cannot be read is a row and not an error.
    """
    own = [path for path in (out, sorting.into if sorting else None) if path is not None]
    if not own:
        raise ValueError("Give out, sorting, or both.")
    job = BatchJob(own[0])
    with _named_faults(job, own[0]):
        write = None if out is None else table.writer_for(out, excel, kaggle_format)
        if out is not None and os.path.lexists(out) and not job.published_as(out):
            raise DataError(f"{out}: is there already, and is not overwritten. Give another name, or remove it.")
        with job:
            classes, asked = _verified(model, top)
            begun = time.perf_counter()
            about = job.begin(paths, own, asked)
            if kaggle_format and out is not None:
                table.check_submission(job)
            summary = Summary(about.files, about.hidden, _answer(job, about, model, crew), out=out)
            if out is not None and write is not None and not job.published_as(out):
                job.result.unlink(missing_ok=True)
                write(job.result, *table.content(job, classes, about.top, kaggle_format))
                sync(job.result)
                publish(job.result, out)
            _count(job, classes, summary)
            if sorting is not None:
                with contextlib.closing(placements(job, classes, sorting)) as records:  # before the database
                    summary.folders = sort(records, sorting, say)
                summary.sorted_into, summary.applied = sorting.into, sorting.apply
                summary.kept = None if sorting.apply else job.folder
            summary.seconds = time.perf_counter() - begun
            if sorting is None or sorting.apply:
                job.remove()
            return summary


@contextlib.contextmanager
def _named_faults(job: BatchJob, output: Path) -> Iterator[None]:
    """Turn what the system and SQLite raise into DataError with what to do."""
    again = "When that is mended, give the same command again: it goes on where it stopped."
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or output}: {error.strerror}. {again}") from error
    except sqlite3.Error as error:
        fix = "If the folder is damaged, remove it to begin anew."
        raise DataError(f"{job.folder}: {error}. {again} {fix}") from error


def _verified(model: Path, top: int) -> tuple[Sequence[str], About]:
    """Return the model's classes, and what the job is about; raises ModelError."""
    predictor = Predictor.load(model)
    manifest = predictor.manifest
    return manifest.classes, About(manifest.name, predictor.version, min(top, len(manifest.classes)))


def _answer(job: BatchJob, about: About, model: Path, crew: Crew) -> int:
    """Answer the files that are not answered yet, and return how many were."""
    before = job.answered()
    left = about.files - before
    if left:
        each = MEMORY + COPIES * model.stat().st_size
        count = int(min(usable_cores(), -(-left // CHUNK), room_for(each)))
        with crew(count, model, about.version, about.top) as workers, progress_bar("predicting", left) as bar:
            for paths, lines in workers.answers(job.unanswered(CHUNK)):
                job.answer(paths, lines)
                bar.update(len(paths))
    return before


def _count(job: BatchJob, classes: Sequence[str], summary: Summary) -> None:
    counts = [0] * len(classes)
    for path, answer in job.answers(classes):
        if isinstance(answer, ImageError):
            summary.failed += 1
            if summary.failed <= FAILURES_SHOWN:
                summary.failures.append(f"{shown_name(path)}: {answer}")
        else:
            summary.unknown += answer.unknown
            counts[answer.category_index] += 1
    summary.categories = dict(zip(classes, counts, strict=True))
