"""From bytes to pixels: every kind of picture people send, every limit, every kind of damage."""

import io
import pickle
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pupila.errors import ImageError
from pupila.images import ImageLimits, decode, encode_png, resize, stack
from pupila.images.decoder import BARS, _small_rgb, _to_rgb, _without_palette

COLOUR = (200, 40, 90)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(mode="RGB", size=(32, 32), colour=COLOUR):
    return Image.new(mode, size, colour)


def quarters():
    """Four colours in the corners: any turn or mirror image can be told from any other."""
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16, :16], pixels[:16, 16:], pixels[16:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return pixels


def test_picture_of_the_right_size_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels)), 32), pixels)


def test_png_written_by_us_decodes_to_the_same_pixels():
    pixels = np.random.default_rng(1).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    assert np.array_equal(decode(encode_png(pixels), 48), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    inverse = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = Image.fromarray(quarters())
    stored = stored if inverse is None else stored.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode(encoded(stored, exif=exif), 32), quarters())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(plain("L", colour=130)), (130, 130, 130)),
        (encoded(plain("1", colour=1)), (255, 255, 255)),
        (encoded(plain().quantize()), COLOUR),
        (encoded(plain("RGBA", colour=(*COLOUR, 255))), COLOUR),
        (encoded(plain("RGBA", colour=(*COLOUR, 0))), (255, 255, 255)),
        (encoded(plain("RGBA", colour=(0, 0, 0, 51))), (204, 204, 204)),
        (encoded(plain("LA", colour=(0, 0))), (255, 255, 255)),
        (encoded(Image.fromarray(np.full((32, 32), 130 * 257, dtype=np.uint16))), (130, 130, 130)),
        (encoded(plain("CMYK", colour=(0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (encoded(plain("F", colour=0.5), "TIFF"), (128, 128, 128)),
        (encoded(plain(), "WEBP", lossless=True), COLOUR),
        (encoded(plain(), "AVIF", quality=100), COLOUR),
        (encoded(plain(), "GIF"), COLOUR),
        (encoded(plain(), "BMP"), COLOUR),
        (encoded(plain(), "GIF", save_all=True, append_images=[plain(colour=(0, 0, 0))]), COLOUR),
    ],
    ids=[
        "gray", "bilevel", "palette", "opaque", "transparent", "half-transparent", "gray-alpha", "16-bit", "cmyk",
        "float", "webp", "avif", "gif", "bmp", "animated",
    ],
)  # fmt: skip
def test_every_mode_becomes_rgb(data, expected):
    assert np.abs(decode(data, 32).astype(int) - expected).max() <= 2


def test_cmyk_jpeg_as_photo_programs_write_it_is_not_inverted():
    assert (
        np.abs(decode(encoded(plain("CMYK", colour=(0, 255, 255, 0)), "JPEG"), 32).astype(int) - (255, 0, 0)).max() < 20
    )


def test_transparent_palette_colour_shows_the_background():
    image = plain().quantize()
    assert np.abs(decode(encoded(image, transparency=image.getpixel((0, 0))), 32).astype(int) - 255).max() == 0


def test_animation_with_a_broken_second_frame_is_answered_from_its_first():
    data = encoded(plain(), "GIF", save_all=True, append_images=[Image.fromarray(quarters())])
    assert np.abs(decode(data[:-40], 32).astype(int) - COLOUR).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_animated_webp_with_a_broken_second_frame_is_answered_from_its_first(mode):
    frames = [plain().convert(mode), Image.fromarray(quarters()).convert(mode)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.abs(decode(data[:-20], 32).astype(int) - COLOUR).max() <= 2


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("PNG", "LA"), ("PNG", "RGBA"), ("WEBP", "RGB")])
def test_biggest_picture_costs_bounded_memory(kind, mode):
    """In a process of its own, whose peak is its own: a worker decodes several at a time."""
    code = f"""
import io
from PIL import Image
from pupila.images import decode
buffer = io.BytesIO()
Image.new({mode!r}, (7000, 7000)).save(buffer, {kind!r}, compress_level=1, quality=1, method=0)
decode(buffer.getvalue(), 32)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 900


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "1", "CMYK"])
@pytest.mark.parametrize("size", [(3001, 700), (1500, 1001)])
def test_big_picture_shrunk_strip_by_strip_is_the_same_as_at_once(mode, size):
    image = Image.effect_noise(size, 90).convert("RGB").convert(mode)
    if mode == "P":
        image.info["transparency"] = 3
    factor = min(size) // (4 * 32)
    at_once = _to_rgb(_without_palette(image).reduce(factor))
    strips = _small_rgb(image, 32)
    assert strips.mode == at_once.mode and np.array_equal(np.asarray(strips), np.asarray(at_once))


def test_whole_picture_is_kept_when_it_is_not_square():
    wide = Image.fromarray(np.concatenate([quarters(), quarters()], axis=1))
    small = decode(encoded(wide), 32)
    assert small[0, 0].argmax() == 0 and small[0, 31].argmax() == 1


def test_big_jpeg_decoded_at_reduced_scale_looks_as_if_it_were_not():
    draw = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    big = Image.fromarray(draw).resize((1024, 1024), Image.Resampling.BICUBIC)
    data = encoded(big, "JPEG", quality=95)
    slow = Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(decode(data, 32).astype(int) - np.asarray(slow)).max() <= 8


def test_resize_of_pixels_is_the_same_as_of_a_file():
    pixels = np.random.default_rng(4).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    assert np.array_equal(resize(pixels, 32), decode(encode_png(pixels), 32))


def huge_png(width, height):
    """A PNG of a few kB that unpacks to width x height black pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * min(height, 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


JPEG = encoded(Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "image_empty"),
        (b"hello, this is no picture", "image_unrecognised"),
        (b"\xff\xd8\xff", "image_truncated"),
        (JPEG[:300], "image_truncated"),
        (encoded(plain(), "WEBP")[:30], "image_truncated"),
        (JPEG[: len(JPEG) // 2], "image_truncated"),
        (huge_png(10_000, 10_000), "image_too_many_pixels"),
        (huge_png(20_000, 20_000), "image_too_many_pixels"),
        (b"x" * (20 * 2**20 + 1), "image_too_many_bytes"),
    ],
)
def test_bad_picture_is_refused_with_its_code(data, code):
    with pytest.raises(ImageError) as error:
        decode(data, 32)
    assert error.value.code == code


def test_limit_names_the_picture_and_the_limit():
    with pytest.raises(ImageError, match=r"32 x 32 is over the limit of 0\.001 megapixels"):
        decode(encoded(plain()), 32, ImageLimits(max_pixels=1000))


def test_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        decode(tmp_path / "none.jpg", 32)


def test_error_crosses_process_borders():
    error = pickle.loads(pickle.dumps(ImageError("image_empty", "words")))  # noqa: S301, our own bytes
    assert (error.code, str(error)) == ("image_empty", "words")


def test_stack_joins_pictures_in_order():
    pictures = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (1, 2, 3)]
    assert stack(pictures).shape == (3, 8, 8, 3) and stack(pictures)[2, 0, 0, 0] == 3


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(JPEG) - 1), st.binary(min_size=1, max_size=8))
def test_damaged_bytes_give_pixels_or_an_image_error(position, junk):
    try:
        pixels = decode(JPEG[:position] + junk + JPEG[position + len(junk) :], 32)
    except ImageError:
        return
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8


