"""One batch job from paths to a table or sorted folders: reads top to bottom. Knows nothing of command lines."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from pupila._cpus import usable_cores
from pupila.batch import journal, kaggle, spool, table
from pupila.batch.answer import Answer
from pupila.batch.job import About, Job
from pupila.batch.journal import Journal
from pupila.batch.publish import publish
from pupila.batch.sorting import Sorting, carry_out, plan
from pupila.batch.summary import FAILURES_SHOWN, Summary
from pupila.batch.workers import Ahead, Model, Workers
from pupila.errors import DataError
from pupila.progress import Progress

CHUNK = 64
"""Files that a process is given at a time, and that a kill can make it do again: two calls of the session."""


class Mapper(Protocol):
    """Answers chunks of paths: yields the number of files and the journal's lines of each, in order, each once."""

    def map(self, chunks: Iterator[list[str]]) -> Iterator[tuple[int, bytes]]:
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
    job = Job(output)
    try:
        if out is not None:
            table.writer_for(out)
            if os.path.lexists(out) and not job.published_as(out):
                raise DataError(f"{out}: is there already, and is not overwritten. Give another name, or remove it.")
        with job, Ahead(model, top) if crew is Workers else nullcontext(crew) as crew:
            known = crew.verified() if isinstance(crew, Ahead) else _verified(model)
            return _run(job, known, paths, out, top, kaggle_format, sorting, say, crew)
    except OSError as error:
        raise DataError(
            f"{error.filename or output}: {error.strerror}. When that is mended, give the same command again: "
            "it goes on where it stopped."
        ) from error


def _verified(path: Path) -> Model:
    from pupila.predictor import Predictor  # not above: where our own processes do this, they alone need its runtime

    predictor = Predictor.load(path)
    return Model(path, predictor.version, predictor.manifest.name, predictor.manifest.classes)


def _run(
    job: Job,
    model: Model,
    paths: Sequence[Path | str],
    out: Path | None,
    top: int,
    kaggle_format: bool,
    sorting: Sorting | None,
    say: Callable[[str], None],
    crew: Crew,
) -> Summary:
    begun = time.perf_counter()
    top = min(top, len(model.classes))
    own = [path for path in (out, sorting.into if sorting else None) if path is not None]
    about = job.begin(paths, own, About(model.name, model.version, top))
    if kaggle_format and out is not None:
        kaggle.check(out, job.files)
    summary = Summary(about.files, about.hidden, _answer(job, about, model, crew), out=out)
    if out is not None and not job.published_as(out):
        _write(job, model, top, out, kaggle_format)
    _count(job, model, summary)
    if sorting is not None:
        _sort(job, model, sorting, say, summary)
    summary.seconds = time.perf_counter() - begun
    if sorting is None or sorting.apply:
        job.remove()
    return summary


def _answer(job: Job, about: About, model: Model, crew: Crew) -> int:
    """Answer the files that are not answered yet, and return how many were."""
    with Journal(job.rows) as rows:
        left = about.files - rows.count
        if left <= 0:
            return rows.count
        files = itertools.islice(spool.read_path(job.files), rows.count, None)
        count = min(usable_cores(), -(-left // CHUNK))
        with crew(count, model.path, model.version, about.top) as workers, Progress("predicting", left) as bar:
            for done, lines in workers.map(_chunks(os.fsdecode(path) for path, _ in files)):
                rows.append(lines)
                bar.advance(done)
        return rows.count


def _chunks(paths: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(itertools.islice(paths, CHUNK)):
        yield chunk


def _answers(job: Job) -> Iterator[tuple[bytes, Answer]]:
    files = (path for path, _ in spool.read_path(job.files))
    return zip(files, journal.read(job.rows), strict=True)


def _write(job: Job, model: Model, top: int, out: Path, kaggle_format: bool) -> None:
    job.result.unlink(missing_ok=True)
    if kaggle_format:
        kaggle.write(job.result, _answers(job), model.classes)
    else:
        rows = (table.row(path, answer, model.classes, top) for path, answer in _answers(job))
        table.writer_for(out)(job.result, table.columns(top), rows)
    with job.result.open("rb") as file:
        os.fsync(file.fileno())
    publish(job.result, out)


def _count(job: Job, model: Model, summary: Summary) -> None:
    counts = [0] * len(model.classes)
    for path, answer in _answers(job):
        if answer.code:
            summary.failed += 1
            if summary.failed <= FAILURES_SHOWN:
                summary.failures.append(f"{path.decode(errors='backslashreplace')}: {answer.error}")
        else:
            summary.unknown += answer.unknown
            counts[answer.choices[0][0]] += 1
    summary.categories = dict(zip(model.classes, counts, strict=True))


def _sort(job: Job, model: Model, sorting: Sorting, say: Callable[[str], None], summary: Summary) -> None:
    moves = plan(_answers(job), model.classes, sorting, job.folder)
    summary.folders = carry_out(moves, sorting, say)
    summary.sorted_into, summary.applied = sorting.into, sorting.apply
    summary.kept = None if sorting.apply else job.folder
