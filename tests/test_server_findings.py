"""What fuzzing has found: each finding, made as small as it goes, is refused and no longer the server's own fault."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from server_kit import encode, serving, write_model

from pupila import images
from pupila.errors import ImageError


def png(mode: str, *extra: tuple[bytes, bytes], palette: int = 256, value: int = 200) -> bytes:
    """Return a PNG with chunks put before its data."""
    image = Image.new(mode, (8, 8), value)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data, chunks, at = buffer.getvalue(), [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if name == b"PLTE":
            content = content[: 3 * palette]
        if name == b"IDAT":
            chunks += list(extra)
        if content or name != b"PLTE":
            chunks.append((name, content))
        at += 12 + length
    return data[:8] + b"".join(
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks
    )


@pytest.mark.parametrize(
    "data",
    [
        png("P", (b"tRNS", bytes(4)), palette=2),
        png("P", (b"tRNS", b"\xff\x00\xff"), palette=1),
        png("P", palette=0),
        png("P", (b"tRNS", bytes(678)), palette=0),
        png("RGB", (b"tRNS", bytes(1)), value=0),
        png("L", (b"tRNS", bytes(5)), value=0),
    ],
)
def test_palette_or_transparency_that_makes_no_sense_is_answered_or_refused(data: bytes) -> None:
    try:
        assert images.decode(data, 8).shape == (8, 8, 3)
    except ImageError as error:
        assert error.code in ("image_truncated", "image_unrecognised")


def test_broken_tiff_writes_nothing_into_the_servers_log(tmp_path: Path) -> None:
    whole = encode(Image.effect_noise((61, 47), 90), "TIFF", compression="tiff_adobe_deflate")
    broken = [whole[:at] + b"\xff" * 9 + whole[at + 9 :] for at in (60, 500, len(whole) - 60)] + [whole[:-20]]
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", '{"port": 0, "workers": 1}') as server:
        before = server.log.read_text()
        assert server.predict(whole).status_code == 200
        assert {server.predict(data).status_code for data in broken} <= {415, 422}
        assert server.log.read_text() == before