def test_letterbox_keeps_the_shape_between_two_bars():
    framed = decode(encoded(plain(size=(64, 32))), 32, framing="letterbox")
    assert (framed[8:24] == COLOUR).all() and (framed[:8] == BARS).all() and (framed[24:] == BARS).all()
    upright = decode(encoded(plain(size=(32, 64))), 32, framing="letterbox")
    assert np.array_equal(upright, framed.transpose(1, 0, 2))


def test_letterbox_leaves_squares_as_they_are_and_shows_even_a_line():
    pixels = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels))
    assert np.array_equal(decode(data, 32, framing="letterbox"), decode(data, 32))
    assert (decode(encoded(plain(size=(4000, 2))), 32, framing="letterbox") == COLOUR).all(axis=2).sum() == 32


def test_letterbox_shrinks_photos_as_it_does_small_pictures():
    photo = Image.fromarray(quarters()).resize((1600, 800), Image.Resampling.NEAREST)
    framed = decode(encoded(photo, "JPEG", quality=95), 32, framing="letterbox").astype(int)
    slow = np.full((32, 32, 3), BARS)
    slow[8:24] = np.asarray(photo.resize((32, 16), Image.Resampling.BILINEAR))
    assert np.abs(framed - slow).max() <= 24  # at the borders of the colours, by JPEG and by the filter's own steps
    assert np.abs(framed - slow).mean() < 2
