"""Pictures as devices and programs write them: read right, or refused by the name of what they are."""

import base64
import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pupila import images
from pupila.errors import ImageError
from pupila.images.wide import span

HEIC = (Path(__file__).parent / "quarters.heic").read_bytes()
HALVES = np.zeros((48, 64, 3))
HALVES[:, :32], HALVES[:, 32:] = (0.8, 0.2, 0.4), (0.1, 0.6, 0.9)
COLOURS = images.resize((HALVES * 255).astype(np.uint8), 32).astype(int)
GRAYS = images.resize(np.repeat(HALVES[..., :1] * 255, 3, axis=2).astype(np.uint8), 32).astype(int)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description %s/></rdf:RDF></x:xmpmeta>'


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def difference(data: bytes, expected: object = COLOURS) -> int:
    return int(np.abs(images.decode(data, 32).astype(int) - expected).max())


def chunk(name: bytes, content: bytes, right: bool = True) -> bytes:
    checksum = zlib.crc32(name + content) ^ (not right)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def deep_png(values: object) -> bytes:
    """Return a PNG of 16 bits a colour."""
    pixels = np.asarray(values).astype(">u2")
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, {2: 4, 3: 2, 4: 6}[pixels.shape[2]], 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def deep_tiff(
    values: object, planes: bool = False, packed: bool = False, order: str = "<", predictor: int = 1
) -> bytes:
    """Return a TIFF of these numbers, as scientific programs write it: one strip a plane."""
    pixels = np.asarray(values)
    if predictor == 2:
        pixels = np.diff(pixels, axis=1, prepend=pixels.dtype.type(0))
    pixels = pixels.astype(pixels.dtype.newbyteorder(order))
    colours = pixels.shape[2] if pixels.ndim == 3 else 1
    parts = [pixels[..., i].tobytes() for i in range(colours)] if planes else [pixels.tobytes()]
    parts = [zlib.compress(part) for part in parts] if packed else parts
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    rows: list[tuple[int, str, list[int]]] = [
        (256, "I", [pixels.shape[1]]), (257, "I", [pixels.shape[0]]), (258, "H", [pixels.dtype.itemsize * 8] * colours),
        (259, "H", [8 if packed else 1]), (262, "H", [2 if colours > 2 else 1]), (273, "I", [0] * len(parts)),
        (277, "H", [colours]), (278, "I", [pixels.shape[0]]), (279, "I", [len(part) for part in parts]),
        (284, "H", [2 if planes else 1]), (317, "H", [predictor]), (339, "H", [kind]),
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(rows) + 4
    rows[5] = (273, "I", list(itertools.accumulate([start, *map(len, parts[:-1])])))
    body, directory = b"".join(parts), b""
    for tag, letter, numbers in rows:
        value = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        if len(value) > 4:
            body, value = body + value, struct.pack(f"{order}I", start + len(body))
        directory += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[letter], len(numbers)) + value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(rows))
    return head + directory + bytes(4) + body


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize(
    ("kind", "white"),
    [
        ("f4", 1),
        ("f8", 1),
        ("f2", 1),
        ("f4", 255),
        ("u2", 65535),
        ("u2", 4095),
        ("u2", 1023),
        ("i4", 255),
        ("u4", 4095),
    ],
)
def test_tiff_of_many_bits_has_the_colours_of_one_of_eight(
    kind: str, white: int, planes: bool, packed: bool, order: str
) -> None:
    assert difference(deep_tiff((HALVES * white).astype(kind), planes, packed, order)) <= 1
    assert difference(deep_tiff((HALVES[..., 0] * white).astype(kind), False, packed, order), GRAYS) <= 1


@pytest.mark.parametrize("planes", [False, True])
def test_tiff_of_differences_between_neighbours_is_read(planes: bool) -> None:
    assert difference(deep_tiff((HALVES * 4095).astype("u2"), planes, True, predictor=2)) <= 1


