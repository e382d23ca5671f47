"""Pictures that are there twice: bit for bit, or nearly, mirrored or not.

Near ones are found by comparing all pairs, not by hashing: the correlation of 8 x 8 copies is one matrix product. Its
time grows with the square of their number: two to three minutes for 60,000 on two cores. What it proposes is confirmed
on 32 x 32 copies. How the thresholds were chosen, and what they find: docs/experiments-data.md.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila._arguments import counted
from pupila.data.dataset import Pictures
from pupila.data.sources.archive import check_memory
from pupila.progress import progress_bar

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

COARSE = 8
FINE = 32
"""Pixels a side of the copies that propose and that confirm."""
PROPOSED = 0.95
"""Correlation of the coarse copies from which the fine ones are compared."""
CONFIRMED = 0.9
"""Correlation of the fine copies from which two pictures count as one."""
DETAIL = 0.8
"""And of what is left of them without their coarse shapes: two skies are alike in those, and in nothing else."""
CROWD = 16
"""Pictures of a tile that one picture is compared with, at most, the likest first: scans and X-rays are all alike from
afar, and comparing all their pairs closely would take hours."""
SAME = 1e-3
"""Difference of correlations that says nothing."""
TILE = 4096
MOST = 100_000
"""Near pairs kept within the parts, and as many between them: beyond, the data set is one of nearly equal pictures
(frames of a film), no list of which helps."""


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Two pictures that are one, by their rows; first < second."""

    first: int
    second: int
    exact: bool
    """The network sees the same pixels, bit for bit."""
    mirrored: bool
    similarity: float
    """Correlation of the fine copies, 1 for exact ones."""


def find_duplicates(pictures: Sequence[Pictures]) -> list[DuplicatePair]:
    """Return the pairs among the pictures of several parts, taken one after the other; the most similar first.

    Of pictures with the same pixels each is paired with the first one. That one alone is compared with others, and what
    is found is paired with all of them. In a crowd of pictures that are all alike each has its likest pairs only.
    Raises DataError if the copies that are compared would not fit into memory.
    """
    count = sum(map(len, pictures))
    check_memory(3 * FINE * FINE * 3 * count, f"The copies of {counted(count, 'picture')}", "Use fewer pictures.")
    exact = _exact([picture for part in pictures for picture in part])
    copies: dict[int, list[int]] = {}
    for pair in exact:
        copies.setdefault(pair.first, []).append(pair.second)
    fine = np.concatenate([shrink(part, FINE) for part in pictures])
    single = np.setdiff1d(np.arange(len(fine)), [pair.second for pair in exact])
    near = (replace(p, first=int(single[p.first]), second=int(single[p.second])) for p in _near(fine[single]))
    parts = np.repeat(np.arange(len(pictures)), [len(part) for part in pictures])
    pairs = {(pair.first, pair.second): pair for pair in _at_most(MOST, _with_copies(near, copies), parts)}
    found = [*exact, *pairs.values()]
    return sorted(found, key=lambda pair: (-pair.exact, -pair.similarity, pair.first, pair.second))


def _at_most(most: int, pairs: Iterable[DuplicatePair], parts: Rows) -> Iterator[DuplicatePair]:
    """Yield so many pairs within the parts, and so many between them: those are what tells of leaks."""
    left = {True: most, False: most if len(np.unique(parts)) > 1 else 0}
    for pair in pairs:
        within = bool(parts[pair.first] == parts[pair.second])
        if left[within]:
            left[within] -= 1
            yield pair
        elif not any(left.values()):
            return


def _with_copies(near: Iterable[DuplicatePair], copies: Mapping[int, Sequence[int]]) -> Iterator[DuplicatePair]:
    """Yield each pair, and with each of its pictures the exact copies of the other one."""
    for pair in near:
        yield pair
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            for copy in copies.get(other, ()):
                yield replace(pair, first=min(one, copy), second=max(one, copy))


def copies_of(pictures: Pictures, others: Pictures) -> NDArray[np.bool_]:
    """Return bool [N]: which pictures are among the others, too, bit for bit or nearly, mirrored or not."""
    count = len(pictures)
    held = {picture.tobytes() for picture in others}
    same = np.array([picture.tobytes() in held for picture in pictures], dtype=np.bool_)
    fine = np.concatenate([shrink(pictures, FINE), shrink(others, FINE)])
    coarse = centred(shrink(fine, COARSE))
    mirrored = centred(shrink(np.ascontiguousarray(fine[:, :, ::-1]), COARSE))
    for top, left in itertools.product(range(0, count, TILE), range(count, len(fine), TILE)):
        for flip, rows in ((False, coarse), (True, mirrored)):
            same[[pair.first for pair in _confirm(fine, _propose(coarse[:count], rows, top, left), flip)]] = True
    return same


