"""Pictures that are made to cost memory or time: a real server refuses them at once and gives the memory back."""

import io
import itertools
import random
import re
import struct
import time
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path

import pi_heif
import pytest
from heif_kit import CODED, HEIC, animation, as_phones_write, avif, box, configured, full, grid, heif, infe, parameters
from PIL import Image, JpegImagePlugin
from server_kit import Running, encode, picture, serving, write_model

from pupila import images
from pupila.data.decode_worker import decode_into
from pupila.errors import ImageError
from pupila.images import boxes
from pupila.images import limits as structure

REPETITIONS = 100


def nested_webp(depth: int, filler: int) -> bytes:
    """Return a WebP whose frames hold one another."""
    inner = b"XXXX" + struct.pack("<I", filler) + bytes(filler)
    size, heads = len(inner), []
    for _ in range(depth):
        heads.append(b"ANMF" + struct.pack("<I", 16 + size) + bytes(16))
        size += 24
    body = b"".join(reversed(heads)) + inner
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def far_away() -> bytes:
    """Return a BigTIFF with an entry whose values stand 2^63 bytes away."""
    return b"II+\0\x08\0\0\0" + struct.pack("<QQHHQQ", 16, 1, 254, 4, 3, 2**63) + bytes(8)


def hexadecimal(text: bytes) -> bytes:
    """Return a PNG with EXIF as ImageMagick once wrote it: a name, a length, and numbers in lines."""
    return png_with(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text, 9))


def test_exif_written_as_text_is_read() -> None:
    block = b"Exif\0\0II*\0\x08\0\0\0" + directory([(274, 3, 1, 6)])
    lines = "\n".join(re.findall(".{1,16}", block.hex()))
    assert images.header(hexadecimal(f"\nexif\n{len(block):8}\n{lines}\n".encode())).orientation == 6
    assert images.header(hexadecimal(block.hex().encode())).orientation == 1