@pytest.mark.parametrize("white", [65535, 4095, 1023])
def test_tiff_of_16_bits_that_libtiff_unpacks_is_read_by_the_bits_that_it_uses(white: int) -> None:
    """Its strip is packed anew, as PackBits: runs of 128 bytes as they are."""
    data = bytearray(deep_tiff((HALVES * white).astype("u2")))
    at = data.index(struct.pack("<HHI", 259, 3, 1))
    start = struct.unpack_from("<I", data, data.index(struct.pack("<HHI", 273, 4, 1)) + 8)[0]
    strip = bytes(data[start : start + 48 * 64 * 6])
    rows = b"".join(bytes([127]) + strip[i : i + 128] for i in range(0, len(strip), 128))
    data[at + 8 : at + 10] = struct.pack("<H", 32773)
    place = data.index(struct.pack("<HHI", 273, 4, 1)) + 8
    data[place : place + 4] = struct.pack("<I", len(data))
    place = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
    data[place : place + 4] = struct.pack("<I", len(rows))
    assert difference(bytes(data) + rows) <= 1


def test_colours_in_planes_that_nobody_reads_right_are_refused_by_name() -> None:
    data = deep_tiff((HALVES * 4095).astype("u2"), planes=True)
    packed = data.replace(struct.pack("<HHIH", 259, 3, 1, 1), struct.pack("<HHIH", 259, 3, 1, 5))
    with pytest.raises(ImageError, match=r"a TIFF of a kind that is not read \(16 bits, compression 5\)"):
        images.decode(packed, 32)


@pytest.mark.parametrize("white", [65535, 16383, 4095, 1023, 255])
def test_png_of_16_bits_is_read_by_the_bits_that_it_uses(white: int) -> None:
    values = HALVES * white
    assert difference(deep_png(values)) <= 1
    assert difference(deep_png(np.concatenate([values, np.full((48, 64, 1), 65535)], axis=2))) <= 1
    assert difference(deep_png(np.stack([values[..., 0], np.full((48, 64), 65535)], axis=2)), GRAYS) <= 1
    gray = Image.fromarray(values[..., 0].astype(np.uint16))
    assert max(difference(encoded(gray, "PNG"), GRAYS), difference(encoded(gray, "TIFF"), GRAYS)) <= 1
    assert difference(encoded(gray, "TIFF", compression="tiff_lzw"), GRAYS) <= 1


@pytest.mark.parametrize("packing", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_tiff_whose_smallest_value_is_white_is_read_so(kind: str, packing: str | None) -> None:
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[kind]
    gray = Image.fromarray((HALVES[..., 0] * white).astype(kind))
    data = encoded(gray, "TIFF", **({} if packing is None else {"compression": packing}))
    photometric = struct.pack("<HHIH", 262, 3, 1, 1)
    assert difference(data, GRAYS) <= 1
    assert difference(data.replace(photometric, struct.pack("<HHIH", 262, 3, 1, 0)), 255 - GRAYS) <= 1


def test_what_is_no_number_is_black_and_spoils_nothing_else() -> None:
    values = HALVES[..., 0].astype(np.float32)
    values[:6], values[6:12] = np.nan, -np.inf
    pixels = images.decode(deep_tiff(values), 32).astype(int)
    assert not pixels[:6].any() and np.abs(pixels[10:] - GRAYS[10:]).max() <= 1


def test_range_without_a_usual_white_is_stretched_from_its_smallest_value_to_its_largest() -> None:
    assert span(-3.0, 5.0, True) == (-3.0, 5.0) and span(0, 70_000, False) == (0, 70_000)
    assert span(-0.01, 1.01, True) == (0.0, 1.0)


def test_heic_is_read() -> None:
    pixels = images.decode(HEIC, 32).astype(int)
    corners = pixels[2, 2], pixels[2, 29], pixels[29, 2], pixels[29, 29]
    for corner, colour in zip(corners, ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)), strict=True):
        assert np.abs(corner - colour).max() < 12
    assert images.header(HEIC).format == "HEIF" and (images.header(HEIC).width, images.header(HEIC).height) == (64, 48)


