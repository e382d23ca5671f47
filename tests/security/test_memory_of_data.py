"""A stranger's data set takes memory by its bytes: what is only listed, counted or looked at takes little."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_kit import make_folder

from pupila.data.layouts.masks import masks_beside
from pupila.data.sources.files import list_folder

MIB = 2**20


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fail if Python allocates so many bytes more meanwhile."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_large_file_that_is_named_as_a_mask_is_not_read(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"cat": 2, "dog": 2})
    with (root / "cat" / "000_mask.png").open("wb") as file:
        file.truncate(200 * MIB)
    with memory_below(10 * MIB):
        assert masks_beside(list_folder(root).entries) == []
