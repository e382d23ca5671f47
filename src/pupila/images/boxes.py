"""Bounds what decoding a HEIC or AVIF file may cost: both are boxes (ISO 14496-12) that describe items (23008-12).

A picture may be put together from tiles, and a few bytes can name the same big tile thousands of times. Boxes are
walked through in a loop, each where it belongs; a file whose boxes cannot be read to their end is refused.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pupila.images import av1, formats
from pupila.images.limits import SLACK, ExcessError, PixelsError, check_directories

MAX_BOXES = 5_000
"""Boxes, and parts of all items, with those of their parts: microseconds each."""
MAX_ITEMS = 10_000
"""Items, their properties, references and extents together."""
MAX_TIMES = 8
"""How often the largest picture that is allowed may be decoded in all: tiles, transparency, depth and gain map."""
CONTAINERS = {(b"", b"meta"): 4, (b"meta", b"iprp"): 0, (b"iprp", b"ipco"): 0, (b"meta", b"iinf"): 6}
"""Boxes of boxes, by what they stand in, and how many bytes stand before those."""
SINGLE = (b"meta", b"iprp", b"ipco", b"iinf", b"iref", b"iloc", b"idat", b"pitm")
"""Boxes of which there is one: decoders differ in which of several they take."""
MAX_FRAMES = 4
"""Frames in the coded data of one picture: decoders go through them up to the first that is shown. An AVIF that
sharpens while it loads has up to four, others have one."""
HEVC = b"hvc1"
NAMED = {32: 1, 33: 1, 34: 4, 39: 1_000, 40: 1_000}
"""By kind of unit of HEVC, how many its setup (hvcC) may have: one set of parameters for all, one for a sequence,
those of pictures, and remarks. No coded data: it would be decoded."""
SEQUENCE = 33
MISPLACED = -1
"""Stands for the kind of a unit in the list of another kind: there may be none."""
SETS = (32, 33, 34)
"""Sets of parameters: for each of pictures a decoder makes tables as large as a picture of its sequence's size."""
CODED = (HEVC, b"av01")
"""Kinds of items that decoders are there for."""
GAIN_MAPPED = b"tmap"
"""A picture put together from another and a gain map, either of which may be put together from tiles."""
GRID = b"grid"
READ = (*CODED, GRID, b"iden", GAIN_MAPPED, b"Exif", b"mime", b"uri ")
"""Kinds of items that the picture and its parts may be; the last three are no pictures, and are not decoded. An overlay
(iovl) is not among them: it may be of any size."""
TRANSFORMS = (b"irot", b"imir", b"clap", b"iscl")
"""Properties for which a decoder goes through the whole picture again: of each kind it may have one (ISO 23000-22)."""
UNREAD = "a picture in boxes (HEIF) with an overlay or another part that is not read"
MINI = b"mini"
"""A box in place of `meta` that says the same in fewer bytes: nothing in it is counted here."""
LONG_NAMED = b"uuid"
"""A box whose name goes on, for 16 bytes."""
PLACE_SIZES = {0, 4, 8}
"""Bytes that a place or a length in `iloc` may have (ISO 14496-12, 8.11.3): decoders pass over others."""
FURTHEST = 2**63
"""Bytes from which on a place is refused: at twice as many a decoder's sums begin again at 0."""


