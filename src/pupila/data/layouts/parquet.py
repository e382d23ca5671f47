"""Parquet files as Hugging Face writes them: a column of picture bytes, a column of labels, the split in the name."""

import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pupila._arguments import counted
from pupila.data.dataset import SkippedFiles
from pupila.data.decode import MAX_ROWS, check_rows
from pupila.data.layouts.labelled import DetectedLayout, LabelledFile, some, sort_labelled, splits_of_files
from pupila.data.sources.archive import RATIO, RATIO_FROM, TOTAL_BYTES, free_memory
from pupila.data.sources.files import SourceFile, parts_of, shortened
from pupila.errors import DataError, MissingExtraError

IMAGE_COLUMNS = ("image", "img", "picture", "photo")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category", "target")
LEAST_BYTES, BATCH, THRIFT_BYTES = 2**30, 64, 16 * 2**20
"""Memory that reading takes beside the pictures, rows at once, and bytes of one file's description."""
MAX_PARTS = 20
"""Of a column: a picture has its bytes and a path."""
POOL = "ARROW_DEFAULT_MEMORY_POOL"
OUT_OF_MEMORY = ("bad_alloc", "Failed to launch worker thread")


class Budget:
    """What all parquet files of one data set together may have in rows and take in memory."""

    def __init__(self, where: str, packed: int) -> None:
        """`packed`: bytes of the files; a message begins with `where`."""
        free = free_memory()
        room = free - LEAST_BYTES if math.isfinite(free) else TOTAL_BYTES
        self._where, self._rows, self._likely = where, 0, max(RATIO_FROM, RATIO * packed)
        self.bytes = int(min(self._likely, max(RATIO_FROM, room)))
        self._bytes_left = self.bytes

    def check_rows(self, count: int) -> None:
        """Raise DataError if with so many more rows the files have more than they may."""
        check_rows(self._rows + count, self._where)

    def take_rows(self, count: int) -> None:
        """Count rows that are read; raises as check_rows() does."""
        self._rows += count
        check_rows(self._rows, self._where)

    def take_bytes(self, count: int) -> None:
        """Raise DataError if the pictures take more than there is, or than such files hold."""
        self._bytes_left -= count
        if self._bytes_left >= 0:
            return
        mib = self.bytes / 2**20
        if self.bytes == self._likely:
            raise DataError(
                f"{self._where}: its pictures unpack to over {mib:,.0f} MiB, far more than its files have. "
                "Give each picture once, as JPEG or PNG."
            )
        raise DataError(
            f"{self._where}: its pictures need over {mib:,.0f} MiB of memory. Use fewer of them, or a machine with "
            "more memory."
        )


@contextmanager
def _limited_memory(count: int) -> Iterator[None]:
    """Let this process take at most so many bytes more, on Linux: what is beyond fails as MemoryError does."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    except (ImportError, OSError, ValueError, IndexError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = pages * os.sysconf("SC_PAGE_SIZE") + count
    allowed = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def is_parquet(entries: Sequence[SourceFile]) -> bool:
    """True if there are parquet files among the entries."""
    return any(entry.ending == ".parquet" for entry in entries)


def by_parquet(entries: Sequence[SourceFile], where: str) -> DetectedLayout:
    """Take pictures and labels from the parquet files among the entries, in their order.

    Raises DataError if a file has no such columns, is damaged, or is of no known split beside others that are, or if
    none is of the training split; MissingExtraError without pyarrow.
    """
    files = sorted((entry for entry in entries if entry.ending == ".parquet"), key=lambda entry: entry.parts)
    splits: dict[str, list[LabelledFile]] = {}
    skipped = SkippedFiles()
    named, arrow = _splits(files, where), _pyarrow()
    budget = Budget(where, sum(file.packed() for file in files))
    reserved = 0 if arrow.default_memory_pool().backend_name == "system" else LEAST_BYTES
    with _limited_memory(budget.bytes + LEAST_BYTES + reserved):
        for file, split in zip(files, named, strict=True):
            for labelled in _read(arrow, file, f"{where}: {file.name}", budget):
                if labelled.entry.source == b"" or not labelled.category:
                    missing = "label" if labelled.entry.source else "bytes of a picture"
                    skipped.add(labelled.entry.name, f"Its row holds no {missing}.")
                else:
                    splits.setdefault(split, []).append(labelled)
    if not splits.get("train"):
        raise DataError(f"{where}: {files[0].name} holds no training pictures. Add one, named train.parquet.")
    return DetectedLayout("parquet", sort_labelled(splits), skipped=skipped)


def _splits(files: Sequence[SourceFile], where: str) -> list[str]:
    """Return the split of each file, by its name or its folder's; where none tells, all are for training."""
    splits = splits_of_files(files)
    unknown = [file.name for file, split in zip(files, splits, strict=True) if not split]
    if unknown and len(unknown) < len(files):
        raise DataError(
            f"{where}: the names of {some(unknown)} tell no split, and those of other files do. Begin them with train, "
            "validation or test, or move them away."
        )
    return [split or "train" for split in splits]


