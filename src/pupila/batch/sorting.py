"""Pictures copied or linked into a folder a class. Reads the originals, never changes, moves or removes one.

Every picture keeps its file's name. Where that is taken, by another picture of the job or by a file that was there
before, its name gets the first digits of its path's hash: `cat.png`, `cat.3f9a1c2b.png`. So the same command always
chooses the same names, nothing is overwritten, and doing it again, after a kill too, changes nothing.
"""

import errno
import filecmp
import hashlib
import os
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pupila._arguments import counted, first_few
from pupila._files import NAME_BYTES, copy_file, publish, refuse_link
from pupila.batch.job import BatchJob, from_line
from pupila.batch.listing import shown_name
from pupila.errors import DataError, ImageError
from pupila.progress import printable

Placement = tuple[bytes, bytes, bytes]
"""Folder, name and path."""
UNSURE = "_unsure"
UNKNOWN = "_unknown"
DIGITS = (8, 16, 64)
"""Hash prefix lengths to try, shortest first."""
SHOWN = 3
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk that takes no more pictures."""


@dataclass(frozen=True)
class Sorting:
    """What to do with the pictures once their classes are known."""

    into: Path
    link: bool = False
    """Hard links in place of copies; symbolic links where the file system is another one."""
    min_confidence: float = 0.0
    """Less sure pictures go to `_unsure`."""
    apply: bool = False
    """False: only say what would be done."""


def placements(job: BatchJob, classes: Sequence[str], sorting: Sorting) -> Generator[Placement]:
    """Yield folder, name and path of each picture, sorted; those that could not be read stay where they are."""
    folders = folders_of(classes)

    def place(path: bytes, line: bytes) -> bytes | None:
        answer = from_line(line, classes)
        if isinstance(answer, ImageError):
            return None
        is_unsure = answer.confidence < sorting.min_confidence
        folder = UNKNOWN if answer.unknown else UNSURE if is_unsure else folders[answer.category_index]
        return os.fsencode(folder) + b"\0" + os.path.basename(path)  # noqa: PTH119 - bytes

    for key, path, _ in job.sorted_by(place):
        folder, _, name = key.partition(b"\0")
        yield folder, name, path


def folders_of(classes: Sequence[str]) -> list[str]:
    """Return a folder name a class, each different: the class's own, made harmless where a path would be."""
    names: list[str] = []
    taken: set[str] = set()
    for index, category in enumerate(classes):
        name = re.sub(r"[/\\\0]|^[._]", "-", category) or "-"
        while name.lower() in taken:
            name = f"{name}-{index}"
        names.append(name)
        taken.add(name.lower())
    return names


def sort(records: Iterable[Placement], sorting: Sorting, say: Callable[[str], None]) -> dict[str, int]:
    """Place the pictures, or say where they would go; return how many belong into each folder. Records are sorted.

    Raises DataError that names a picture that could not be placed, once all others are, and OSError for a full disk, or
    for a link in place of the folder to sort into.
    """
    refuse_link(sorting.into)
    counts: dict[str, int] = {}
    failed: list[str] = []
    verb = "link" if sorting.link else "copy"
    temporary = sorting.into / f".{hashlib.sha256(os.fsencode(sorting.into.absolute())).hexdigest()[:16]}.unfinished"
    taken: tuple[bytes, bytes] | None = None
    for folder, name, path in records:
        source, into = Path(os.fsdecode(path)), sorting.into / os.fsdecode(folder)
        is_first, taken = (folder, name) != taken, (folder, name)
        counts[into.name] = counts.get(into.name, 0) + 1
        try:
            refuse_link(into)
            target, done = _target(source, into, os.fsdecode(name), is_first)
            if sorting.apply and not done:
                _place(source, target, sorting.link, temporary)
        except OSError as error:
            if error.errno in FULL:
                raise
            failed.append(f"{shown_name(path)}: {error.strerror or error}")
            continue
        if not (sorting.apply or done):
            say(printable(f"would {verb} {source} to {target}"))
    if failed:
        raise DataError(
            f"{counted(len(failed), 'picture')} could not be placed in {sorting.into} ({first_few(failed, SHOWN)}). "
            "Mend that, or choose another folder, and give the same command again: the others are placed."
        )
    return counts


def _place(source: Path, target: Path, link: bool, temporary: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        _link(source, target)
    else:
        _copy(source, target, temporary)


def _target(source: Path, folder: Path, name: str, is_first: bool) -> tuple[Path, bool]:
    """Return where a picture goes, and whether it is there already; the first of its name in a folder keeps it."""
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()
    stem, ending = os.path.splitext(name)  # noqa: PTH122 - a name
    candidates = [name] if is_first else []
    candidates += [_fitting(stem, f".{digest[:digits]}{ending}") for digits in DIGITS]
    for candidate in candidates:
        target = folder / candidate
        if not os.path.lexists(target):
            return target, False
        if _is_same(source, target):
            return target, True
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder / candidates[-1]))


def _fitting(stem: str, end: str) -> str:
    """Join the two, with as much of the stem as a file's name may have, a letter at least, and then of the end."""
    while len(os.fsencode(stem + end)) > NAME_BYTES:
        stem, end = (stem[:-1], end) if len(stem) > 1 else (stem, end[:-1])
    return stem + end


def _is_same(source: Path, target: Path) -> bool:
    """True if the target is the picture, or a whole copy of it: what an earlier run left."""
    if not target.exists():
        return False
    return source.samefile(target) or (target.is_file() and filecmp.cmp(source, target, shallow=False))


def _copy(source: Path, target: Path, temporary: Path) -> None:
    temporary.unlink(missing_ok=True)
    try:
        copy_file(source, temporary)
    except OSError as error:
        if error.errno in FULL:  # it names the picture, which is not what is full
            error.filename = str(target)
        raise
    publish(temporary, target)
    temporary.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    original = source.resolve()
    try:
        os.link(original, target)
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without hard links
        target.symlink_to(original)