@pytest.mark.parametrize("text", [b"\n" * 2**20, b"ab\n" * (2**20 // 3)])
def test_exif_written_as_text_is_not_taken_apart_by_line(text: bytes) -> None:
    """A kilobyte of it made a million pieces, and kept all threads waiting for 40 ms, twice."""
    data, times = hexadecimal(text), []
    for _ in range(5):
        begun = time.process_time()
        assert images.header(data).orientation == 1
        times.append(time.process_time() - begun)
    assert min(times) < 0.02


def test_place_beyond_what_can_be_addressed_is_cut_off() -> None:
    for ask in (images.header, lambda data: images.decode(data, 32)):
        with pytest.raises(ImageError):
            ask(far_away())


def with_xmp(kind: int, count: int, value: bytes) -> bytes:
    """Return a TIFF of 8 x 8 pixels whose XMP is of any type; a value of over 4 bytes stands behind the pixels."""
    rows = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (278, 3, 1, 8)]
    start = 8 + 2 + 12 * (len(rows) + 3) + 4
    place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", start + 64)
    rows += [(273, 4, 1, start), (279, 4, 1, 64), (700, kind, count, int.from_bytes(place, "little"))]
    return b"II*\0\x08\0\0\0" + directory(sorted(rows)) + bytes(64) + value


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [
        (12, 1, struct.pack("<d", 1.5)), (5, 1, struct.pack("<II", 1, 3)), (9, 1, struct.pack("<i", -1)),
        (4, 1, struct.pack("<I", 4_000_000_000)), (3, 2, b"\1\0\2\0"), (12, 2, struct.pack("<dd", 1, 2)),
    ],
)  # fmt: skip
def test_metadata_that_is_numbers_says_no_orientation(kind: int, count: int, value: bytes) -> None:
    """A number was taken for a length, of up to 4 GB, and others ended commands that looked at a folder."""
    data = with_xmp(kind, count, value)
    assert images.header(data).orientation == 1
    with pytest.raises(ImageError, match="of a kind that is not read"):
        images.decode(data, 32)


def shared_values(entries: int = 2000, size: int = 100_000, kind: int = 7, below: bool = False) -> bytes:
    """Return a TIFF whose entries all point at the same bytes; with `below`, in a directory below the first."""
    rows = [(256, 3, 1, 8), (257, 3, 1, 8)]
    start = 8 + 2 + 12 * len(rows) + 4 + (12 + 2 + 4 if below else 0)
    many = [(40000 + i, kind, size, start + 12 * entries) for i in range(entries)]
    if not below:
        return b"II*\0\x08\0\0\0" + directory(rows + many) + bytes(size)
    rows.append((34665, 4, 1, start - 6))
    return b"II*\0\x08\0\0\0" + directory(rows) + directory(many) + bytes(size)


def directory(rows: list[tuple[int, int, int, int]]) -> bytes:
    return struct.pack("<H", len(rows)) + b"".join(struct.pack("<HHII", *row) for row in rows) + bytes(4)


def png_with(name: bytes, content: bytes, count: int = 1) -> bytes:
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return picture()[:33] + chunk * count + picture()[33:]


@pytest.mark.parametrize("head", [png_with(b"tEXt", b"a\0b")[33:48], picture("green")[8:33]])
def test_png_whose_header_is_not_first_or_there_twice_is_refused(head: bytes) -> None:
    """Its depth was read where the header should be, and a picture of 16 bits counted as one of 8 in grey."""
    deep = encode(Image.new("I;16", (64, 64)), "PNG")
    assert images.decode(deep, 32).shape == (32, 32, 3)
    with pytest.raises(ImageError) as caught:
        images.decode(deep[:8] + head + deep[8:], 32)
    assert caught.value.code == "image_truncated"


def jpeg_with(content: bytes) -> bytes:
    """Return a JPEG with EXIF cut into segments."""
    parts = [b"Exif\0\0" + content[at : at + 60_000] for at in range(0, len(content), 60_000)]
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
    data = picture("red", "JPEG", (200, 200), quality=100)
    return data[:2] + segments + data[2:] + bytes(5_000)


def jpeg_of(*segments: tuple[int, bytes]) -> bytes:
    """Return a JPEG with more segments behind its first marker."""
    parts = itertools.starmap(segment, segments)
    data = picture("red", "JPEG", (200, 200), quality=100)
    return data[:2] + b"".join(parts) + data[2:] + bytes(5_000)


RESOURCES = b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5_000


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


COMMENTS = segment(0xFE, b"") * 15_000
BLOCKS = segment(0xE1, b"Exif\0\0II*\0" + bytes(6)) * 3_000


def webp_with(content: bytes) -> bytes:
    return encode(Image.new("RGB", (32, 32)), "WEBP", exif=content)


def with_blocks(count: int) -> bytes:
    """Return a WebP with so many blocks of EXIF without an entry."""
    body = encode(Image.new("RGB", (32, 32)), "WEBP")[8:] + (b"EXIF\x08\0\0\0" + b"II*\0\x08\0\0\0") * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiles(count: int, side: int) -> bytes:
    """Return a HEIC of one big tile, so many times."""
    kinds = {1: b"grid", 7: b"hvc1"}
    return heif(kinds, [(b"dimg", 1, [7] * count)], {7: (side, side)}, {1: grid(1, 1)})


def graph(levels: int, kind: bytes = b"hvc1", name: bytes = b"dimg") -> bytes:
    """Return a HEIC with two items a level, each made of both of the level below: twice as many ways a level."""
    items = range(1, 2 * levels + 3)
    references = [(name, item, [(item - 3) // 2 * 2 + part for part in (1, 2)]) for item in items if item > 2]
    kinds = {item: kind if item > 2 else b"hvc1" for item in items}
    return heif(kinds, references, contents={item: bytes(10) for item in items if item > 1}, primary=items[-1])


def mapped() -> bytes:
    """Return a HEIC of pictures with gain maps, each of which goes through all tiles of the same one."""
    kinds = {1: b"hvc1", 2: b"grid"} | dict.fromkeys(range(3, 103), b"tmap")
    references = [(b"dimg", 2, range(200, 300)), *[(b"dimg", item, [2, 1]) for item in range(3, 103)]]
    return heif(kinds, references, contents={item: bytes(10) for item in kinds if item > 1})


def shared_bytes() -> bytes:
    """Return a HEIC with many items, all of them the same bytes of the file."""
    data = heif(dict.fromkeys(range(1, 401), b"hvc1"), contents={1: bytes(1_000)})
    at = data.index(b"iloc") + 12
    place = data[at + 6 : at + 10] + struct.pack(">I", 1_000)
    for item in range(400):
        data = data[: at + 14 * item + 6] + place + data[at + 14 * item + 14 :]
    return data


def described() -> bytes:
    """Return a HEIC of many pictures with the same metadata, which a decoder copies for each as it opens the file."""
    kinds = dict.fromkeys(range(1, 61), b"hvc1") | {61: b"Exif"}
    contents = dict.fromkeys(range(2, 61), b"x") | {61: bytes(4) + b"II*\0\x08\0\0\0" + bytes(100_000)}
    return heif(kinds, [(b"cdsc", 61, range(1, 61))], contents=contents)


def profiled() -> bytes:
    """Return a HEIC of many pictures with the same colour profile."""
    contents = dict.fromkeys(range(2, 61), b"x")
    return heif(dict.fromkeys(range(1, 61), b"hvc1"), contents=contents, profile=bytes(100_000))


def filled(filling: bytes, rest: bool = True) -> bytes:
    """Return a JPEG with bytes behind its first marker that say nothing."""
    data = picture("red", "JPEG", (200, 200), quality=100)
    return data[:2] + filling + data[2:] * rest + bytes(5_000)


def hidden_scans(count: int = 6_000) -> bytes:
    """Return a JPEG with many scans behind a marker that decoders pass over where a scan has restarts."""
    data = encode(Image.new("L", (600, 600)), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    coded = data[first : first + 10] + b"\xff\x02\xff\xff\xff\xd0"
    return data[:first] + b"\xff\xdd\0\4\0\1" + coded + b"\xff\xda\0\x08\1\1\0\0\0\x10" * count + bytes(5_540)


HOSTILE = {
    "JPEG, hidden scans": hidden_scans(),
    "HEIC, metadata of many pictures": described(),
    "HEIC, a profile of many pictures": profiled(),
    "JPEG, filling bytes": filled(b"\xff" * 100_000),
    "JPEG, escaped filling bytes": filled(b"\xff\0" * 50_000),
    "JPEG, filling bytes behind an end": filled(b"\xff\xd9" + b"\xff" * 100_000),
    "JPEG, nothing but filling bytes": filled(b"\xff" * 100_000, rest=False),
    "JPEG, segments behind an end": filled(b"\xff\xd9" + b"\xff\xe5\0\2" * 2_000),
    "HEIC, boxes": heif({1: b"hvc1"}, more=box(b"free", b"") * 5_001),
    "HEIC, tiles by the thousand": tiles(10_001, 64),
    "HEIC, parts of parts": graph(26),
    "HEIC, parts of parts, and a box that ends early": graph(26) + box(b"infe", b""),
    "HEIC, overlays of overlays": graph(26, b"iovl"),
    "HEIC, gain maps of gain maps": graph(26, b"tmap"),
    "HEIC, gain maps of many tiles": mapped(),
    "HEIC, transparency of transparency": graph(26, name=b"auxl"),
    "HEIC, a part of itself": heif({1: b"hvc1", 2: b"hvc1"}, [(b"auxl", 1, [2]), (b"auxl", 2, [1])]),
    "HEIC, an item twice": heif({1: b"hvc1"}, more_entries=infe(1, b"tmap")),
    "HEIC, two lists": heif({1: b"hvc1"}, more=full(b"iref", b"")),
    "HEIC, shared bytes": shared_bytes(),
    "frames within frames": nested_webp(400, 480_000),
    "frames within frames, deep": nested_webp(20_000, 10),
    "TIFF": shared_values(),
    "TIFF, a directory below": shared_values(below=True),
    "TIFF, numbers": shared_values(kind=3, size=19_000),
    "PNG": png_with(b"eXIf", shared_values()),
    "PNG, many": png_with(b"eXIf", shared_values(250, 10), 100),
    "PNG, blocks of no entries": png_with(b"eXIf", b"II*\0\x08\0\0\0", 19_000),
    "PNG, blocks that are none": png_with(b"eXIf", b"", 19_000),
    "WebP, blocks of no entries": with_blocks(19_000),
    "JPEG": jpeg_with(shared_values()),
    "JPEG, EXIF named twice": jpeg_with(b"Exif\0\0" + shared_values()),
    "JPEG, EXIF behind what is like it": jpeg_of(
        (0xE1, b"ExifXX" + bytes(8)), (0xE1, b"Exif\0\0" + shared_values(1500, 30_000))
    ),
    "JPEG, resources by the thousand": jpeg_of(*[(0xED, RESOURCES)] * 5),
    "JPEG, tables by the thousand": jpeg_of(*[(0xDB, bytes(65 * 1_000))] * 5),
    "JPEG, colours by the thousand": jpeg_of(*[(0xC0, b"\x08\0\x20\0\x20\3" + b"\1\x11\0" * 20_000)] * 5),
    "JPEG, comments within a segment that is none": jpeg_of((0xC8, COMMENTS)),
    "JPEG, EXIF within a segment that is none": jpeg_of((0xF0, BLOCKS)),
    "JPEG, EXIF within the last one that is none": jpeg_of((0xFD, BLOCKS)),
    "JPEG, colours of a hierarchy by the thousand": jpeg_of(
        *[(0xDE, b"\x08\0\x20\0\x20\3" + b"\1\x11\0" * 20_000)] * 5
    ),
    "WebP": webp_with(shared_values()),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    with serving(write_model(folder / "colours.onnx"), folder / "log", '{"port": 0, "workers": 1}') as running:
        for _ in range(20):
            running.predict(picture())
        yield running


def median_seconds(server: Running, data: bytes, status: int, repetitions: int) -> float:
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        assert server.predict(data).status_code == status
        times.append(time.perf_counter() - started)
    return sorted(times)[repetitions // 2]


@pytest.mark.parametrize("name", HOSTILE)
def test_picture_made_to_cost_memory_is_refused_at_once_and_leaves_none_behind(server: Running, name: str) -> None:
    refusal = server.predict(HOSTILE[name])
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (413, "image_too_complex"), refusal.text
    before = server.memory()
    ordinary = median_seconds(server, picture(), 200, REPETITIONS // 10)
    assert median_seconds(server, HOSTILE[name], 413, REPETITIONS) < max(0.1, 5 * ordinary)  # the machine may be busy
    assert server.memory() - before < 5


@pytest.mark.parametrize("name", HOSTILE)
def test_refusal_keeps_nothing_of_the_picture(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        images.decode(HOSTILE[name], 32)
    assert caught.value.__context__ is caught.value.__cause__ is None


def counted_segments(data: bytes) -> list[bytes]:
    """Return the contents of a JPEG's comments and metadata that are counted, up to its first scan."""
    found = []
    for kind, at, _ in structure._markers(data):
        if kind == structure.START_OF_SCAN:
            break
        if kind in (*range(0xE0, 0xF0), 0xFE):
            found.append(data[at + 2 : at + int.from_bytes(data[at : at + 2], "big")])
    return found


def read_segments(data: bytes) -> list[bytes] | None:
    """Return the contents of a JPEG's comments and metadata that Pillow reads; None if it refuses the file."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            return [content for _, content in image.applist]
    except OSError:
        return None


def stream_of_markers(draw: random.Random, depth: int = 0) -> bytes:
    """Return markers of every kind, and what is like them; most say a length, a right one or another."""
    pieces = []
    for _ in range(draw.randint(0, 6)):
        marker = bytes([0xFF, draw.choice([*range(0xC0, 0x100), 0, 0xC8, 0xF0, 0xFE, 0xE1, 0xE1])])
        content = stream_of_markers(draw, depth + 1) if depth < 3 else draw.randbytes(2)
        length = len(content) + 2 if draw.random() < 0.9 else draw.randint(0, 9)
        says = struct.pack(">H", length) if draw.random() < 0.9 else b""
        pieces.append(marker + says + content + draw.choice([b"", b"", b"\xff", b"\0\xff\0"]))
    return b"".join(pieces)


def test_every_segment_that_pillow_reads_is_counted() -> None:
    """Lengths were skipped behind markers where Pillow skips none: thousands of segments hid in 64 kB."""
    head, draw, compared = picture("red", "JPEG"), random.Random(5), 0
    for _ in range(6_000):
        data = head[:2] + b"\xff" * draw.randint(0, 1) + stream_of_markers(draw)
        data = data.ljust(3, b"\xff") + head[2:]
        read = read_segments(data)
        compared += bool(read)
        assert read is None or counted_segments(data) == read, data
    assert compared > 500


def test_markers_are_those_of_pillow() -> None:
    handlers = {marker & 0xFF: handler for marker, (_, _, handler) in JpegImagePlugin.MARKER.items()}
    restarts = {*range(0xD0, 0xD8)}  # are passed over as bytes that say nothing
    passed_over = {m for m, handler in handlers.items() if handler is None} - restarts
    assert passed_over == structure.WITHOUT_LENGTH - {*range(0xC0)}
    assert {m for m, handler in handlers.items() if handler is JpegImagePlugin.SOF} == structure.FRAMES
    assert {m for m, handler in handlers.items() if handler is JpegImagePlugin.DQT} == {structure.TABLES}


def test_tiles_of_more_pixels_than_allowed_are_refused_before_one_is_decoded() -> None:
    with pytest.raises(ImageError, match="put together from is over the limit of 50 megapixels"):
        images.decode(tiles(20, 7_000), 32)
    with pytest.raises(ImageError, match="64 x 48 is over the limit"):
        images.decode(HEIC, 32, images.ImageLimits(max_pixels=1_000))
    assert images.decode(HEIC, 32, images.ImageLimits(max_pixels=3_072)).shape == (32, 32, 3)


def test_heic_as_phones_write_it_is_read() -> None:
    data = as_phones_write()
    assert images.decode(data, 32).shape == (32, 32, 3)
    assert images.header(data).width == 128
    assert images.decode(data + b"\0\0\0", 32).shape == images.decode(data + b"trailer of a phone", 32).shape


def test_libheif_is_one_that_reads_no_overlay_beyond_its_bytes() -> None:
    """CVE-2026-32882: before 1.22 what lay behind it in memory came into the pixels."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert "pi-heif>=1.4" in project["dependencies"]
    assert tuple(map(int, pi_heif.libheif_version().split("."))) >= (1, 22)


@pytest.mark.parametrize(
    "data",
    [
        heif({1: b"hvc1"}, more_entries=box(b"infe", b"")),
        heif({1: b"hvc1"}, more=box(b"free", b"")[:7] + b"f" + b"\0\0\1\0free"),
        heif({1: b"hvc1"}, [(b"dimg", 1, [])]).replace(b"dimg\0\1\0\0", b"dimg\0\1\0\1"),
        heif({1: b"hvc1", 2: b"Ex\xc8f"}, [(b"cdsc", 2, [1])]),
        heif({1: b"hvc1"}, more_entries=full(b"infe", struct.pack(">HH4s", 2, 0, b"mime") + b"\0a/\xff\0", 2)),
    ],
    ids=["entry", "length", "reference", "kind", "type of metadata"],  # the last two ended the process
)
def test_boxes_that_cannot_be_read_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        images.decode(data, 32)
    assert caught.value.code == "image_truncated"


def moved(data: bytes, start: bytes) -> bytes:
    """Return a HEIC with some bytes in front of its second box, and all that is coded where its boxes say."""
    at = data.index(b"iloc") + 18
    place = struct.pack(">I", int.from_bytes(data[at : at + 4], "big") + len(start))
    return data[:28] + start + data[28:at] + place + data[at + 4 :]


def in_small_data(base: int, *extents: tuple[int, int]) -> bytes:
    """Return a HEIC whose picture stands among its boxes, in parts: each at the sum of two places, and its length."""
    data = heif({1: b"hvc1"}, more=box(b"idat", CODED))
    at, end = data.index(b"iloc") - 4, 28 + int.from_bytes(data[28:32], "big")
    item = struct.pack(">HHHQH", 1, 1, 0, base, len(extents)) + b"".join(struct.pack(">II", *each) for each in extents)
    places = full(b"iloc", b"\x44\x80\0\1" + item, 1)
    return data[:28] + box(b"meta", data[36:at] + places + data[at + 30 : end]) + data[end:]


PLAIN = heif({1: b"hvc1"})
HIDDEN = struct.unpack(">7H", box(b"thmb", struct.pack(">HHH", 2, 1, 1)))
"""A reference, as numbers of items."""
TWO = {1: b"hvc1", 2: b"hvc1"}
AMBIGUOUS = {
    "a box of four bytes": moved(PLAIN, b"\0\0\0\4"),
    "a place of two bytes": PLAIN.replace(b"iloc\0\0\0\0\x44\0", b"iloc\0\0\0\0\x44\x20"),
    "a place beyond all": in_small_data(2**64 - 8, (8, len(CODED))),
    "a part without a length": in_small_data(0, (0, 0), (0, len(CODED))),
    "a part that ends behind the small data": in_small_data(0, (len(CODED) - 8, 16), (0, len(CODED))),
    "a reference behind another": heif(TWO, [(b"xxxx", 1, [2, *HIDDEN])]).replace(b"xxxx\0\1\0\x08", b"xxxx\0\1\0\1"),
    "a reference behind one of a long name": heif(TWO, [(b"uuid", 1, [0, 0, 0, 0, 0, 0, 2, 1, 1, *HIDDEN])]),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_boxes_that_decoders_read_in_another_way_are_refused(name: str) -> None:
    """Coded data and tiles in them were counted nowhere, and decoded: 16 bytes more took a second more."""
    with pytest.raises(ImageError) as caught:
        images.decode(AMBIGUOUS[name], 32)
    assert caught.value.code == "image_truncated"


@pytest.mark.parametrize("kind", [b"hvc1", b"grid"])
def test_no_part_of_a_picture_may_be_larger_than_a_picture(kind: bytes) -> None:
    """Eight times the limit were allowed in one piece, which decoders make room for several times over."""
    grid = {2: bytes(4) + struct.pack(">HH", 1000, 1000)} if kind == b"grid" else {}
    data = heif({1: b"hvc1", 2: kind}, [(b"auxl", 2, [1])], sizes={2: (1000, 1000)}, contents=grid)
    with pytest.raises(ImageError) as caught:
        images.decode(data, 32, images.ImageLimits(max_pixels=500_000))
    assert caught.value.code == "image_too_many_pixels"


def test_boxes_that_are_like_them_are_read() -> None:
    parts = in_small_data(0, (0, 8), (8, len(CODED) - 8))
    whole = in_small_data(0, (0, len(CODED)))
    for data in (moved(PLAIN, box(b"free", b"")), moved(PLAIN, box(b"uuid", bytes(16))), whole, parts):
        assert images.decode(data, 32).shape == (32, 32, 3)


@pytest.mark.parametrize("packing", [b"", b"\0", b"deflate\0", b"compress_zlib\0", b"br"])
def test_metadata_that_is_packed_is_refused(packing: bytes) -> None:
    """Where libheif can unpack it, that has no bound."""
    entry = full(b"infe", struct.pack(">HH4s", 2, 0, b"mime") + b"name\0application/rdf+xml\0" + packing, 2)
    data = heif({1: b"hvc1"}, more_entries=entry)
    if not packing.strip(b"\0"):
        assert images.decode(data, 32).shape == (32, 32, 3)
        return
    with pytest.raises(ImageError, match="another part that is not read"):
        images.decode(data, 32)


def most_memory() -> float:
    """Return the most MiB that this process has had since the last call."""
    status = Path("/proc/self/status").read_text().splitlines()
    Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def test_animation_is_read_as_its_still_picture_whatever_its_tracks_say() -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    plain = encode(frames[0], "AVIF", save_all=True, append_images=frames[1:], speed=10)
    expected = images.decode(plain, 32)
    assert expected[16, 16].argmax() == 0
    hostile = animation(plain, 1_000_000)
    with Image.open(io.BytesIO(hostile)) as opened:
        assert opened.n_frames == 1_000_000  # type: ignore[attr-defined]
    del opened
    images.decode(plain, 32)
    most_memory()
    before = most_memory()
    assert (images.decode(hostile, 32) == expected).all()
    assert most_memory() - before < 20


@pytest.mark.parametrize("head", [struct.pack(">I4s", 28, b"moov"), struct.pack(">I4sQ", 1, b"moov", 36)])
def test_tracks_of_heic_are_not_read(head: bytes) -> None:
    assert images.decode(heif({1: b"hvc1"}) + head + b"none that is read :-)", 32).shape == (32, 32, 3)
    with pytest.raises(ImageError):
        images.decode(HEIC[:28] + head + b"none that is read :-)", 32)


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_decoder_that_runs_out_of_memory_or_depth_spoils_one_picture_only(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised where Pillow's own decoder would: no file is known that makes it do so."""
    opened = Image.open

    def fails(file: io.BytesIO, **options: object) -> Image.Image:
        if file.getvalue() == picture("green"):
            raise error
        return opened(file, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image, "open", fails)
    pixels = images.stack([images.decode(picture("red"), 32)] * 2)
    failed = decode_into(pixels, [picture("green"), picture("blue")], images.DEFAULT_LIMITS)
    assert "more memory" in failed[0] and not failed[1] and pixels[1, 0, 0].argmax() == 2


def coded(width_bits: str, *, own_size: bool) -> bytes:
    """Return the units of AV1 that begin a sequence of 64 x 64 pixels and a hidden frame of it, which is cut off."""
    sides = f"{width_bits}{width_bits}" + f"{63:b}".zfill(int(width_bits, 2) + 1) * 2
    head = f"00000{'0' * 2}{'0' * 5}{'0' * 17}{sides}0{'0' * 7}0" + "00" + "0" * 40
    frame = f"0000010{int(own_size)}" + "0" * 40
    return b"".join(
        bytes([kind << 3 | 2, len(bits) // 8]) + int(bits[: len(bits) // 8 * 8], 2).to_bytes(len(bits) // 8, "big")
        for kind, bits in ((1, head), (7, frame))
    )


@pytest.mark.parametrize(("width_bits", "own_size"), [("0101", False), ("1111", False), ("0101", True), ("1111", True)])
def test_size_of_a_frame_is_that_of_its_own_header(width_bits: str, own_size: bool) -> None:
    pixels = list(boxes._obus(memoryview(coded(width_bits, own_size=own_size))))
    assert pixels == [0, 2 ** (2 * (int(width_bits, 2) + 1)) if own_size else 64 * 64]


def test_frames_that_are_larger_than_their_boxes_say_are_refused() -> None:
    limits = images.ImageLimits(max_pixels=100_000)
    data = encode(Image.new("RGB", (1_000, 1_000)), "AVIF", speed=10)
    small = data.replace(struct.pack(">II", 1_000, 1_000), struct.pack(">II", 64, 64))
    assert small != data
    with pytest.raises(ImageError, match="What its frames cover is over the limit") as caught:
        images.decode(small, 32, limits)
    assert caught.value.code == "image_too_many_pixels"
    assert images.decode(encode(Image.new("RGB", (300, 300)), "AVIF", speed=10), 32, limits).shape == (32, 32, 3)


def test_tiles_of_avif_count_as_they_are_coded() -> None:
    """Tiles of 64 pixels a side by their boxes made the decoder work for any number of them."""
    limits = images.ImageLimits(max_pixels=100_000)
    assert images.decode(avif(8, 300), 32, limits).shape == (32, 32, 3)
    with pytest.raises(ImageError, match="put together from is over the limit") as caught:
        images.decode(avif(9, 300), 32, limits)
    assert caught.value.code == "image_too_many_pixels"
    assert images.decode(avif(20, 64), 32, limits).shape == (32, 32, 3)


def test_frames_of_one_picture_count_together() -> None:
    limits = images.ImageLimits(max_pixels=4_096)
    frames = coded("0101", own_size=False)
    setup = box(b"av1C", b"\x81\0\x0c\0")
    tiled = {item: b"av01" if item > 1 else b"grid" for item in range(1, 5)}
    contents = dict.fromkeys(tiled, frames * 3) | {1: grid(1, 3)}
    with pytest.raises(ImageError, match="put together from is over the limit"):
        images.decode(heif(tiled, [(b"dimg", 1, [2, 3, 4])], contents=contents, setup=setup), 32, limits)


@pytest.mark.parametrize("kind", [b"hvc1", b"av01"])
def test_canvas_of_tiles_counts_as_it_says_itself(kind: bytes) -> None:
    whole = struct.pack(">BBBBII", 0, 1, 0, 0, 20_001, 20_001)
    data = heif({1: b"grid", 2: kind}, [(b"dimg", 1, [2])], contents={1: whole})
    with pytest.raises(ImageError, match="put together from is over the limit"):
        images.decode(data, 32)


def nals(*units: bytes) -> bytes:
    """Return units of HEVC as coded data holds them."""
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in units)


@pytest.mark.parametrize("number", [32, 33, 34])
def test_parameter_sets_of_a_coded_picture_stand_in_its_setup_only(number: int) -> None:
    """For each of pictures the decoder makes tables of the size its sequence says: 833 bytes took a gigabyte."""
    data = heif({1: b"hvc1"}, contents={1: nals(parameters()[number]) + CODED})
    with pytest.raises(ImageError, match="parameter sets within the data of a coded picture") as caught:
        images.decode(data, 32)
    assert caught.value.code == "image_too_complex"


@pytest.mark.parametrize("units", [{32: 2}, {33: 2}, {34: 5}, {20: 1}, {0: 1}, {35: 1}, {39: 1_001}], ids=str)
def test_setup_of_a_coded_picture_holds_what_it_needs(units: dict[int, int]) -> None:
    """Coded data in it was decoded, before the item's own, and was not counted: 871 bytes took 45 s."""
    with pytest.raises(ImageError, match="more parameter sets or other data in the setup"):
        images.decode(heif({1: b"hvc1"}, setup=configured(units)), 32)


def test_setup_of_a_coded_picture_may_hold_remarks_and_a_few_sets() -> None:
    assert images.decode(heif({1: b"hvc1"}, setup=configured({34: 4, 39: 2, 40: 1})), 32).shape == (32, 32, 3)


@pytest.mark.parametrize(("kind", "said"), [(33, 32), (33, 34), (34, 39), (32, 40)])
def test_units_of_a_setup_stand_in_the_list_of_their_kind(kind: int, said: int) -> None:
    """A sequence in another list was compared with nothing: 800 bytes that said 64 x 64 pixels took four gigabytes."""
    setup = configured({})
    wrong = setup.replace(struct.pack(">BH", kind, 1), struct.pack(">BH", said, 1))
    assert wrong != setup
    with pytest.raises(ImageError, match="other data in the setup") as caught:
        images.decode(heif({1: b"hvc1"}, setup=wrong), 32)
    assert caught.value.code == "image_too_complex"


def test_empty_units_of_a_setup_are_passed_over() -> None:
    setup = configured({})[8:].replace(struct.pack(">BH", 34, 1), struct.pack(">BHH", 34, 2, 0))
    assert images.decode(heif({1: b"hvc1"}, setup=box(b"hvcC", setup)), 32).shape == (32, 32, 3)


def with_sequence(side: int) -> bytes:
    """Return the setup of the coded picture with a sequence of so many pixels a side."""
    unit = parameters()[33]
    bits = "".join(f"{byte:08b}" for byte in unit.replace(b"\0\0\3", b"\0\0"))
    old, new = ("1010" + f"{each + 1:b}".zfill(2 * (each + 1).bit_length() - 1) * 2 for each in (64, side))
    assert bits[120:].startswith(old)  # behind two bytes of head, one, and twelve of profile and level
    bits = bits[:120] + new + bits[120 + len(old) :]
    raw = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    changed = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", raw)
    lengths = [struct.pack(">H", len(each)) + each for each in (unit, changed)]
    return box(b"hvcC", configured({})[8:].replace(*lengths))


def test_pictures_in_hevc_count_as_they_are_coded() -> None:
    """Transparency without a size in the boxes let its decoder make room for any: 1,219 bytes took 1.4 GiB and 29 s."""
    limits = images.ImageLimits(max_pixels=100_000)
    assert images.decode(heif({1: b"hvc1"}, setup=with_sequence(64)), 32, limits).shape == (32, 32, 3)
    assert boxes._coded_area(memoryview(with_sequence(2_000))[8:], boxes.Items()) == 2_000**2
    crop = struct.pack(">8I", 2_000, 1, 2_000, 1, 0, 1, 0, 1)
    for owned in ([], [(1, box(b"clap", crop))]):
        with pytest.raises(ImageError, match="put together from is over the limit") as caught:
            images.decode(heif({1: b"hvc1"}, setup=with_sequence(2_000), owned=owned), 32, limits)
        assert caught.value.code == "image_too_many_pixels"


@pytest.mark.parametrize("head", [b"\x28\1\x80", b"\xa8\1\x80", b"\0\0\x80"], ids=bytes.hex)
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_frames_of_hevc_are_counted_as_the_decoder_reads_them(head: bytes, prefix: int) -> None:
    """It reads lengths of four bytes whatever the setup says, and passes over a unit's first bit: 40 s for 4 kB."""
    setup = bytearray(configured({}))
    setup[8 + 21] = setup[8 + 21] & 0xFC | prefix
    one = heif({1: b"hvc1"}, setup=bytes(setup))
    assert images.decode(one, 32).shape == (32, 32, 3)
    many = heif({1: b"hvc1"}, setup=bytes(setup), contents={1: nals(head) * 4 + CODED})
    with pytest.raises(ImageError, match="more than 4 coded frames"):
        images.decode(many, 32)


def test_slices_that_go_on_count_as_whole_pictures() -> None:
    """Each may say that it begins at the start, and have the decoder go through all that follows."""
    limits, more = images.ImageLimits(max_pixels=4_096), nals(b"\x28\1\x40")
    assert images.decode(heif({1: b"hvc1"}, contents={1: CODED + more * 7}), 32, limits).shape == (32, 32, 3)
    with pytest.raises(ImageError, match="put together from is over the limit") as caught:
        images.decode(heif({1: b"hvc1"}, contents={1: CODED + more * 8}), 32, limits)
    assert caught.value.code == "image_too_many_pixels"


def transformed(*kinds: bytes) -> bytes:
    contents = {b"irot": b"\1", b"imir": b"\0", b"clap": struct.pack(">8I", 60, 1, 40, 1, 0, 1, 0, 1)}
    return heif({1: b"hvc1"}, owned=[(1, box(kind, contents[kind])) for kind in kinds])


def test_one_transform_of_each_kind_is_followed() -> None:
    assert images.header(transformed(b"clap", b"irot", b"imir")).width == 40
    assert images.decode(transformed(b"clap", b"irot", b"imir"), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("kind", [b"irot", b"imir", b"clap"])
def test_several_transforms_of_a_kind_are_refused(kind: bytes) -> None:
    """For each a decoder goes through the whole picture: thousands took minutes."""
    with pytest.raises(ImageError, match="more than one rotation, mirroring or crop") as caught:
        images.decode(transformed(kind, kind), 32)
    assert caught.value.code == "image_too_complex"


def overlay(side: int) -> bytes:
    """Return a HEIC that lays its picture over an empty one of any size."""
    whole = bytes(10) + struct.pack(">HHhh", side, side, 0, 0)
    return heif({1: b"iovl", 2: b"hvc1"}, [(b"dimg", 1, [2])], contents={1: whole})


def in_bits() -> bytes:
    """Return a HEIC whose picture stands beside what says the same in fewer bytes."""
    return HEIC[:28] + box(b"mini", bytes(40)) + HEIC[28:]


@pytest.mark.parametrize(
    "data",
    [overlay(64), overlay(20_000), heif({1: b"tili"}), heif({1: b"hvc1", 2: b"iovl"}, [(b"auxl", 2, [1])]), in_bits()],
    ids=["overlay", "large overlay", "tiles of their own", "overlay beside", "in bits"],
)
def test_parts_that_are_not_counted_are_not_decoded(data: bytes) -> None:
    """An overlay of 20,000 pixels a side took a gigabyte."""
    most_memory()
    before = most_memory()
    with pytest.raises(ImageError, match="with an overlay or another part that is not read") as caught:
        images.decode(data, 32)
    assert caught.value.code == "image_unrecognised"
    assert most_memory() - before < 20


@pytest.mark.parametrize("name", [b"thmb", b"auxl"])
@pytest.mark.parametrize("kind", [b"iovl", b"hvc1"])
def test_picture_that_is_beside_another_is_not_replaced_by_that(name: bytes, kind: bytes) -> None:
    """Its decoder gave the file's first picture then, which might be an overlay of any size: 1,193 bytes took 3 GB."""
    whole = bytes(10) + struct.pack(">HHhh", 8_000, 8_000, 0, 0)
    references = [(b"dimg", 1, [2])] * (kind == b"iovl") + [(name, 3, [1])]
    contents = {1: whole} if kind == b"iovl" else {}
    data = heif({1: kind, 2: b"hvc1", 3: b"hvc1"}, references, contents=contents, primary=3)
    most_memory()
    before = most_memory()
    for ask in (images.header, lambda data: images.decode(data, 32)):
        with pytest.raises(ImageError, match="of a kind that is not read") as caught:
            ask(data)
        assert caught.value.code == "image_unrecognised"
    assert most_memory() - before < 20


def test_what_is_not_decoded_may_be_of_any_kind() -> None:
    references = [(b"thmb", 2, [1]), (b"cdsc", 3, [1])]
    assert images.decode(heif({1: b"hvc1", 2: b"jpeg", 3: b"mime", 4: b"iden"}, references), 32).shape == (32, 32, 3)
    beside = heif({1: b"hvc1", 2: b"mime"}, [(b"auxl", 2, [1])], contents={2: b"depth"})
    assert images.decode(beside, 32).shape == (32, 32, 3)
    same = heif({1: b"iden", 2: b"hvc1"}, [(b"dimg", 1, [2])], contents={1: b""})
    assert images.decode(same, 32).shape == (32, 32, 3)
