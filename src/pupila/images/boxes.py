"""Bounds what decoding a HEIC or AVIF file may cost: both are boxes (ISO 14496-12) that describe items (23008-12).

A picture may be put together from tiles, and a few bytes can name the same big tile thousands of times. Boxes are
walked through in a loop; what makes no sense is left to the decoder.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pupila.images.limits import SLACK, ExcessError, PixelsError, check_directories

MAX_BOXES = 5_000
"""Boxes, items, references and extents together: microseconds each."""
MAX_TIMES = 4
"""How often the largest picture that is allowed may be decoded in all: tiles, thumbnail, depth and gain map."""
CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"iinf": 6}
"""Boxes of boxes, and how many bytes stand before those."""
DERIVED = (b"grid", b"iovl", b"iden", b"tmap")


@dataclass
class Items:
    """What the boxes say."""

    kinds: dict[int, bytes] = field(default_factory=dict)
    areas: list[int] = field(default_factory=list)
    """By property, in their order: width x height of those that say so, 0 for others."""
    properties: list[tuple[int, int]] = field(default_factory=list)
    """Item and number of its property, counted from 1."""
    references: list[tuple[int, int]] = field(default_factory=list)
    """Which item is made of which."""
    extents: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Item, how its places count, where it stands, and its length."""
    data: int = 0
    """Where the box of small data begins."""
    read: int = 0

    def count(self) -> None:
        """Count what is read within a box; raises ExcessError if it is too much, also where it says nothing."""
        self.read += 1
        if self.read > MAX_BOXES:
            raise ExcessError(f"more than {MAX_BOXES:,} items")


def check(data: bytes, max_pixels: int) -> None:
    """Raise ExcessError if decoding may cost far more than a picture of so many pixels."""
    items = Items()
    try:
        _walk(memoryview(data), items)
    except (struct.error, IndexError):
        return
    areas: dict[int, int] = {}
    for item, number in items.properties:
        if 0 < number <= len(items.areas):
            areas[item] = max(areas.get(item, 0), items.areas[number - 1])
    if any(items.kinds.get(part) in DERIVED and items.kinds.get(item) != b"tmap" for item, part in items.references):
        raise ExcessError("pictures put together from pictures put together")
    if sum(areas.values()) + sum(areas.get(part, 0) for _, part in items.references) > 2 * MAX_TIMES * max_pixels:
        raise PixelsError("All that it is put together from")
    if sum(length for _, _, _, length in items.extents) > len(data) + SLACK:
        raise ExcessError("more items than bytes, as many of them share bytes")
    check_directories(_metadata(memoryview(data), items))


def _walk(data: memoryview, items: Items) -> None:
    for parent, name, at, stop in _all_boxes(data):
        if parent == b"ipco":
            items.areas.append(_number(data, at + 4, 4) * _number(data, at + 8, 4) if name == b"ispe" else 0)
        elif name == b"iref":
            items.references += _references(data, at, stop, items)
        elif name == b"infe":
            wide = data[at] >= 3
            items.kinds[_number(data, at + 4, 4 if wide else 2)] = bytes(data[at + (10 if wide else 8) :][:4])
        elif name == b"ipma":
            items.properties += _associations(data, at, stop, items)
        elif name == b"iloc":
            items.extents += _extents(data, at, stop, items)
        elif name == b"idat":
            items.data = at
        if len(items.properties) + len(items.references) + len(items.extents) > MAX_BOXES:
            raise ExcessError(f"more than {MAX_BOXES:,} items")


def _all_boxes(data: memoryview) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Yield the name of its parent with each box, parents before children, children in their order."""
    number = 0
    regions = [(b"", 0, len(data))]
    for parent, start, end in regions:  # which grows
        for name, at, stop in _boxes(data, start, end):
            number += 1
            if number > MAX_BOXES:
                raise ExcessError(f"more than {MAX_BOXES:,} boxes")
            yield parent, name, at, stop
            if name in CONTAINERS:
                before = CONTAINERS[name]
                regions.append((name, at + (before if name != b"iinf" or data[at] == 0 else 8), stop))


def _boxes(data: memoryview, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield each box between two places: its name, and where its content begins and ends."""
    end = min(end, len(data))
    while at + 8 <= end:
        length, start = _number(data, at, 4), at + 8
        if length == 1:
            length, start = _number(data, at + 8, 8), at + 16
        stop = end if length == 0 else min(at + length, end)
        if stop < start:
            return
        yield bytes(data[at + 4 : at + 8]), start, stop
        at = stop


def _number(data: memoryview, at: int, size: int) -> int:
    if at + size > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + size], "big")


def _references(data: memoryview, at: int, stop: int, items: Items) -> list[tuple[int, int]]:
    size = 2 if data[at] == 0 else 4
    found: list[tuple[int, int]] = []
    for name, start, _ in _boxes(data, at + 4, stop):
        items.count()
        count = _number(data, start + size, 2) if name == b"dimg" else 0
        if len(found) + count > MAX_BOXES:
            raise ExcessError(f"more than {MAX_BOXES:,} tiles")
        item = _number(data, start, size)
        found += [(item, _number(data, start + size + 2 + size * i, size)) for i in range(count)]
    return found


def _associations(data: memoryview, at: int, stop: int, items: Items) -> list[tuple[int, int]]:
    id_size, wide = (2 if data[at] == 0 else 4), data[at + 3] & 1
    size, mask = (2, 0x7FFF) if wide else (1, 0x7F)
    found: list[tuple[int, int]] = []
    place = at + 8
    while place < stop and len(found) <= MAX_BOXES:
        items.count()
        item, count = _number(data, place, id_size), _number(data, place + id_size, 1)
        place += id_size + 1
        found += [(item, _number(data, place + size * i, size) & mask) for i in range(count)]
        place += size * count
    return found


def _extents(data: memoryview, at: int, stop: int, items: Items) -> list[tuple[int, int, int, int]]:
    version = data[at]
    sizes = data[at + 4] >> 4, data[at + 4] & 15, data[at + 5] >> 4, (data[at + 5] & 15 if version else 0)
    offset_size, length_size, base_size, index_size = sizes
    id_size = 4 if version == 2 else 2
    place = at + 6 + id_size
    found: list[tuple[int, int, int, int]] = []
    while place < stop and len(found) <= MAX_BOXES:
        items.count()
        item, place = _number(data, place, id_size), place + id_size
        method = _number(data, place, 2) & 15 if version else 0
        place += 4 if version else 2
        base, count = _number(data, place, base_size), _number(data, place + base_size, 2)
        place += base_size + 2
        for _ in range(min(count, MAX_BOXES)):
            start = base + _number(data, place + index_size, offset_size)
            length = _number(data, place + index_size + offset_size, length_size)
            found.append((item, method, start, length))
            place += index_size + offset_size + length_size
    return found


def _metadata(data: memoryview, items: Items) -> list[memoryview]:
    """Return the EXIF blocks, without what stands before their header."""
    found = []
    for item, method, start, length in items.extents:
        if items.kinds.get(item) == b"Exif":
            start += items.data if method == 1 else 0
            content = data[start : start + length]
            header = 4 + int.from_bytes(content[:4], "big")
            found.append(content[header:])
    return found
