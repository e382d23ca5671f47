"""One batch job, from paths to a table or to sorted folders."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from pupila._cpus import usable_cores
from pupila._files import publish, sync
from pupila.batch import kaggle, table
from pupila.batch.job import About, BatchJob
from pupila.batch.sorting import Sorting, carry_out, plan, records_of
from pupila.batch.summary import FAILURES_SHOWN, Summary
from pupila.batch.workers import Ahead, VerifiedModel, Workers
from pupila.errors import DataError
from pupila.progress import Progress

CHUNK = 64
"""Files that a process is given at a time, and that a kill can make it do again: two calls of the session."""


class Mapper(Protocol):
    """Answers chunks of paths: yields each chunk and its lines of answers, in order, each once."""

    def map(self, chunks: Iterator[list[str]]) -> Iterator[tuple[list[str], bytes]]:
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

    Killed at any time, the same call goes on where it stopped. `say` is told what a dry run of sorting would do.
    `crew` makes the processes that answer.
    Raises ModelError, DataError, or MissingExtraError; a picture that cannot be read is a row and not an error.
    """
    output = out or (sorting.into if sorting else None)
    if output is None:
        raise ValueError("Give out, sorting, or both.")
    job = BatchJob(output)
    try:
        if out is not None:
            table.writer_for(out, excel)
            if os.path.lexists(out) and not job.published_as(out):
                raise DataError(f"{out}: is there already, and is not overwritten. Give another name, or remove it.")
        with job, Ahead(model, top) if crew is Workers else nullcontext(crew) as crew:
            known = crew.verified() if isinstance(crew, Ahead) else _verified(model)
            return _run(job, known, paths, out, top, kaggle_format, excel, sorting, say, crew)
    except OSError as error:
        raise DataError(
            f"{error.filename or output}: {error.strerror}. When that is mended, give the same command again: "
            "it goes on where it stopped."
        ) from error
    except sqlite3.Error as error:
        raise DataError(
            f"{job.folder}: {error}. When that is mended, give the same command again: it goes on where it stopped. "
            "If the folder is damaged, remove it to begin anew."
        ) from error


def _verified(path: Path) -> VerifiedModel:
    from pupila.predictor import Predictor  # not above: where our own processes do this, they alone need its runtime

    predictor = Predictor.load(path)
    return VerifiedModel(path, predictor.version, predictor.manifest.name, predictor.manifest.classes)


def _run(
    job: BatchJob,
    model: VerifiedModel,
    paths: Sequence[Path | str],
    out: Path | None,
    top: int,
    kaggle_format: bool,
    excel: bool,
    sorting: Sorting | None,
    say: Callable[[str], None],
    crew: Crew,
) -> Summary:
    begun = time.perf_counter()
    top = min(top, len(model.classes))
    own = [path for path in (out, sorting.into if sorting else None) if path is not None]
    about = job.begin(paths, own, About(model.name, model.version, top))
    if kaggle_format and out is not None:
        kaggle.check(out, job)
    summary = Summary(about.files, about.hidden, _answer(job, about, model, crew), out=out)
    if out is not None and not job.published_as(out):
        _write(job, model, top, out, kaggle_format, excel)
    _count(job, model, summary)
    if sorting is not None:
        _sort(job, model, sorting, say, summary)
    summary.seconds = time.perf_counter() - begun
    if sorting is None or sorting.apply:
        job.remove()
    return summary


def _answer(job: BatchJob, about: About, model: VerifiedModel, crew: Crew) -> int:
    """Answer the files that are not answered yet, and return how many were."""
    before = job.answered()
    left = about.files - before
    if left:
        count = min(usable_cores(), -(-left // CHUNK))
        with crew(count, model.path, model.version, about.top) as workers, Progress("predicting", left) as bar:
            for paths, lines in workers.map(job.unanswered(CHUNK)):
                job.answer(paths, lines)
                bar.advance(len(paths))
    return before


def _write(job: BatchJob, model: VerifiedModel, top: int, out: Path, kaggle_format: bool, excel: bool) -> None:
    job.result.unlink(missing_ok=True)
    if kaggle_format:
        kaggle.write(job.result, job, model.classes)
    else:
        rows = (table.row(path, answer, model.classes, top) for path, answer in job.answers())
        table.writer_for(out, excel)(job.result, table.columns(top), rows)
    sync(job.result)
    publish(job.result, out)


def _count(job: BatchJob, model: VerifiedModel, summary: Summary) -> None:
    counts = [0] * len(model.classes)
    for path, answer in job.answers():
        if answer.code:
            summary.failed += 1
            if summary.failed <= FAILURES_SHOWN:
                summary.failures.append(f"{path.decode(errors='backslashreplace')}: {answer.error}")
        else:
            summary.unknown += answer.unknown
            counts[answer.choices[0][0]] += 1
    summary.categories = dict(zip(model.classes, counts, strict=True))


def _sort(job: BatchJob, model: VerifiedModel, sorting: Sorting, say: Callable[[str], None], summary: Summary) -> None:
    records = job.in_order(records_of(job.answers(), model.classes, sorting))
    summary.folders = carry_out(plan(records, sorting), sorting, say)
    summary.sorted_into, summary.applied = sorting.into, sorting.apply
    summary.kept = None if sorting.apply else job.folder
