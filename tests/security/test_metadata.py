"""A marker is planted in every corner of a picture file; what is kept of the file does not have it any more."""

import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from server_kit import encode

from pupila import images
from pupila.errors import ImageError
from pupila.images.strip import clean, strip

MARKER = b"Rua-das-Flores-17"
XMP = b"\xff\xe1\0\x13" + MARKER
PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def exif() -> Image.Exif:
    """With a description, a user comment, a maker note and a place."""
    made = Image.Exif()
    made[0x010E] = MARKER.decode()
    made[0x8769] = {0x9286: b"ASCII\0\0\0" + MARKER, 0x927C: b"Canon\0" + MARKER}
    made[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0), 27: b"ASCII\0\0\0" + MARKER}
    return made


# JPEG


def jpeg(**options: object) -> bytes:
    return encode(PICTURE, "JPEG", quality=95, **options)


def segment(marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment behind its first marker."""
    data = jpeg()
    return data[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content + data[2:]


def adobe() -> bytes:
    """A JPEG with an APP14 segment that goes on behind its end, and in its unused fields."""
    return segment(0xEE, b"Adobe\0\x64" + MARKER[:4] + b"\x01" + MARKER)


def before_the_end(extra: bytes) -> bytes:
    data = jpeg()
    return data[:-2] + extra + data[-2:]


def dnl() -> bytes:
    return before_the_end(b"\xff\xdc" + struct.pack(">H", len(MARKER) + 2) + MARKER)


def table(marker: int, place: int, values: bytes) -> bytes:
    """A JPEG with a table more, in front of its own."""
    sizes = bytes(7) + bytes([len(values)]) + bytes(8) if marker == 0xC4 else b""
    return segment(marker, bytes([place]) + sizes + values)


def behind_the_scan(marker: int, place: int, values: bytes) -> bytes:
    """A progressive JPEG that defines a table anew where no scan reads it any more."""
    data, more = jpeg(progressive=True), table(marker, place, values)[2:]
    more = more[: 2 + int.from_bytes(more[2:4], "big")]
    at = data.rindex(b"\xff\xda")
    return data[:at] + more + data[at:]


# PNG


def png(mode: str = "RGB", **options: object) -> bytes:
    return encode(PICTURE.convert(mode), "PNG", **options)


def exif_twice() -> bytes:
    """A PNG with a text named exif before its pixels, and real EXIF behind them."""
    text, real = chunk(b"zTXt", b"exif\0\0" + zlib.compress(b"abc")), chunk(b"eXIf", b"II*\0\x08" + bytes(9))
    whole = png()
    head, end = whole.index(b"IDAT") - 4, len(whole) - 12
    return whole[:head] + text + whole[head:end] + real + whole[end:]


def test_text_that_is_named_like_exif_is_none() -> None:
    data = exif_twice()
    assert images.header(data).orientation == 1
    assert images.decode(data, 8).shape == (8, 8, 3)
    cleaned = clean(data)
    assert cleaned is not None and b"eXIf" not in cleaned.data


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_chunk(name: bytes, content: bytes, mode: str = "RGB") -> bytes:
    """A PNG with one more chunk behind IHDR."""
    data = png(mode)
    return data[:33] + chunk(name, content) + data[33:]


def with_pixels(change: Callable[[bytes], bytes], header: bytes = b"") -> bytes:
    """A PNG with other packed pixels, and more in its header."""
    data, at, packed = png(), 33, b""
    while data[at + 4 : at + 8] == b"IDAT":
        length = int.from_bytes(data[at : at + 4], "big")
        packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    return data[:8] + chunk(b"IHDR", data[16:29] + header) + chunk(b"IDAT", change(packed)) + data[at:]


def interlaced(tail: bytes = b"") -> bytes:
    """A PNG in Adam7's seven passes, which Pillow does not write."""
    pixels = np.asarray(PICTURE)
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = [row.tobytes() for x, y, across, down in steps for row in pixels[y::down, x::across] if row.size]
    header = struct.pack(">IIBBBBB", *PICTURE.size, 8, 2, 0, 0, 1)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows)) + tail
    return png()[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def png_texts() -> bytes:
    made = PngImagePlugin.PngInfo()
    made.add_text("Comment", MARKER.decode())
    made.add_itxt("XML:com.adobe.xmp", MARKER.decode())
    return png(pnginfo=made, exif=exif(), icc_profile=MARKER * 20)


# WebP


def webp(**options: object) -> bytes:
    return encode(PICTURE, "WEBP", **options)


def animation() -> bytes:
    other = Image.new("RGB", PICTURE.size, (9, 99, 9))
    return webp(save_all=True, append_images=[other], lossless=True, exif=exif(), xmp=MARKER)


def riff(*chunks: bytes) -> bytes:
    content = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def part(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def parts(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 12
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return found


def changed(data: bytes, name: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A WebP in which every chunk of this name has another content."""
    return riff(*(part(kind, change(content) if kind == name else content) for kind, content in parts(data)))


def still(*more: bytes, alpha: bool = False) -> bytes:
    """An extended WebP of one picture, with more chunks behind it."""
    made = parts(
        encode(PICTURE.convert("RGBA") if alpha else PICTURE, "WEBP", exif=exif(), xmp=MARKER, icc_profile=MARKER)
    )
    return riff(*(part(*one) for one in made), *more)


# Others


def tiff() -> bytes:
    return encode(PICTURE, "TIFF", exif=exif(), tiffinfo={700: MARKER, 33723: MARKER, 270: MARKER.decode()})


PLANTED: dict[str, Callable[[], bytes]] = {
    "JPEG, EXIF": lambda: jpeg(exif=exif()),
    "JPEG, XMP": lambda: segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + MARKER),
    "JPEG, extended XMP": lambda: segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + MARKER),
    "JPEG, IPTC": lambda: segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x11" + MARKER),
    "JPEG, profile": lambda: jpeg(icc_profile=MARKER * 9),
    "JPEG, comment": lambda: jpeg(comment=MARKER),
    "JPEG, thumbnail": lambda: segment(0xE0, b"JFXX\0\x10" + MARKER),
    "JPEG, thumbnail of JFIF": lambda: segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\6" + MARKER),
    "JPEG, other segment": lambda: segment(0xEB, MARKER),
    "JPEG, tail of APP14": adobe,
    "JPEG, number of lines": dnl,
    "JPEG, comment behind the scan": lambda: before_the_end(b"\xff\xfe\0\x13" + MARKER),
    "JPEG, behind the end": lambda: jpeg() + MARKER,
    "JPEG, second picture": lambda: jpeg() + jpeg(comment=MARKER),
    "JPEG, segments by the hundred": lambda: segment(0xED, MARKER).replace(MARKER, MARKER + 300 * XMP),
    "JPEG, a quantisation table for nothing": lambda: table(0xDB, 3, (MARKER * 4)[:64]),
    "JPEG, a quantisation table that is replaced": lambda: table(0xDB, 0, (MARKER * 4)[:64]),
    "JPEG, a quantisation table that comes too late": lambda: behind_the_scan(0xDB, 0, (MARKER * 4)[:64]),
    "JPEG, a Huffman table for nothing": lambda: table(0xC4, 0x13, MARKER),
    "JPEG, a Huffman table that is replaced": lambda: table(0xC4, 0x10, MARKER),
    "JPEG, a Huffman table of no more use": lambda: behind_the_scan(0xC4, 0x01, MARKER),
    "JPEG, size of its pixels": lambda: segment(0xE0, b"JFIF\0\1\1\1" + MARKER[:4] + b"\0\0"),
    "PNG, texts, EXIF and profile": png_texts,
    "PNG, unknown chunk": lambda: with_chunk(b"maRk", MARKER),
    "PNG, text by hand": lambda: with_chunk(b"tEXt", b"Comment\0" + MARKER),
    "PNG, EXIF by hand": lambda: with_chunk(b"eXIf", b"II*\0" + MARKER),
    "PNG, suggested palette": lambda: with_chunk(b"PLTE", (MARKER * 3)[:51]),
    "PNG, transparency of a picture that has its own": lambda: with_chunk(b"tRNS", MARKER, "RGBA"),
    "PNG, content of the end": lambda: png()[:-12] + chunk(b"IEND", MARKER),
    "PNG, behind the end": lambda: png() + MARKER,
    "PNG, behind the packed pixels": lambda: with_pixels(lambda packed: packed + MARKER),
    "PNG, more pixels than there are": lambda: with_pixels(lambda p: zlib.compress(zlib.decompress(p) + MARKER, 0)),
    "PNG, behind the packed pixels of seven passes": lambda: interlaced(MARKER),
    "PNG, another header": lambda: with_pixels(lambda packed: packed, header=MARKER),
    "WebP, EXIF, XMP and profile": lambda: webp(exif=exif(), xmp=MARKER, icc_profile=MARKER * 9),
    "WebP, unknown chunk": lambda: still(part(b"MARK", MARKER)),
    "WebP, second picture": lambda: still(part(b"VP8 ", MARKER)),
    "WebP, transparency without a use": lambda: still(part(b"ALPH", MARKER)),
    "WebP, transparency that it denies": lambda: riff(
        *(part(*one) for one in parts(still())[:1]),
        part(b"ALPH", b"\0" + (MARKER * 36)[:600]),
        *(part(*one) for one in parts(still()) if one[0] == b"VP8 "),
    ),
    "WebP, transparency twice": lambda: still(part(b"ALPH", MARKER), alpha=True),
    "WebP, frame of no animation": lambda: still(part(b"ANMF", MARKER * 2)),
    "WebP, behind the end": lambda: webp() + MARKER,
    "WebP, animation": animation,
    "WebP, chunk in a frame": lambda: changed(animation(), b"ANMF", lambda frame: frame + part(b"MARK", MARKER)),
    "WebP, frame in a frame": lambda: changed(animation(), b"ANMF", lambda frame: frame + part(b"ANMF", MARKER)),
    "WebP, picture twice in a frame": lambda: changed(animation(), b"ANMF", lambda f: f + part(b"VP8L", MARKER)),
    "WebP, tail of the frame's chunks": lambda: changed(animation(), b"ANMF", lambda frame: frame + MARKER[:7]),
    "WebP, tail of ANIM": lambda: changed(animation(), b"ANIM", lambda content: content + MARKER),
    "WebP, tail of VP8X": lambda: changed(animation(), b"VP8X", lambda content: content + MARKER),
    "GIF, comment": lambda: encode(PICTURE, "GIF", comment=MARKER),
    "GIF, other extensions": lambda: encode(PICTURE, "GIF")[:-1] + b"!\xff\x0bXMP DataXMP\x11" + MARKER + b"\0;",
    "TIFF": tiff,
    "BMP": lambda: encode(PICTURE, "BMP") + MARKER,
    "AVIF": lambda: encode(PICTURE, "AVIF", exif=exif(), xmp=MARKER),
}


@pytest.mark.parametrize("corner", PLANTED)
def test_marker_goes_and_pixels_stay(corner: str) -> None:
    data = PLANTED[corner]()
    short = MARKER[:4]
    assert short in data or "profile" in corner
    stripped = strip(data)
    assert stripped is None or short not in stripped.data
    kept = clean(data, images.DEFAULT_LIMITS)
    if kept is None:  # what the server refuses, it does not keep
        with pytest.raises(ImageError):
            images.decode(data, 16)
        return
    assert short not in kept.data
    assert np.array_equal(images.decode(data, 16), images.decode(kept.data, 16))


def test_bytes_that_begin_no_marker_are_looked_at_once() -> None:
    data = jpeg()
    assert strip(data[:-2] + b"\xff" * 2**21 + b"\0" + data[-2:]) is not None
    assert strip(data[:2] + b"\xff" * 2**21 + b"\0" + data[2:]) is None


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_tables_that_are_read_stay(mode: str, progressive: bool) -> None:
    data = encode(PICTURE.convert(mode), "JPEG", progressive=progressive, restart_marker_rows=1)
    kept = clean(data, images.DEFAULT_LIMITS)
    assert kept is not None and kept.kind == "jpg"
    assert np.array_equal(images.decode(data, 16), images.decode(kept.data, 16))


@pytest.mark.parametrize(("marker", "empty"), [(0xC4, bytes(17)), (0xDD, bytes(2)), (0xDB, bytes(65))])
def test_tables_by_the_hundred_thousand_are_not_looked_at(marker: int, empty: bytes) -> None:
    """They took 0.2 s, and restarts 0.9 s, beside answers."""
    content = empty * (65_533 // len(empty))
    tables = (struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content) * 63
    data = jpeg()
    begun = time.process_time()
    assert strip(data[:2] + tables + data[2:]) is None
    assert time.process_time() - begun < 0.1


def behind_a_hidden_end(marker: int) -> bytes:
    """A JPEG that ends where a marker has its length, for decoders, which skip none there; and segments behind that."""
    data = jpeg(progressive=True)
    at = data.index(b"\xff\xda") + 14
    hidden = bytes([0xFF, marker]) + b"\0\4\xff\xd9" + b"\xff\xfe\0\2" * 250_000
    return data[: at + 1] + hidden + b"\xff\xd9"


@pytest.mark.parametrize("marker", [0x02, 0xBF, 0xC8, 0xF0, 0xFD])
def test_what_decoders_do_not_read_as_segments_is_not_looked_at(marker: int) -> None:
    """It took 0.3 s, in a thread that others wait for, as nothing had counted it."""
    data = behind_a_hidden_end(marker)
    begun = time.process_time()
    assert strip(data) is None
    assert time.process_time() - begun < 0.05


def test_segments_are_followed_as_far_as_they_are_counted() -> None:
    data, comment = jpeg(), b"\xff\xfe\0\2"
    assert strip(data[:2] + comment * 900 + data[2:]) is not None
    assert strip(data[:2] + comment * 1_000 + data[2:]) is None


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_common_files_keep_their_coded_data(kind: str) -> None:
    kept = clean({"jpeg": jpeg, "webp": webp}[kind](), images.DEFAULT_LIMITS)
    assert kept is not None
    assert kept.kind == {"jpeg": "jpg"}.get(kind, kind)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_keeps_which_way_is_up_and_nothing_else(orientation: int) -> None:
    made = exif()
    made[0x0112] = orientation
    kept = clean(jpeg(exif=made), images.DEFAULT_LIMITS)
    assert kept is not None
    assert MARKER[:4] not in kept.data
    assert np.array_equal(images.decode(jpeg(exif=made), 16), images.decode(kept.data, 16))