def shrink(pictures: Pictures, side: int) -> Pictures:
    """Return uint8 [N, side, side, 3]: the mean of each block where the size allows, as a resize otherwise."""
    size = pictures.shape[1]
    if size == side:
        return pictures
    if size % side:
        return np.stack([images.resize(picture, side) for picture in pictures])
    small = np.empty((len(pictures), side, side, 3), dtype=np.uint8)
    for start in range(0, len(pictures), TILE):
        part = pictures[start : start + TILE]
        small[start : start + TILE] = _blocks(part, size // side) + 0.5
    return small


def centred(pictures: Pictures) -> Floats:
    """Return float32 [N, H*W*3] of length 1, each colour less its mean: their product is the correlation.

    A picture of one colour becomes zeros, and is like no other.
    """
    flat = pictures.reshape(len(pictures), -1, 3).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    rows = flat.reshape(len(pictures), -1)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def detail(pictures: Pictures) -> Floats:
    """Return float32 [N, H*W*3] of length 1: what changes from one pixel to the next, without the broad shapes."""
    values = pictures.astype(np.float32)
    broad = np.repeat(np.repeat(_blocks(values, 4), 4, axis=1), 4, axis=2)
    rows = (values - broad).reshape(len(pictures), -1)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def _blocks(values: Floats | Pictures, step: int) -> Floats:
    count, size = values.shape[:2]
    blocks = values.reshape(count, size // step, step, size // step, step, 3)
    return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float32))


def _exact(pictures: Sequence[Pictures]) -> list[DuplicatePair]:
    """Join each picture with the first one of the same pixels."""
    first: dict[bytes, int] = {}
    pairs = []
    for row, picture in enumerate(pictures):
        seen = first.setdefault(blake2b(np.ascontiguousarray(picture).data, digest_size=16).digest(), row)
        if seen != row:
            pairs.append(DuplicatePair(seen, row, True, False, 1.0))
    return pairs


def _near(fine: Pictures) -> Iterator[DuplicatePair]:
    """Yield all pairs that the coarse copies propose and the fine ones confirm; every pair of tiles once."""
    coarse = centred(shrink(fine, COARSE))
    mirrored = centred(shrink(np.ascontiguousarray(fine[:, :, ::-1]), COARSE))
    starts = range(0, len(fine), TILE)
    with progress_bar("comparing pictures", len(starts) * (len(starts) + 1) // 2) as bar:
        for top in starts:
            for left in range(top, len(fine), TILE):
                for flip, others in ((False, coarse), (True, mirrored)):
                    yield from _confirm(fine, _propose(coarse, others, top, left), flip)
                bar.update(1)


def _propose(coarse: Floats, others: Floats, top: int, left: int) -> tuple[Rows, Rows]:
    """Return the rows of the pairs in one tile that are alike from afar, each pair once, no picture with itself.

    They are CROWD a row at most: of pictures that are equally like, those that stand next behind it.
    """
    likeness = coarse[top : top + TILE] @ others[left : left + TILE].T
    close = likeness >= PROPOSED
    if top == left:
        close = np.triu(close, 1)
    crowded = np.flatnonzero(close.sum(axis=1) > CROWD)
    if len(crowded):
        columns = np.arange(close.shape[1], dtype=np.float32)
        behind = (columns - columns[crowded % len(columns), np.newaxis]) % len(columns) * np.float32(SAME / TILE)
        values = np.where(close[crowded], likeness[crowded] - behind, -1)
        likest = np.argpartition(values, -CROWD, axis=1)[:, -CROWD:]
        close[crowded] = False
        close[crowded[:, np.newaxis], likest] = True
    first, second = np.nonzero(close)
    return first + top, second + left


def _confirm(fine: Pictures, proposed: tuple[Rows, Rows], flip: bool) -> Iterator[DuplicatePair]:
    for start in range(0, len(proposed[0]), TILE):
        first, second = (rows[start : start + TILE] for rows in proposed)
        one, other = fine[first], fine[second][:, :, ::-1] if flip else fine[second]
        whole = np.einsum("nd,nd->n", centred(one), centred(other))
        small = np.einsum("nd,nd->n", detail(one), detail(other))
        for index in np.flatnonzero((whole >= CONFIRMED) & (small >= DETAIL)):
            yield DuplicatePair(int(first[index]), int(second[index]), False, flip, float(whole[index]))