@dataclass
class Items:
    """What the boxes say."""

    kinds: dict[int, bytes] = field(default_factory=dict)
    areas: list[int] = field(default_factory=list)
    """By property, in their order: width x height of those that say so, as setups of HEVC do, 0 for others."""
    lengths: list[int] = field(default_factory=list)
    """By property: the bytes of a colour profile, 0 for others."""
    names: list[bytes] = field(default_factory=list)
    """By property: what it is."""
    primary: int = 0
    """The item that is the picture; 0 if none is."""
    properties: list[tuple[int, int]] = field(default_factory=list)
    """Item and number of its property, counted from 1."""
    tiles: list[tuple[int, int]] = field(default_factory=list)
    """Which item is made of which."""
    beside: list[tuple[int, int]] = field(default_factory=list)
    """Which item has which beside it, such as its transparency: decoders decode both."""
    described: list[int] = field(default_factory=list)
    """Items that say something of another, each as often as it does: decoders copy them for each of the others."""
    extents: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Item, how its places count, where it stands, and its length."""
    tracks: list[int] = field(default_factory=list)
    """Where the content of each box of tracks begins."""
    data: int = 0
    """Where the box of small data begins ..."""
    data_end: int = 0
    """... and ends."""
    read: int = 0

    def count(self, number: int = 1) -> None:
        """Count what is read within boxes; raises ExcessError if it is too much, also where it says nothing."""
        self.read += number
        if self.read > MAX_ITEMS:
            raise ExcessError(f"more than {MAX_ITEMS:,} items")


def check(data: bytes, max_pixels: int) -> bytes:
    """Return what to decode; raises ExcessError if that may cost far more than a picture of so many pixels.

    Raises IndexError for boxes that end before what they should hold, and for kinds that are no text.
    """
    view, items = memoryview(data), Items()
    _walk(view, items)
    _check_parts(items)
    if any(method == 1 and items.data + start + length > items.data_end for _, method, start, length in items.extents):
        raise IndexError  # some decoders pass over it
    lengths: dict[int, int] = defaultdict(int)
    for item, _, start, length in items.extents:
        lengths[item] += length or max(0, len(data) - start)  # which goes on to the end of the file
    if sum(lengths.values()) > len(data) + SLACK:
        if any(method == 0 and start + length > len(data) for _, method, start, length in items.extents):
            raise IndexError  # it is cut off
        raise ExcessError("more items than bytes, as many of them share bytes")
    copied = sum(lengths[item] for item in items.described)
    copied += sum(items.lengths[number - 1] for _, number in items.properties if 0 < number <= len(items.lengths))
    if copied > len(data) + SLACK:
        raise ExcessError("more metadata than bytes, as many pictures share it")
    check_directories(_metadata(view, items))
    canvases = _canvases(view, items)
    all_pixels = _largest(items, canvases | _coded_pixels(view, items, max_pixels))
    if all_pixels > MAX_TIMES * max_pixels or _has_large_part(items, canvases, max_pixels):
        raise PixelsError("All that it is put together from")
    return _without_tracks(data, items) if items.tracks else data


def _check_parts(items: Items) -> None:
    """Raise ExcessError for parts of parts and repeated transforms, ImageError for parts of kinds that are not read."""
    made = {item for item, _ in items.tiles}
    for item, part in items.tiles:
        if items.kinds.get(part) == GAIN_MAPPED or (part in made and items.kinds.get(item) != GAIN_MAPPED):
            raise ExcessError("pictures put together from pictures put together")
    names = dict(enumerate(items.names, start=1))
    transforms = Counter((item, names.get(number)) for item, number in items.properties)
    if any(count > 1 and name in TRANSFORMS for (_, name), count in transforms.items()):
        raise ExcessError("more than one rotation, mirroring or crop of the same kind")
    parts: dict[int, set[int]] = defaultdict(set)
    for item, part in (*items.tiles, *items.beside):
        parts[item].add(part)
    decoded = [items.primary]
    for item in decoded:  # which grows
        if items.kinds.get(item, GRID) not in READ:
            raise formats.unrecognised(UNREAD, formats.SAVE)
        decoded += parts.pop(item, ())


def _without_tracks(data: bytes, items: Items) -> bytes:
    """Return an animation as the still picture that stands beside its tracks, of which few bytes may be millions."""
    plain, brands = bytearray(data), min(int.from_bytes(data[:4], "big"), len(data))
    plain[8:brands] = plain[8:brands].replace(b"avis", b"avif")
    for at in items.tracks:
        for name in (slice(at - 4, at), slice(at - 12, at - 8)):  # a box's length has four bytes, or eight more
            if plain[name] == b"moov":
                plain[name] = b"free"
    return bytes(plain)


def _largest(items: Items, known: dict[int, int]) -> int:
    """Return the pixels of the item that has most, with those of its parts, each as often as it is decoded.

    An item has as many as its properties say, or as are `known` otherwise if those are more. From the smallest parts
    up, so that every reference is looked at once. Raises ExcessError for an item that is part of itself, and if going
    through the parts of every item is too long a way.
    """
    pixels = _said(items)
    for item, number in known.items():
        pixels[item] = max(pixels[item], number)
    wholes: dict[int, list[int]] = defaultdict(list)
    missing: dict[int, int] = defaultdict(int)
    for item, part in (*items.tiles, *items.beside):
        wholes[part].append(item)
        missing[item] += 1
    parts: dict[int, int] = defaultdict(int)
    ready = [item for item in pixels.keys() | wholes.keys() if not missing[item]]
    for part in ready:  # which grows
        for item in wholes[part]:
            pixels[item] += pixels[part]
            parts[item] += 1 + parts[part]
            missing[item] -= 1
            if not missing[item]:
                ready.append(item)
    if any(missing.values()):
        raise ExcessError("pictures that are parts of themselves")
    if sum(parts.values()) > MAX_BOXES:
        raise ExcessError(f"more than {MAX_BOXES:,} parts of parts")
    return max(pixels.values(), default=0)


def _said(items: Items, name: bytes = b"") -> dict[int, int]:
    """Return the pixels of each item by its properties, or by those of a name."""
    pixels: dict[int, int] = defaultdict(int)
    for item, number in items.properties:
        if 0 < number <= len(items.areas) and name in (b"", items.names[number - 1]):
            pixels[item] = max(pixels[item], items.areas[number - 1])
    return pixels


def _has_large_part(items: Items, canvases: dict[int, int], max_pixels: int) -> bool:
    """Return whether room would be made for a part of more pixels than a picture may have.

    Of a picture that says so itself the size is refused by name, later.
    """
    said, shown = _said(items), _said(items, b"ispe")
    pixels = canvases | {item: said[item] for item, kind in items.kinds.items() if kind == HEVC}
    large = {item for item, number in pixels.items() if number > max_pixels}
    return bool(large - {items.primary}) or (items.primary in large and shown[items.primary] <= max_pixels)


def _walk(data: memoryview, items: Items) -> None:
    readers: dict[tuple[bytes, bytes], Callable[[memoryview, Items], None]] = {
        (b"meta", b"pitm"): _primary,
        (b"meta", b"iref"): _references,
        (b"meta", b"iloc"): _extents,
        (b"iinf", b"infe"): _kind,
        (b"iprp", b"ipma"): _associations,
    }
    seen = set()
    for parent, name, at, stop in _all_boxes(data):
        content = data[at:stop]
        if parent == b"ipco":
            items.areas.append(_area(name, content, items))
            items.lengths.append(len(content) if name == b"colr" else 0)
            items.names.append(name)
            continue
        if name in SINGLE and (parent, name) in seen:
            raise ExcessError(f"more than one box {name.decode()}")
        seen.add((parent, name))
        if (parent, name) in readers:
            readers[parent, name](content, items)
        elif (parent, name) == (b"meta", b"idat"):
            items.data, items.data_end = at, stop
        elif (parent, name) == (b"", b"moov"):
            items.tracks.append(at)
        elif (parent, name) == (b"", MINI):
            raise formats.unrecognised(UNREAD, formats.SAVE)
    if (b"", b"meta") not in seen:
        raise IndexError  # nothing was counted


def _area(name: bytes, content: memoryview, items: Items) -> int:
    """Return the pixels that a picture has by one of its properties; 0 if that is none of a size."""
    if name == b"ispe":
        return _number(content, 4, 4) * _number(content, 8, 4)
    return _coded_area(content, items) if name == b"hvcC" else 0


def _coded_area(content: memoryview, items: Items) -> int:
    """Return the pixels of a picture by its setup of HEVC (ISO 14496-15, 8.3.3.1.2), which the decoder makes room for.

    Raises ExcessError for more units than NAMED, or one in the list of another kind: libheif looks for a sequence in
    the list of its kind, its decoder in all of them. Both pass over empty units.
    """
    found: Counter[int] = Counter()
    at, pixels = 23, 0
    for _ in range(_number(content, 22, 1)):
        said, count, at = _number(content, at, 1) & 63, _number(content, at + 1, 2), at + 3
        items.count(1 + count)
        for _ in range(count):
            length = _number(content, at, 2)
            if length:
                kind = _number(content, at + 2, 1) >> 1 & 63
                found[kind if kind == said else MISPLACED] += 1
                if kind == SEQUENCE and not pixels:
                    pixels = _sequence_area(content[at + 2 : at + 2 + length])
            at += 2 + length
    if any(number > NAMED.get(kind, 0) for kind, number in found.items()):
        raise ExcessError("more parameter sets or other data in the setup of a coded picture than it needs")
    return pixels


def _sequence_area(unit: memoryview) -> int:
    """Return the pixels of a sequence's pictures by its parameters (ITU-T H.265, 7.3.2.2), which must be there."""
    bits = av1.Bits(memoryview(bytes(unit[: av1.MOST_BYTES]).replace(b"\0\0\3", b"\0\0")))
    bits.take(20)
    layers = bits.take(3)
    bits.take(97)  # profile and level
    there = [(bits.take(), bits.take()) for _ in range(layers)]
    bits.take(2 * (8 - layers) if layers else 0)
    for profile, level in there:
        bits.take(88 * profile + 8 * level)
    bits.exponential()
    bits.take(bits.exponential() == 3)
    return bits.exponential() * bits.exponential()


