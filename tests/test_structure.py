"""Files that are built to take long are refused before any decoder reads them; what programs write is not."""

import io
import random
import struct
import zlib
from contextlib import nullcontext

import pytest
from PIL import Image

from pupila import images
from pupila.errors import ImageError
from pupila.images import formats, limits


def passes(data: bytes) -> int:
    return limits.count_work(formats.sniff(data), data).passes


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def picture(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 90).convert(mode).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def jpeg(scans: int, frame: int = 0xC2, side: int = 64) -> bytes:
    """Return a JPEG of three components whose scans hold zeros, and one component each."""
    tables = segment(0xC4, b"\0" + bytes([1, *[0] * 15, 0])) + segment(0xC4, b"\x10" + bytes([1, *[0] * 15, 0xE0]))
    start = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64))
    start += segment(frame, struct.pack(">BHHB", 8, side, side, 3) + b"\1\x11\0\2\x11\0\3\x11\0") + tables
    first = segment(0xDA, b"\1\1\0\0\0\0") + bytes(side * side // 512)
    return start + first + (segment(0xDA, b"\1\1\0\1\x3f\0") + b"\0") * (scans - 1) + b"\xff\xd9"


def inserted(data: bytes, at: int, piece: bytes, count: int) -> bytes:
    return data[:at] + piece * count + data[at:]


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4)


SMALL_GIF = picture("GIF", "P")
GIF_PICTURE = 13 + 3 * (2 << (SMALL_GIF[10] & 7))
EXCESSIVE = {
    "scans of a progressive JPEG": jpeg(101),
    "scans of a sequential JPEG": jpeg(101, 0xC1),
    "segments of a JPEG": inserted(picture("JPEG"), 2, segment(0xE1, b"Exif\0\0" + bytes(9)), 1_000),
    "profiles of a PNG": inserted(picture("PNG"), 33, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10**6))), 2),
    "texts of a PNG": inserted(picture("PNG"), 33, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(9))), 65),
    "chunks of a PNG": inserted(picture("PNG"), 33, chunk(b"tEXt", b"k\0v"), 20_000),
    "blocks of a GIF": inserted(SMALL_GIF, GIF_PICTURE, b"!\xfe\1c\0", 10_001),
    "blocks of a GIF's comment": inserted(SMALL_GIF, GIF_PICTURE, b"!\xfe" + b"\1c" * 20_001 + b"\0", 1),
    "strips of a TIFF": tiff((256, 3, 1, 1), (257, 4, 1, 90_000), (273, 4, 90_000, 8), (279, 4, 90_000, 8))
    + bytes(360_000),
    "entries of a TIFF": tiff(*[(256 + i, 3, 1, 1) for i in range(20_001)]),
    "entries of a big TIFF": b"MM\0+\0\x08\0\0" + struct.pack(">QQ", 16, 20_001) + bytes(20 * 20_001),
}


@pytest.mark.parametrize("name", EXCESSIVE)
def test_file_that_would_take_long_is_refused_and_told_why(name: str) -> None:
    with pytest.raises(ImageError, match=r"more than [0-9,]+ [a-z]+") as caught:
        images.decode(EXCESSIVE[name], 32)
    assert caught.value.code == "image_too_complex"


@pytest.mark.parametrize(
    "data",
    [
        picture("JPEG"),
        picture("JPEG", "CMYK"),
        picture("JPEG", progressive=True),
        picture("MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))]),
        picture("PNG"),
        picture("GIF", "P", comment=b"c" * 5_000),
        picture("TIFF"),
        picture("TIFF", "P", compression="tiff_lzw"),
        picture("TIFF", big_tiff=True),
        picture("WEBP"),
        picture("AVIF"),
        inserted(picture("PNG"), 33, chunk(b"tEXt", b"k\0v"), 500),
        inserted(picture("PNG"), 33, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**5))), 20),
        jpeg(100),
    ],
)
def test_what_programs_write_is_read(data: bytes) -> None:
    assert images.decode(data, 32).shape == (32, 32, 3)


def test_scans_are_counted_as_the_decoder_meets_them() -> None:
    """A film after the picture, as phones append it, and bytes in metadata may look like scans."""
    assert passes(picture("JPEG")) == passes(picture("JPEG", "L")) == 1
    assert passes(picture("JPEG", progressive=True)) == 10
    film = b"\xff\xda" * 500 + random.Random(3).randbytes(9_000)
    whole = picture("JPEG", progressive=True, comment=b"\xff\xda" * 500)
    assert passes(whole + film) == 10
    assert passes(jpeg(40)) == 40 and passes(jpeg(7, 0xC1)) == 7


def test_pixels_gone_through_often_count_often() -> None:
    asked: list[int] = []
    files = (jpeg(1), jpeg(10), jpeg(100))
    for data in files:
        images.decode(data, 32, lock=lambda pixels: nullcontext(asked.append(pixels)))
    beside = [work.coded + work.parts for work in (limits.count_work("JPEG", data) for data in files)]
    assert [all_ - more for all_, more in zip(asked, beside, strict=True)] == [64 * 64, 64 * 64, 10 * 64 * 64]


def test_more_than_a_file_has_room_for_is_damage_and_bytes_are_no_numbers() -> None:
    assert passes(tiff((256, 3, 1, 1), (700, 1, 30_000, 30)) + bytes(30_000)) == 1
    assert passes(tiff((256, 3, 1, 1), (273, 4, 2**32 - 1, 8), (279, 99, 90_000, 8))) == 1
    assert passes(b"II*\0\x08\0\0\0" + struct.pack("<H", 65_535) + bytes(99)) == 1


@pytest.mark.parametrize("cut", range(9, 64, 3))
def test_beginnings_of_files_are_left_to_the_decoder(cut: int) -> None:
    for data in (picture("JPEG"), picture("PNG"), SMALL_GIF, picture("TIFF"), picture("TIFF", big_tiff=True)):
        assert passes(data[:cut]) in (1, limits.COLOURED)


def test_texts_that_unpack_to_much_are_not_kept_in_memory() -> None:
    text = zlib.compress("\U0001f600".encode() + bytes(10**6))
    data = inserted(picture("PNG"), 33, b"".join(chunk(b"iTXt", b"k%d\0\1\0\0\0" % i + text) for i in range(20)), 1)
    with pytest.raises(ImageError, match="damaged"):
        images.decode(data, 32)
