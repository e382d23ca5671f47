"""HEIC files for tests, put together from boxes around one real coded picture of 64 x 48 pixels."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

HEIC = (Path(__file__).parent / "quarters.heic").read_bytes()
CODED = HEIC[HEIC.index(b"mdat") + 4 :]
"""What is coded of it: one unit, the length in front."""
Reference = tuple[bytes, int, Sequence[int]]
"""Its name, from which item, and to which."""


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def full(name: bytes, content: bytes, version: int = 0) -> bytes:
    return box(name, bytes([version, 0, 0, 0]) + content)


def infe(item: int, kind: bytes) -> bytes:
    return full(b"infe", struct.pack(">HH4s", item, 0, kind) + b"\0", 2)


def grid(rows: int, columns: int) -> bytes:
    """Return what an item of that kind holds, for coded pictures as tiles."""
    return struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, 64 * columns, 64 * rows)


def parameters() -> dict[int, bytes]:
    """Return the units in the setup of the coded picture, by their kinds."""
    at, found = 172 + 8 + 23, {}
    for _ in range(HEIC[at - 1]):
        length = struct.unpack(">H", HEIC[at + 3 : at + 5])[0]
        found[HEIC[at] & 63], at = HEIC[at + 5 : at + 5 + length], at + 5 + length
    return found


def configured(numbers: dict[int, int]) -> bytes:
    """Return the setup of the coded picture with so many units of some kinds; unknown ones are left empty."""
    known, lists = parameters(), b""
    for kind, number in (dict.fromkeys(known, 1) | numbers).items():
        unit = known.get(kind, bytes([kind << 1, 1, 0]))
        lists += struct.pack(">BH", kind, number) + (struct.pack(">H", len(unit)) + unit) * number
    return box(b"hvcC", HEIC[180:202] + bytes([len(known.keys() | numbers.keys())]) + lists)


def heif(
    kinds: dict[int, bytes],
    references: Sequence[Reference] = (),
    sizes: dict[int, tuple[int, int]] | None = None,
    contents: dict[int, bytes] | None = None,
    primary: int = 1,
    more: bytes = b"",
    more_entries: bytes = b"",
    profile: bytes = b"",
    setup: bytes = HEIC[172:290],
    owned: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """Return a HEIC of these items; those without contents of their own are the coded picture.

    `more` stands behind the boxes of `meta`, `more_entries` behind those of `iinf`. All have the same colour `profile`.
    `setup` is the box of coded pictures, an AVIF's is of AV1; `owned` are more properties of items.
    """
    hdlr, shared = HEIC[40:73], setup + full(b"auxC", b"urn:com:apple:photo:2020:aux:hdrgainmap\0")
    auxiliary = {item for name, item, _ in references if name == b"auxl"}
    sizes, contents = sizes or {}, contents or {}
    properties, links, entries = shared + box(b"colr" if profile else b"free", b"prof" + profile), b"", b""
    for number, (item, kind) in enumerate(kinds.items(), start=4):
        properties += full(b"ispe", struct.pack(">II", *sizes.get(item, (64, 64))))
        named = [0x8001] * (kind in (b"hvc1", b"av01")) + [2] * (item in auxiliary) + [3] * bool(profile) + [number]
        named += [0x8004 + len(kinds) + more for more, (owner, _) in enumerate(owned) if owner == item]
        links += struct.pack(f">HB{len(named)}H", item, len(named), *named)
        entries += infe(item, kind)
    properties += b"".join(content for _, content in owned)
    count = struct.pack(">H", len(kinds))
    iprp = box(b"iprp", box(b"ipco", properties) + box(b"ipma", b"\0\0\0\1" + struct.pack(">I", len(kinds)) + links))
    names = full(b"iinf", count + entries + more_entries)
    iref = full(b"iref", b"".join(
        box(name, struct.pack(f">HH{len(others)}H", item, len(others), *others)) for name, item, others in references
    ))  # fmt: skip
    bodies = [contents.get(item, CODED) for item in kinds]

    def meta(at: int) -> bytes:
        places = b""
        for item, body in zip(kinds, bodies, strict=True):
            places += struct.pack(">HHHII", item, 0, 1, at, len(body))
            at += len(body)
        iloc = full(b"iloc", b"\x44\0" + count + places)
        return full(b"meta", hdlr + iloc + names + full(b"pitm", struct.pack(">H", primary)) + iprp + iref + more)

    start = HEIC[:28] if b"hvcC" in setup else HEIC[:28].replace(b"heic", b"avif")
    return start + meta(28 + len(meta(0)) + 8) + box(b"mdat", b"".join(bodies))


def avif(tiles: int, side: int, said: int = 64) -> bytes:
    """Return an AVIF of so many tiles in a row, coded with `side` pixels a side, of which the boxes say `said`."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "AVIF", speed=10)
    data = buffer.getvalue()
    setup, coded = data.index(b"av1C") - 4, data[data.index(b"mdat") + 4 :]
    kinds = {1: b"grid"} | dict.fromkeys(range(2, tiles + 2), b"av01")
    sizes = {1: (said * tiles, said)} | dict.fromkeys(range(2, tiles + 2), (said, said))
    whole = struct.pack(">BBBBHH", 0, 0, 0, tiles - 1, said * tiles, said)
    contents = dict.fromkeys(kinds, coded) | {1: whole}
    references: list[Reference] = [(b"dimg", 1, range(2, tiles + 2))]
    return heif(kinds, references, sizes, contents, setup=data[setup : setup + 12])


def as_phones_write() -> bytes:
    """Return what phones write: tiles, gain map, thumbnail, depth, EXIF, and what puts base and gain map together."""
    kinds = dict.fromkeys(range(1, 5), b"hvc1")
    kinds |= {10: b"grid", 11: b"hvc1", 12: b"tmap", 13: b"hvc1", 14: b"hvc1", 15: b"Exif"}
    references: list[Reference] = [
        (b"dimg", 10, range(1, 5)), (b"dimg", 12, [10, 11]), (b"auxl", 11, [10]), (b"thmb", 13, [10]),
        (b"auxl", 14, [10]), (b"cdsc", 15, [10, 12]),
    ]  # fmt: skip
    contents = {10: grid(2, 2), 12: bytes(64), 15: bytes(4) + b"II*\0\x08\0\0\0" + bytes(6)}
    return heif(kinds, references, {10: (128, 128)}, contents, primary=10)


def animation(data: bytes, samples: int) -> bytes:
    """Return an animated AVIF whose tracks say that they have so many samples of one byte each, all at one place."""
    at = data.index(b"moov") - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    per_chunk = 2_000
    tables = {
        b"stsz": struct.pack(">II", 1, samples),
        b"stsc": struct.pack(">IIII", 1, 1, per_chunk, 1),
        b"stts": struct.pack(">III", 1, samples, 100),
        b"stco": struct.pack(">I", samples // per_chunk) + struct.pack(">I", 100) * (samples // per_chunk),
    }

    def changed(start: int, stop: int) -> bytes:
        made = b""
        while start < stop:
            length, name = struct.unpack(">I4s", data[start : start + 8])
            if name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
                made += box(name, changed(start + 8, start + length))
            else:
                made += full(name, tables[name]) if name in tables else data[start : start + length]
            start += length
        return made

    room = box(b"free", bytes(end - at - 8))  # so that all else stays in its place
    return data[:at] + room + data[end:] + box(b"free", bytes(per_chunk)) + changed(at, end)
