"""Makes whole what other programs show all the same: a few faults that harm no pixel. What is cut off stays refused."""

import io
import zlib

from PIL import Image, ImageChops

from pupila.images import limits

END = b"\xff\xd9"
"""A JPEG's last marker."""
JUNK = bytes(range(1, 97, 2))
"""Stands for the rest of a JPEG that may be cut off: it changes the pixels if there was a rest."""


def whole(kind: str, data: bytes) -> bytes | None:
    """Return a file without what keeps Pillow from reading its header; None if nothing of the kind is wrong."""
    if kind == "WEBP":
        return limits.first_frame(data)
    return _without_wrong_texts(data) if kind == "PNG" else None


def lacks_end(kind: str, data: bytes) -> bool:
    """True for a JPEG without an end marker behind the beginning of its last scan."""
    return kind == "JPEG" and data.find(END, max(data.rfind(b"\xff\xda"), 0)) < 0


def loaded(kind: str, data: bytes, reduced: tuple[int, int] | None) -> Image.Image | None:
    """Return the pixels of a file that Pillow could not load; None if it is damaged. `reduced` is for draft()."""
    if kind == "PNG" and (mended := _without_wrong_texts(data)) is not None:
        picture = Image.open(io.BytesIO(mended), formats=["PNG"])
        picture.load()
        return picture
    if not lacks_end(kind, data):
        return None
    data = data.rstrip(b"\xff")
    image, other = (_jpeg(data + rest, reduced) for rest in (END, JUNK + END))
    return image if ImageChops.difference(image, other).getbbox(alpha_only=False) is None else None


def _jpeg(data: bytes, reduced: tuple[int, int] | None) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    if reduced is not None:
        image.draft("RGB", reduced)
    image.load()
    return image


def _without_wrong_texts(data: bytes) -> bytes | None:
    """Return a PNG without its ancillary chunks of a wrong checksum, as browsers pass over them; None if there is none.

    Ancillary are those of texts, times and colour profiles: their names begin with a small letter.
    """
    view, kept, at = memoryview(data), [memoryview(data)[:8]], 8
    for _ in range(limits.MAX_BLOCKS):
        name = data[at + 4 : at + 8]
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 12 + length
        if len(name) < 4 or end > len(data):
            break
        if name[:1].isupper() or zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big"):
            kept.append(view[at:end])
        at = end
    joined = b"".join((*kept, view[at:]))
    return joined if len(joined) < len(data) else None
