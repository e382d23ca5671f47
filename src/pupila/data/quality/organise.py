"""Writes a data set as class folders in train/, valid/ and test/, split as training does. The original stays."""

import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pupila import images
from pupila._arguments import counted
from pupila._files import NAME_BYTES, copy_file
from pupila.data.dataset import Integers, Splits, split_rows
from pupila.data.layouts.labelled import LabelledFile
from pupila.data.load import OpenedSource
from pupila.data.sources.files import SourceFile, shortened
from pupila.errors import DataError
from pupila.progress import printable_lines, progress_bar

FOLDERS = {"train": "train", "validation": "valid", "test": "test"}


@dataclass(frozen=True)
class Organised:
    """What was written."""

    folder: Path
    counts: dict[str, int]
    """Pictures in train, valid and test."""
    linked: int
    """Pictures that are hard links: they share the disk space, and the content, of the original."""

    def text(self) -> str:
        """Return a summary for a terminal."""
        lines = [f"{self.folder / folder}: {counted(count, 'picture')}" for folder, count in self.counts.items()]
        lines.append(f"Hard links among them: {self.linked:,}. They take no space, and must not be edited in place.")
        return printable_lines(*lines)


def organise(
    source: str | Path,
    out: Path,
    fraction: float = 0.1,
    seed: int = 0,
    *,
    equal: bool = False,
    cache: Path | None = None,
    name_encoding: str | None = None,
) -> Organised:
    """Write class folders into `out`, which must not be there yet; hard links where possible, copies elsewhere.

    A data set without a validation part gets one: `fraction` of train, drawn with `seed` just as training does, or with
    `equal` the same number of each class (see split_rows). Pictures that cannot be read are left out.
    Raises DataError if `out` is there, lies in the source, or cannot be written.
    """
    opened = OpenedSource(source, name_encoding)
    target = _checked_target(opened, out)
    splits = opened.load(cache=cache)
    rows = _rows(splits, fraction, seed, equal)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as name:
            ready = Path(name) / "ready"
            organised = _write(splits, opened.labelled(), rows, ready)
            ready.replace(target)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror or error}). Make room, or choose another."
        ) from error
    return Organised(target, *organised)


def _checked_target(opened: OpenedSource, out: Path) -> Path:
    """Return the absolute path to write to; raises DataError if it lies in the source, or something is there."""
    target = Path(os.path.abspath(out.expanduser()))  # noqa: PTH100 - links stay as they are named
    above = (target.parent.resolve(), *target.parent.resolve().parents)
    home = opened.source.path if opened.source else None  # of a table: the folder with its pictures
    if home and home.is_dir() and home.resolve() in above:
        raise DataError(f"{out}: lies in {home}, which would then hold every picture twice. Choose a place outside.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{out}: is there already. Choose another name, so that nothing is overwritten.")
    return target


def _rows(splits: Splits, fraction: float, seed: int, equal: bool) -> dict[str, tuple[str, Integers | range]]:
    """Return, by folder, the part that it is filled from and the rows there."""
    rows: dict[str, tuple[str, Integers | range]] = {
        FOLDERS[part]: (part, range(len(data))) for part, data in splits.parts().items()
    }
    if splits.validation is None:
        train, validation = split_rows(splits.train, fraction, seed, equal=equal)
        rows |= {"train": ("train", train), "valid": ("train", validation)}
    return {folder: rows[folder] for folder in FOLDERS.values() if folder in rows}


def _write(
    splits: Splits,
    labelled: Mapping[str, Sequence[LabelledFile]],
    rows: dict[str, tuple[str, Integers | range]],
    ready: Path,
) -> tuple[dict[str, int], int]:
    linked, classes = 0, splits.train.classes
    entries = {(part, f"{i.category}/{i.name}"): i.entry for part, items in labelled.items() for i in items}
    folders = _class_folders(classes)
    with progress_bar("writing", sum(len(chosen) for _, chosen in rows.values())) as bar:
        for folder, (part, chosen) in rows.items():
            data = splits.parts()[part]
            for row in map(int, chosen):
                name, label = data.names[row], int(data.labels[row])
                entry = entries.get((part, name))
                place = ready / folder / folders[label] / _below_class(name, classes[label], entry)
                place.parent.mkdir(parents=True, exist_ok=True)
                if entry is None:
                    place.write_bytes(images.encode_png(data.images[row]))
                else:
                    linked += _place(entry, place)
                bar.update(1)
    return {folder: len(chosen) for folder, (_, chosen) in rows.items()}, linked


def _class_folders(classes: tuple[str, ...]) -> list[str]:
    names = [_safe(name) for name in classes]
    twice, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DataError(f"Two classes would both be written to the folder '{twice}'. Name one of them otherwise.")
    return names


def _below_class(name: str, category: str, entry: SourceFile | None) -> Path:
    """Return the path below the class folder; a picture that was no file gets a name of its own."""
    if entry is None:
        return Path(_safe(name.removesuffix(".png") + ".png"))
    return Path(*map(_safe, name.removeprefix(f"{category}/").split("/")))


def _safe(name: str) -> str:
    """Return a name that is one folder or file right here, and is not hidden: names in archives and tables can lie.

    Raises DataError for one that is longer than file systems take.
    """
    plain = name.replace("/", "_").replace("\\", "_").replace("\0", "_")
    plain = f"_{plain}" if plain.startswith(".") or not plain else plain
    if len(os.fsencode(plain)) > NAME_BYTES:
        raise DataError(
            f"'{shortened(name)}' has over {NAME_BYTES} bytes, as no folder or file has. Shorten that name."
        )
    return plain


def _place(entry: SourceFile, place: Path) -> bool:
    """Put a file there and return whether it is a link; two that were made one by _safe() stop."""
    if place.exists():
        raise DataError(f"{entry.name}: another picture of its class would get the same name. Rename one of them.")
    if isinstance(entry.source, bytes):
        place.write_bytes(entry.source)
        return False
    try:
        place.hardlink_to(os.path.realpath(entry.source))
    except OSError:  # another disk, or one that knows no links
        copy_file(Path(entry.source), place)
        return False
    return True