@pytest.mark.parametrize("cut", [40, 200, 450, 700])
def test_heic_that_is_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(ImageError, match="cut off or damaged"):
        images.decode(HEIC[:cut], 32)


def test_heic_whose_contents_lie_behind_its_end_is_called_cut_off_and_not_too_complex() -> None:
    start = HEIC.index(b"mdat") + 4
    place = HEIC.index(struct.pack(">I", start), HEIC.index(b"iloc"))
    with pytest.raises(ImageError, match="cut off or damaged"):
        images.decode(HEIC[: place + 4] + struct.pack(">I", 2**24) + HEIC[place + 8 :], 32)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_without_its_end_marker_is_used_and_one_without_its_last_part_is_not(progressive: bool) -> None:
    noise = Image.effect_noise((400, 300), 60).convert("RGB")
    data = encoded(noise, "JPEG", progressive=progressive, quality=80)
    whole = images.decode(data, 32)
    for cut in (1, 2):
        assert np.array_equal(images.decode(data[:-cut], 32), whole)
        assert images.header(data[:-cut]).note == "It has no end marker."
    assert images.header(data).note == ""
    for cut in (len(data) // 50, len(data) // 3, len(data) - 700):
        with pytest.raises(ImageError, match="cut off or damaged"):
            images.decode(data[:-cut], 32)


@pytest.mark.parametrize("name", [b"tEXt", b"cHRM", b"tIME"])
def test_wrong_checksum_beside_the_pixels_of_a_png_is_passed_over(name: bytes) -> None:
    data = encoded(Image.fromarray((HALVES * 255).astype(np.uint8)), "PNG")
    wrong = chunk(name, bytes(32), right=False)
    assert difference(data[:33] + wrong + data[33:]) == 0
    assert difference(data[:-12] + wrong + data[-12:]) == 0
    assert "checksum" in images.header(data[:33] + wrong + data[33:]).note
    at = data.index(b"IDAT") + 6
    with pytest.raises(ImageError, match="cut off or damaged"):
        images.decode(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :], 32)


def test_what_follows_the_end_of_a_png_is_not_looked_at() -> None:
    data = encoded(Image.fromarray((HALVES * 255).astype(np.uint8)), "PNG")
    more = data + chunk(b"tEXt", bytes(32), right=False) * 3
    assert images.header(more).note == "" and difference(more) == 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("words", [b'tiff:Orientation="6"', b"tiff:Orientation='6'"])
def test_orientation_that_only_xmp_says_is_applied(kind: str, words: bytes) -> None:
    image = Image.fromarray((HALVES * 255).astype(np.uint8))
    if kind == "PNG":
        plain = encoded(image, kind)
        text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % words)
        data = plain[:33] + text + plain[33:]
    else:
        options: dict[str, object] = {"tiffinfo": {700: XMP % words}} if kind == "TIFF" else {"xmp": XMP % words}
        data = encoded(image, kind, **options, **({} if kind == "TIFF" else {"quality": 95}))
    turned = images.resize(np.asarray(image.transpose(Image.Transpose.ROTATE_270)), 32).astype(int)
    assert difference(data, turned) <= 24


@pytest.mark.parametrize("data", [b"P1\n# note\n4 2\n1 0 0 1 1 1 1 1\n", b"P2 2 1 15 0 15\n", b"P3 1 1 255 9 9 9\n"])
def test_pnm_written_as_text_is_read(data: bytes) -> None:
    assert images.decode(data, 32).shape == (32, 32, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_pnm_is_read(mode: str) -> None:
    image = Image.fromarray((HALVES * 255).astype(np.uint8)).convert(mode)
    assert difference(encoded(image, "PPM"), images.decode(encoded(image, "PNG"), 32).astype(int)) == 0
    for white in (4095, 900):  # in the second picture nothing is as bright as its head allows
        deep = b"P5 64 48 4095\n" + (HALVES[..., 0] * white).astype(">u2").tobytes()
        assert difference(deep, GRAYS * white / 4095) <= 1


def bitmap(alpha: int) -> bytes:
    """Return a BMP whose header (version 4) says where its transparency is."""
    rows = bytes([60, 90, 200, alpha]) * 64
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 8, 8, 1, 32, 3, len(rows), 2835, 2835, 0, 0) + masks + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows


