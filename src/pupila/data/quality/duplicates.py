"""Pictures that are there twice: bit for bit, or nearly, mirrored or not.

Near ones are found by comparing all pairs, not by hashing: the correlation of 8 x 8 copies is one matrix product. Its
time grows with the square of their number: two to three minutes for 60,000 on two cores. What it proposes is confirmed
on 32 x 32 copies. How the thresholds were chosen, and what they find: docs/experiments-data.md.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila._arguments import counted
from pupila.data.dataset import Pictures
from pupila.data.sources.archive import check_memory
from pupila.progress import progress_bar

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Blocks = NDArray[np.int16]
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
"""Pictures of each part that one picture is compared with closely, at most, the likest first: scans and X-rays are all
alike from afar, and comparing all their pairs closely would take hours."""
SAME = 1e-3
"""Difference of correlations that says nothing."""
TILE = 4096
MOST = 100_000
"""Near pairs kept within the parts, and as many between them: beyond, the data set is one of nearly equal pictures
(frames of a film), no list of which helps. Ten times as many pairs of exact copies are looked at for them."""


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
    _check_room(count)
    exact = _exact([picture for part in pictures for picture in part])
    copies: dict[int, list[int]] = {}
    for pair in exact:
        copies.setdefault(pair.first, []).append(pair.second)
    fine = np.concatenate([shrink(part, FINE) for part in pictures])
    single = np.setdiff1d(np.arange(len(fine)), [pair.second for pair in exact])
    parts = np.repeat(np.arange(len(pictures)), [len(part) for part in pictures])
    close = _near(fine[single], parts[single])
    near = (replace(p, first=int(single[p.first]), second=int(single[p.second])) for p in close)
    kept = list(_at_most(MOST, near, parts))
    copied = itertools.islice(_of_copies(kept, copies), 10 * MOST)
    pairs = {(pair.first, pair.second): pair for pair in _at_most(MOST, itertools.chain(kept, copied), parts)}
    found = [*exact, *pairs.values()]
    return sorted(found, key=lambda pair: (-pair.exact, -pair.similarity, pair.first, pair.second))


def _check_room(count: int) -> None:
    """Raise DataError if the copies of so many pictures would not fit into memory."""
    check_memory(3 * FINE * FINE * 3 * count, f"The copies of {counted(count, 'picture')}", "Use fewer pictures.")


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


def _of_copies(near: Iterable[DuplicatePair], copies: Mapping[int, Sequence[int]]) -> Iterator[DuplicatePair]:
    """Yield each picture of each pair with the exact copies of the other one."""
    for pair in near:
        for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
            for copy in copies.get(other, ()):
                yield replace(pair, first=min(one, copy), second=max(one, copy))


def copies_of(pictures: Pictures, others: Pictures) -> NDArray[np.bool_]:
    """Return bool [N]: which pictures are among the others, too, bit for bit or nearly, mirrored or not.

    Raises DataError if the copies that are compared would not fit into memory.
    """
    count = len(pictures)
    _check_room(count + len(others))
    held = set(map(_digest, others))
    same = np.array([_digest(picture) in held for picture in pictures], dtype=np.bool_)
    fine = np.concatenate([shrink(pictures, FINE), shrink(others, FINE)])
    coarse, exactly = _coarse(fine), _Fine(fine)
    for top in range(0, count, TILE):
        proposed = _likest(coarse, range(top, min(top + TILE, count)), range(count, len(fine)))
        same[[pair.first for pair in _confirm(exactly, proposed)]] = True
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


def _blocks(values: Floats | Pictures, step: int) -> Floats:
    count, size = values.shape[:2]
    blocks = values.reshape(count, size // step, step, size // step, step, 3)
    return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float32))


def _exact(pictures: Sequence[Pictures]) -> list[DuplicatePair]:
    """Join each picture with the first one of the same pixels."""
    first: dict[bytes, int] = {}
    pairs = []
    for row, picture in enumerate(pictures):
        seen = first.setdefault(_digest(picture), row)
        if seen != row:
            pairs.append(DuplicatePair(seen, row, True, False, 1.0))
    return pairs


def _digest(picture: Pictures) -> bytes:
    return blake2b(np.ascontiguousarray(picture).data, digest_size=16).digest()


def _coarse(fine: Pictures) -> tuple[Floats, Floats]:
    """Return the coarse copies of pictures, and those of their mirror images."""
    return centred(shrink(fine, COARSE)), centred(shrink(np.ascontiguousarray(fine[:, :, ::-1]), COARSE))


def _near(fine: Pictures, parts: Rows) -> Iterator[DuplicatePair]:
    """Yield all pairs that the coarse copies propose and the fine ones confirm, each once. parts [N] ascend."""
    coarse, exactly = _coarse(fine), _Fine(fine)
    bounds = np.searchsorted(parts, [*np.unique(parts), np.inf])
    starts = range(0, len(fine), TILE)
    with progress_bar("comparing pictures", len(starts)) as bar:
        for top in starts:
            rows = range(top, min(top + TILE, len(fine)))
            for begin, end in itertools.pairwise(bounds.tolist()):
                yield from _confirm(exactly, _likest(coarse, rows, range(max(begin, top), end)))
            bar.update(1)


@dataclass(frozen=True, slots=True)
class _Proposed:
    """Pairs of pictures that are alike from afar, by their rows; each array [N]."""

    first: Rows
    second: Rows
    flip: NDArray[np.bool_]
    likeness: Floats

    def __getitem__(self, which: slice | Rows) -> "_Proposed":
        return _Proposed(self.first[which], self.second[which], self.flip[which], self.likeness[which])

    def __add__(self, other: "_Proposed") -> "_Proposed":
        joined = (np.concatenate(pair) for pair in zip(astuple(self), astuple(other), strict=True))
        return _Proposed(*joined)


def _likest(coarse: tuple[Floats, Floats], rows: range, others: range) -> _Proposed:
    """Return the pairs of rows with others behind them that are alike from afar, CROWD a row at most, the likest."""
    none = np.empty(0, dtype=np.int64)
    found = _Proposed(none, none, none.astype(np.bool_), none.astype(np.float32))
    for left in range(others.start, others.stop, TILE):
        columns = range(left, min(left + TILE, others.stop))
        for flip in (False, True):
            found = _crowd(found + _propose(coarse[0], coarse[flip], rows, columns, flip))
    return found


def _crowd(found: _Proposed) -> _Proposed:
    """Return the CROWD likest pairs of each row; of equal ones those that came first."""
    order = np.lexsort((-found.likeness, found.first))
    ranks = np.arange(len(order)) - np.searchsorted(found.first[order], found.first[order])
    return found[order[ranks < CROWD]]


def _propose(coarse: Floats, others: Floats, rows: range, columns: range, flip: bool) -> _Proposed:
    """Return the pairs of one tile that are alike from afar, each pair once, no picture with itself.

    They are CROWD a row at most: of pictures that are equally like, those that stand next behind it.
    """
    likeness = coarse[rows.start : rows.stop] @ others[columns.start : columns.stop].T
    close = likeness >= PROPOSED
    if columns.start < rows.stop:
        close &= np.arange(columns.start, columns.stop) > np.arange(rows.start, rows.stop)[:, np.newaxis]
    crowded = np.flatnonzero(close.sum(axis=1) > CROWD)
    if len(crowded):
        width = np.arange(close.shape[1], dtype=np.float32)
        behind = (width - width[crowded % len(width), np.newaxis]) % len(width) * np.float32(SAME / TILE)
        values = np.where(close[crowded], likeness[crowded] - behind, -1)
        likest = np.argpartition(values, -CROWD, axis=1)[:, -CROWD:]
        close[crowded] = False
        close[crowded[:, np.newaxis], likest] = True
    first, second = np.nonzero(close)
    flips = np.full(len(first), flip, dtype=np.bool_)
    return _Proposed(first + rows.start, second + columns.start, flips, likeness[first, second])


class _Fine:
    """The fine copies, and what their correlations are made of, in whole numbers: sums of pixels and of blocks.

    Without its broad shapes a picture is its pixels less the mean of their block, and centred it is its pixels less the
    mean of their colour. Both take away a projection, so that the product of two is that of their pixels less that of
    their sums, divided by the pixels of each.
    """

    def __init__(self, fine: Pictures) -> None:
        step = FINE // COARSE
        self.pixels = fine
        self.blocks = fine.reshape(-1, COARSE, step, COARSE, step, 3).sum(axis=(2, 4), dtype=np.int16)
        self.lengths = np.empty((2, len(fine)))
        for start in range(0, len(fine), TILE):
            part = slice(start, start + TILE)
            pixels, blocks = fine[part], self.blocks[part]
            self.lengths[:, part] = np.sqrt(_products(pixels, blocks, pixels, blocks))

    def correlations(self, pairs: _Proposed) -> Doubles:
        """Return [2, N], of the pictures of each pair: of the whole, and of what is left without the broad shapes.

        A picture without any is like no other.
        """
        pixels, blocks = self.pixels[pairs.second], self.blocks[pairs.second]
        for values in (pixels, blocks):
            values[pairs.flip] = values[pairs.flip][:, :, ::-1]
        products = _products(self.pixels[pairs.first], self.blocks[pairs.first], pixels, blocks)
        return np.asarray(products / np.maximum(self.lengths[:, pairs.first] * self.lengths[:, pairs.second], 1e-6))


def _products(pixels: Pictures, blocks: Blocks, other_pixels: Pictures, other_blocks: Blocks) -> Doubles:
    whole = _dot(pixels, other_pixels, np.int32)
    broad = _dot(blocks, other_blocks, np.int64) / (FINE // COARSE) ** 2
    sums, other_sums = (values.sum(axis=(1, 2), dtype=np.int64) for values in (blocks, other_blocks))
    colours = _dot(sums, other_sums, np.int64) / FINE**2
    return np.stack([whole - colours, whole - broad])


def _dot(rows: NDArray[np.integer], others: NDArray[np.integer], kind: type[np.integer]) -> NDArray[np.integer]:
    one, other = (values.reshape(len(values), -1) for values in (rows, others))
    return np.asarray(np.einsum("nd,nd->n", one, other, dtype=kind, casting="unsafe"))


def _confirm(fine: _Fine, proposed: _Proposed) -> Iterator[DuplicatePair]:
    for start in range(0, len(proposed.first), TILE):
        pairs = proposed[start : start + TILE]
        whole, detail = fine.correlations(pairs)
        for index in np.flatnonzero((whole >= CONFIRMED) & (detail >= DETAIL)).tolist():
            pair = int(pairs.first[index]), int(pairs.second[index])
            yield DuplicatePair(*pair, False, bool(pairs.flip[index]), float(whole[index]))