def _all_boxes(data: memoryview) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Yield the name of its parent with each box, parents before children, children in their order."""
    number = 0
    regions = [(b"", 0, len(data))]
    for parent, start, end in regions:  # which grows
        for name, at, stop in _boxes(data, start, end, strict=parent != b""):
            number += 1
            if number > MAX_BOXES:
                raise ExcessError(f"more than {MAX_BOXES:,} boxes")
            yield parent, name, at, stop
            if (parent, name) in CONTAINERS:
                wide = name == b"iinf" and _number(data[at:stop], 0, 1) > 0
                regions.append((name, at + CONTAINERS[parent, name] + 2 * wide, stop))


def _boxes(data: memoryview, at: int, end: int, strict: bool = True) -> Iterator[tuple[bytes, int, int]]:
    """Yield each box between two places: its name, and where its content begins and ends.

    Raises IndexError where one ends beyond them, or before its content begins: a decoder may read on from there. If not
    `strict`, as among the boxes of the file, the last may be cut off and there may be anything behind it.
    """
    while at + 8 <= end:
        length, name, start = _number(data, at, 4), bytes(data[at + 4 : at + 8]), at + 8
        if length == 1:
            length, start = _number(data, at + 8, 8), at + 16
        start += 16 * (name == LONG_NAMED)
        stop = end if length == 0 else at + length
        if stop < start or (strict and stop > end):
            raise IndexError
        yield name, start, min(stop, end)
        at = stop


def _number(data: memoryview, at: int, size: int) -> int:
    if at + size > len(data):
        raise IndexError
    return int.from_bytes(data[at : at + size], "big")


def _kind(content: memoryview, items: Items) -> None:
    version = _number(content, 0, 1)
    size = 4 if version >= 3 else 2
    item = _number(content, 4, size)
    if item in items.kinds:
        raise ExcessError("more than one entry of an item")
    kind, texts = bytes(content[6 + size : 10 + size]), bytes(content[10 + size :]).split(b"\0", 2)
    if not kind.isascii() or (kind == b"mime" and not b"".join(texts[1:2]).isascii()):
        raise IndexError  # pi-heif would end the process
    if kind == b"mime" and texts[2:] and texts[2].rstrip(b"\0"):
        raise formats.unrecognised(UNREAD, formats.SAVE)  # it is packed, and a megabyte may be of a kilobyte
    items.kinds[item] = kind if version >= 2 else b""


def _primary(content: memoryview, items: Items) -> None:
    items.primary = _number(content, 4, 2 if _number(content, 0, 1) == 0 else 4)


def _references(content: memoryview, items: Items) -> None:
    """Take who is made of whom; raises IndexError for bytes behind a reference, which a decoder may read as another."""
    size = 2 if _number(content, 0, 1) == 0 else 4
    for name, at, stop in _boxes(content, 4, len(content)):
        reference = content[at:stop]
        item, count = _number(reference, 0, size), _number(reference, size, 2)
        items.count(1 + count)
        if len(reference) != size + 2 + size * count:
            raise IndexError
        others = [_number(reference, size + 2 + size * i, size) for i in range(count)]
        if name == b"dimg":
            items.tiles += [(item, other) for other in others]
        elif name == b"cdsc":
            items.described += [item] * count
        elif name == b"auxl":
            items.beside += [(other, item) for other in others]


def _associations(content: memoryview, items: Items) -> None:
    id_size, wide = (2 if _number(content, 0, 1) == 0 else 4), _number(content, 3, 1) & 1
    size, mask = (2, 0x7FFF) if wide else (1, 0x7F)
    at = 8
    for _ in range(_number(content, 4, 4)):
        item, count = _number(content, at, id_size), _number(content, at + id_size, 1)
        at += id_size + 1
        items.count(1 + count)
        items.properties += [(item, _number(content, at + size * i, size) & mask) for i in range(count)]
        at += size * count


def _extents(content: memoryview, items: Items) -> None:
    """Take where each item stands; raises IndexError for what decoders may read in another way."""
    version, sizes = _number(content, 0, 1), _number(content, 4, 2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    if not {offset_size, length_size, base_size, index_size} <= PLACE_SIZES:
        raise IndexError
    id_size = 4 if version == 2 else 2
    at, seen = 6 + id_size, set()
    for _ in range(_number(content, 6, id_size)):
        item, at = _number(content, at, id_size), at + id_size
        if item in seen:
            raise ExcessError("more than one entry of an item")
        seen.add(item)
        method = _number(content, at, 2) & 15 if version else 0
        at += 4 if version else 2
        base, count = _number(content, at, base_size), _number(content, at + base_size, 2)
        at += base_size + 2
        items.count(1 + count)
        for _ in range(count):
            start = base + _number(content, at + index_size, offset_size)
            length = _number(content, at + index_size + offset_size, length_size)
            if max(start, length) >= FURTHEST or (not length and (method or count > 1)):
                raise IndexError
            items.extents.append((item, method, start, length))
            at += index_size + offset_size + length_size


def _metadata(data: memoryview, items: Items) -> list[memoryview]:
    """Return the EXIF blocks, without what stands before their header; one may stand in several places."""
    blocks = _contents(data, items, (b"Exif",)).values()
    return [block[4 + int.from_bytes(block[:4], "big") :] for block in blocks]


def _contents(data: memoryview, items: Items, kinds: Sequence[bytes]) -> dict[int, memoryview]:
    """Return the bytes of the items of some kinds. An item without a length goes on to the end of the file."""
    parts: dict[int, list[memoryview]] = defaultdict(list)
    for item, method, start, length in items.extents:
        if items.kinds.get(item) in kinds:
            start += items.data if method == 1 else 0
            parts[item].append(data[start : start + length] if length else data[start:])
    return {item: places[0] if len(places) == 1 else memoryview(b"".join(places)) for item, places in parts.items()}


def _canvases(data: memoryview, items: Items) -> dict[int, int]:
    """Return the pixels that each grid says it has (23008-12, 6.6.2.3): decoders go by these."""
    found = {}
    for item, content in _contents(data, items, (GRID,)).items():
        size = 4 if _number(content, 1, 1) & 1 else 2
        found[item] = _number(content, 4, size) * _number(content, 4 + size, size)
    return found


def _coded_pixels(data: memoryview, items: Items, max_pixels: int) -> dict[int, int]:
    """Return the pixels of all frames of each picture coded as AV1, whatever the boxes say, and of all slices of HEVC.

    Raises ExcessError for one of many frames: a few bytes each, and each may be as large as a picture. Raises
    PixelsError where one is larger.
    """
    read = {item for item, kind in items.kinds.items() if kind in (*CODED, GRID)}
    if any(item in read and method > 1 for item, method, _, _ in items.extents):
        raise ExcessError("coded data within other data")
    found, said = {}, _said(items)
    for item, content in _contents(data, items, CODED).items():
        if items.kinds[item] == HEVC:
            found[item] = said[item] * _slices(content, items)
        else:
            found[item] = _frames(content, items, max_pixels)
    return found


def _frames(content: memoryview, items: Items, max_pixels: int) -> int:
    """Return the pixels of all frames of a picture coded as AV1."""
    frames = []
    for pixels in _obus(content):
        items.count()
        frames += [pixels] * (pixels > 0)
        if len(frames) > MAX_FRAMES:
            raise ExcessError(f"more than {MAX_FRAMES} coded frames")
        if pixels > max_pixels:
            raise PixelsError("What its frames cover")
    return sum(frames)


def _slices(content: memoryview, items: Items) -> int:
    """Return how many slices a picture coded as HEVC has: where one ends stands in what is packed, so it may be all.

    The decoder takes the length before each unit (ITU-T H.265, 7.3.1) for four bytes, whatever the setup says, and does
    not look at a unit's first bit. Raises ExcessError for sets of parameters: those of such items are in their setup.
    """
    at, kinds, frames = 0, [], 0
    while at + 6 < len(content):
        items.count()
        start, length = at + 4, _number(content, at, 4)
        kinds.append(content[start] >> 1 & 63)
        frames += kinds[-1] < SETS[0] and content[start + 2] >= 0x80
        at = start + length
    if frames > MAX_FRAMES:
        raise ExcessError(f"more than {MAX_FRAMES} coded frames")
    if not {*SETS}.isdisjoint(kinds):
        raise ExcessError("parameter sets within the data of a coded picture")
    return sum(kind < SETS[0] for kind in kinds)


def _obus(content: memoryview) -> Iterator[int]:
    """Yield for each open bitstream unit (AV1 specification, 5.3) the pixels of the frame that begins with it, or 0."""
    at, sequence = 0, None
    while at < len(content):
        head = content[at]
        at += 2 if head & 4 else 1
        length = len(content)
        if head & 2:
            length = shift = 0
            more = True
            while more and shift < 56:
                byte = _number(content, at, 1)
                length |= (byte & 127) << shift
                at, shift, more = at + 1, shift + 7, byte >= 128
        kind = head >> 3 & 15
        sequence = av1.sequence(content[at : at + length]) if kind == av1.SEQUENCE else sequence
        yield av1.frame_pixels(content[at : at + length], sequence) if kind in av1.FRAMES else 0
        at += length