def test_bmp_with_an_empty_fourth_byte_is_opaque() -> None:
    assert (images.decode(bitmap(0), 8) == (200, 90, 60)).all()
    assert (images.decode(bitmap(255), 8) == (200, 90, 60)).all()
    assert images.decode(bitmap(1), 8).min() > 250


SMALL = Image.fromarray((HALVES * 255).astype(np.uint8))
FOREIGN = {
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "web page (HTML)": b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
    "JSON": b'{"error": "not found"}',
    "XML": b"<?xml version='1.0'?><Error/>",
    "drawing (SVG)": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "text 'horse.jpg'": b"horse.jpg",
    "data URL": b"data:image/png;base64,AAAA",
    "it is text": "não é uma imagem".encode(),
    "PDF": b"%PDF-1.7\n",
    "video (MP4 or MOV)": b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
    "video (AVI)": b"RIFF\0\0\0\0AVI LIST",
    "zip archive": b"PK\3\4" + bytes(30),
    "gzip": zlib.compress(b"", wbits=31),
    "JPEG 2000": encoded(SMALL, "JPEG2000"),
    "Targa": encoded(SMALL, "TGA"),
    "icon (ICO)": encoded(SMALL, "ICO"),
    "PCX": encoded(SMALL, "PCX"),
    "PFM": b"PF\n2 2\n-1.0\n" + bytes(48),
    "JPEG XR": b"II\xbc\1" + bytes(60),
    "Photoshop": b"8BPS\0\1" + bytes(20),
    "raw file (CR3)": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "camera's raw file": b"II*\0\x10\0\0\0CR\2\0" + bytes(40),
    "lossless": b"\xff\xd8\xff\xc3\0\x0b\x08\0\x10\0\x10\1\1\x11\0" + bytes(40),
    "JPEG of 12 bits": b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x10\0\x10\1\1\x11\0" + bytes(40),
    "CgBI": b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", bytes(4)) + encoded(SMALL, "PNG")[8:33] + chunk(b"IDAT", bytes(99)),
    "compression 34712": deep_tiff(HALVES.astype("u2")).replace(
        struct.pack("<HHI", 259, 3, 1) + b"\1\0", struct.pack("<HHIH", 259, 3, 1, 34712)
    ),
    "notes on a file (AppleDouble)": b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60),
    "SGI": encoded(SMALL, "SGI"),
    "PNG in base64": base64.encodebytes(encoded(SMALL, "PNG")),
    "shortcut of Windows": b"L\0\0\0\1\x14\2\0" + bytes(60),
    "zero bytes": bytes(500),
    "no format that is known": bytes(range(200, 256)) * 9,
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_picture_that_is_read_is_refused_by_its_name_and_never_called_damaged(what: str) -> None:
    with pytest.raises(ImageError) as caught:
        images.decode(FOREIGN[what], 32)
    assert caught.value.code == "image_unrecognised" and what in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_picture_that_is_cut_off_is_called_so(kind: str) -> None:
    data = encoded(SMALL, kind)
    with pytest.raises(ImageError, match="cut off or damaged"):
        images.decode(data[: len(data) * 2 // 3], 32)


def test_file_over_the_limit_is_not_read_and_its_size_is_named(tmp_path: Path) -> None:
    path = tmp_path / "big.png"
    with path.open("wb") as file:
        file.truncate(34_694_301)
    with pytest.raises(ImageError, match=r"has 34,694,301 bytes, over the limit of 20,971,520"):
        images.decode(path, 32)