def _pyarrow() -> Any:
    """Return pyarrow with its own memory pool left out, where it is not yet loaded: that reserves 1 GiB at once."""
    os.environ.setdefault(POOL, "system")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("Reading parquet", "parquet") from error
    return pyarrow


def _read(arrow: Any, file: SourceFile, where: str, budget: Budget) -> list[LabelledFile]:
    """Read one file; the budget is that of all files."""
    source = io.BytesIO(file.source) if isinstance(file.source, bytes) else file.source
    limits = {"thrift_string_size_limit": THRIFT_BYTES, "thrift_container_size_limit": MAX_ROWS}
    try:
        with arrow.parquet.ParquetFile(source, **limits) as opened:
            budget.check_rows(opened.metadata.num_rows)
            names = opened.schema_arrow.names
            leaves = [opened.schema.column(number) for number in range(len(opened.schema))]
            parts = Counter(leaf.path.partition(".")[0] for leaf in leaves)
            several = {leaf.path.partition(".")[0] for leaf in leaves if leaf.max_repetition_level}
            several |= {column for column, count in parts.items() if count > MAX_PARTS}
            image, label = _column(names, IMAGE_COLUMNS, where), _column(names, LABEL_COLUMNS, where)
            for column in {image, label} & several:  # what holds nothing has no bytes that a budget could count
                raise DataError(
                    f"{where} has lists or over {MAX_PARTS} parts in the column '{column}'. Keep one picture and one "
                    "label a row."
                )
            classes = _class_names(opened.schema_arrow.metadata or {}, label)
            return _rows(opened, image, label, classes, file, where, budget)
    except (arrow.ArrowException, MemoryError, OSError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise DataError(f"{where} needs far more memory than its size. Cut it into several files.") from error
        raise DataError(f"{where} is cut off or damaged ({shortened(error)}). Copy or download it again.") from error


def _rows(
    opened: Any, image: str, label: str, classes: Sequence[str], file: SourceFile, where: str, budget: Budget
) -> list[LabelledFile]:
    found: list[LabelledFile] = []
    # It is closed while the error is handled: later the interpreter could only print what goes wrong with that.
    with closing(opened.iter_batches(batch_size=BATCH, columns=[image, label], use_threads=False)) as batches:
        for batch in batches:
            budget.take_rows(batch.num_rows)
            budget.take_bytes(batch.nbytes)
            cells = batch.column(batch.schema.get_field_index(image)).to_pylist()
            labels = _names(batch.column(batch.schema.get_field_index(label)).to_pylist(), classes, where)
            for category, cell in zip(labels, cells, strict=True):
                name = f"{file.name}/{len(found):07d}"
                found.append(LabelledFile(category, name, SourceFile(parts_of(name), _picture(cell, where))))
    if len(found) != opened.metadata.num_rows:
        raise ValueError(f"it has {counted(len(found), 'row')}, and says {opened.metadata.num_rows:,}")
    return found


def _column(present: Sequence[str], names: Sequence[str], where: str) -> str:
    for name in names:
        if name in present:
            return name
    raise DataError(f"{where} has the columns {some(present)}. Name one of them '{names[0]}'.")


def _picture(cell: Any, where: str) -> bytes:
    """A picture is bytes, or Hugging Face's pair of bytes and path."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if data is not None and not isinstance(data, bytes):
        raise DataError(f"{where} holds no bytes of pictures. Save the data set with its pictures embedded.")
    return data or b""


def _class_names(metadata: dict[bytes, bytes], column: str) -> list[str]:
    """Return the names that Hugging Face's `datasets` writes beside a column of numbers; empty if it wrote none."""
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        return [str(name) for name in feature["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _names(labels: Sequence[Any], names: Sequence[str], where: str) -> list[str]:
    """Turn labels into class names, empty where there is none: -1 is what public test sets hide theirs behind.

    Labels that are no whole numbers are names themselves, whatever a program that changed them has left beside them.
    """
    numbered = bool(names) and all(label is None or isinstance(label, int) for label in labels)
    if numbered and not all(label is None or -1 <= label < len(names) for label in labels):
        raise DataError(f"{where} has labels beyond its {len(names)} class names. Name all classes in its metadata.")
    if numbered:
        return ["" if label in (None, -1) else names[label] for label in labels]
    texts = (label.decode("utf-8", "replace") if isinstance(label, bytes) else label for label in labels)
    return ["" if text in (None, -1) else str(text) for text in texts]
