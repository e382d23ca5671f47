"""Recognises what a file is by its content, and opens it with the one decoder of its format; mends what harms no pixel.

Names of files are never looked at. Every start of a file that is read belongs to exactly one decoder.
"""

import contextlib
import io
import itertools
import struct
import zlib
from collections.abc import Callable
from functools import cache

from PIL import AvifImagePlugin, Image, ImageChops, ImageFile

from pupila.errors import ImageError
from pupila.images import limits, tiff, wide

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF", "HEIF", "PPM")
"""What is decoded. A short list keeps rarely used decoders out of reach."""

STARTS = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF",
}  # fmt: skip
BITMAP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
"""Lengths of what follows the head of a BMP: two letters alone would be too little to tell."""
AVIF_BRANDS = (b"avif", b"avis")
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")

OTHER_KIND = "a picture in boxes (HEIF) of a kind that is not read"
SAVE = "Save it as JPEG or PNG."
UNPACK = "Unpack it and send the pictures."
FRAME = "Send one frame of it as JPEG or PNG."
DECODE = "Send the bytes that it stands for, or put it into JSON."
BINARY = "Read the file as bytes, not as text, and send those."
PICTURE = "Send a picture."
OTHERS = {
    (0, SAVE): {
        b"%PDF": "a PDF document", b"8BPS": "a Photoshop file (PSD)", b"\0\0\0\x0cjP  ": "JPEG 2000",
        b"\xff\x4f\xff\x51": "JPEG 2000", b"\0\0\0\x0cJXL ": "JPEG XL", b"\xff\x0a": "JPEG XL",
        b"\0\0\1\0": "an icon (ICO)", b"icns": "an icon (ICNS)", b"%!PS": "PostScript",
        b"gimp xcf": "a GIMP file (XCF)", b"qoif": "QOI", b"DDS ": "a texture (DDS)", b"v/1\1": "OpenEXR",
        b"#?RADIANCE": "Radiance HDR", b"P7\n": "a PAM picture", b"PF\n": "a PFM picture in colour",
        b"II\xbc\1": "JPEG XR", b"BPG\xfb": "BPG",
        b"\x93NUMPY": "a NumPy array", b"\x89HDF": "an HDF5 file", b"SIMPLE  =": "a FITS file",
        b"FUJIFILMCCD-RAW": "a camera's raw file (RAF)", b"IIRO": "a camera's raw file (ORF)",
        b"IIRS": "a camera's raw file (ORF)", b"IIU\0": "a camera's raw file (RW2)",
        b"FOVb": "a camera's raw file (X3F)", b"\1\xda\0\1": "SGI", b"\1\xda\1\1": "SGI", b"AT&TFORM": "DjVu",
        b"\xc5\xd0\xd3\xc6": "PostScript", b"\xd7\xcd\xc6\x9a": "a Windows metafile (WMF)",
    },
    (0, UNPACK): {
        b"PK\3\4": "a zip archive", b"\x1f\x8b": "gzip", b"7z\xbc\xaf\x27\x1c": "a 7z archive",
        b"Rar!": "a RAR archive", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2",
    },
    (0, BINARY): {
        **dict.fromkeys((b"\xef\xbf\xbd" * 3, b"\xc3\xbf\xc3\x98\xc3\xbf"), "a JPEG that was taken for text"),
        **dict.fromkeys((b"\xef\xbf\xbdPNG", b"\xc2\x89PNG", b"\x89PNG"), "a PNG that was taken for text"),
    },
    (0, DECODE): {
        b"/9j/": "a JPEG in base64", b"iVBORw0KGgo": "a PNG in base64", b"UklGR": "a WebP in base64",
        b"R0lGODlh": "a GIF in base64",
    },
    (0, "Send the file that they belong to."): {b"\0\5\x16\7": "macOS's notes on a file (AppleDouble)"},
    (4, SAVE): {b"ftypcrx ": "a camera's raw file (CR3)"},
    (4, FRAME): {
        b"ftyp": "a video (MP4 or MOV)", b"moov": "a video (MOV)", b"mdat": "a video (MOV)", b"wide": "a video (MOV)",
    },
    (0, FRAME): {b"\x1a\x45\xdf\xa3": "a video (WebM or Matroska)"},
    (8, FRAME): {b"AVI ": "a video (AVI)"},
    (0, PICTURE): {
        b"RIFF": "a sound file (RIFF)", b"ID3": "music (MP3)", b"OggS": "sound or video (Ogg)",
        b"SQLite format 3": "an SQLite database", b"\x7fELF": "a program", b"MZ": "a program",
        b"L\0\0\0\1\x14\2\0": "a shortcut of Windows", b"\xd0\xcf\x11\xe0": "an old document of Office",
    },
    (40, SAVE): {b" EMF": "a Windows metafile (EMF)"},
    (257, UNPACK): {b"ustar": "a tar archive"},
    (128, SAVE): {b"DICM": "a DICOM file"},
}  # fmt: skip
"""Other files: by where their sign stands and what to do with them, their signs and what they are."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
RARE_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE)
END = b"\xff\xd9"
"""A JPEG's last marker."""
LONG = {"JPEG": 2_000_000, "PNG": 4 * 2**20, "WEBP": 4 * 2**20}
"""Bytes beyond which even looking for the parts of a file takes a while, of the formats that are not rare. Of a plain
JPEG it does not: photos of cameras are as long as that, and longer."""
DECODINGS = 3
"""How often a JPEG without an end marker is decoded at most: as it is, with an end, and with JUNK before that."""
JUNK = bytes(range(1, 97, 2))
"""Stands for the rest of a JPEG that may be cut off: it changes the pixels if there was a rest."""


def is_rare(data: bytes) -> bool:
    """True for formats whose decoders cannot be bounded by how a file is built or are in Python, and for long files.

    Of what is no picture none is rare: nothing of it is read.
    """
    kind = _kind_of(data)
    return kind is not None and len(data) > LONG.get(kind, 0) and not (kind == "JPEG" and limits.is_plain_jpeg(data))


def sniff(data: bytes) -> str:
    """Return which of FORMATS but MPO, which is a JPEG, a file is; raises ImageError that names what it is instead."""
    kind = _kind_of(data)
    if kind == "TIFF" and tiff.is_raw(data):
        raise unrecognised("a camera's raw file", SAVE)
    if kind is not None:
        return kind
    raise unrecognised(*_other(data))


def what_it_is(data: bytes) -> str:
    """Return what a file is by its first bytes, as the end of "it is"."""
    if not data:
        return "empty (0 bytes)"
    kind = _kind_of(data)
    return f"a picture ({kind})" if kind else _other(data)[0]


def unrecognised(what: str, fix: str) -> ImageError:
    """Return the refusal of something that is not read."""
    return ImageError("image_unrecognised", f"Not a picture that can be read: it is {what}. {fix}")


def brands(data: bytes) -> list[bytes]:
    """Return the brands of a file made of boxes, its own first, as HEIC, AVIF and MP4 are; none of other files."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), 256, len(data))
    return [data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))]


def _kind_of(data: bytes) -> str | None:
    return next((kind for start, kind in STARTS.items() if data.startswith(start)), None) or _by_structure(data)


def _by_structure(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in BITMAP_HEADERS:
        return "BMP"
    if (data[:2] == b"Pf" or (data[:1] == b"P" and data[1:2] in b"123456")) and data[2:3].isspace():
        return "PPM"
    known = brands(data)
    if any(brand in AVIF_BRANDS for brand in known):
        return "AVIF"
    return "HEIF" if any(brand in HEIF_BRANDS for brand in known) else None


def _other(data: bytes) -> tuple[str, str]:
    for (at, fix), signs in OTHERS.items():
        for sign, what in signs.items():
            if data.startswith(sign, at):
                return what, fix
    if data[:1] == b"\x0a" and data[1:2] in b"\0\2\3\4\5" and data[2:3] in b"\0\1":
        return "PCX", SAVE
    if data[-18:-2] == b"TRUEVISION-XFILE" or _like_targa(data):
        return "a Targa picture (TGA)", SAVE
    if not any(data[:4096]):
        return "nothing but zero bytes", "Copy it again."
    return _text(data) or ("of no format that is known here", f"Send one of {', '.join(FORMATS)}.")


def _like_targa(data: bytes) -> bool:
    """True for the head of a TGA, which has no sign of its own."""
    return (
        len(data) > 18
        and data[1] < 2
        and data[2] in (1, 2, 3, 9, 10, 11)
        and data[16] in (8, 15, 16, 24, 32)
        and any(data[12:14])
        and any(data[14:16])
        and (data[1] == 1 or not any(data[3:8]))
    )


def _text(data: bytes) -> tuple[str, str] | None:
    """Return what a text is; None if it is none."""
    try:
        text = data[:1024].decode("utf-8-sig", "strict" if len(data) <= 1024 else "ignore").strip()
    except UnicodeDecodeError:
        return None
    if any(ord(letter) < 32 and letter not in "\t\r\n\f" for letter in text) or "\x7f" in text:
        return None
    low = text.lower()
    if low.startswith("version https://git-lfs"):
        return "a Git LFS pointer, and not the picture itself", "Fetch the pictures with: git lfs pull"
    if "<html" in low or low.startswith("<!doctype html"):
        return "a web page (HTML)", "Download the picture itself."
    if "<svg" in low:
        return "a drawing (SVG)", SAVE
    if low.startswith("<"):
        return "XML", "Download the picture itself."
    if low.startswith(("{", "[")):
        return "JSON", "Send the picture itself."
    if low.startswith("data:"):
        return "a data URL", DECODE
    if low.endswith(SUFFIXES) and len(low.splitlines()) == 1:
        return f"the text {text[:80]!r}", "Send the file itself: with curl, -F file=@NAME has an @."
    return "text", "Send the picture itself."


def unusual(kind: str, data: bytes, error: Exception) -> str | None:
    """Return what kind of a known format it is, if it is whole and no decoder here reads it; None if it is damaged."""
    if kind == "JPEG":
        frame = limits.jpeg_frame(data)
        if data[3:4] == b"\xf7" or (frame and frame[0] in RARE_FRAMES):
            return "a JPEG of a rare kind (lossless or hierarchical)"
        return f"a JPEG of {frame[3]} bits" if len(frame) > 3 and frame[3] != 8 else None
    if kind == "TIFF":
        return tiff.unusual(data)
    if kind == "BMP" and data[30:34] in (b"\4\0\0\0", b"\5\0\0\0"):
        return "a BMP that holds a JPEG or PNG"
    if kind == "PNG" and data[12:16] == b"CgBI":
        return "a PNG of Apple's own kind (CgBI)"
    if kind in ("HEIF", "AVIF") and ("support" in str(error) or "codec" in str(error)):
        return OTHER_KIND
    return None


def open_header(kind: str, data: bytes) -> tuple[Image.Image, str]:
    """Read the header, and say what had to be passed over for that; raises nearly any type of error."""
    try:
        return _opener(kind, data), ""
    except Exception:  # of nearly any type
        mended = limits.first_frame(data) if kind == "WEBP" else None
        if mended is None:
            raise
    return _opener(kind, mended), "Pictures after its first are damaged."


def _opener(kind: str, data: bytes) -> Image.Image:
    if kind == "HEIF":
        image = _heif_opener()(io.BytesIO(data))
        if not image.info["primary"]:  # it gives its first where that is a thumbnail or part of another: nothing judged
            raise unrecognised(OTHER_KIND, SAVE)
        return image
    if kind == "TIFF":
        with contextlib.suppress(SyntaxError, ValueError, struct.error):
            return wide.NumbersTiff(io.BytesIO(data))
        if tiff.is_misread(data):
            raise SyntaxError("Pillow would give other colours")
    if kind == "AVIF":
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # else a thread a core of the machine, for each decoder of a picture
    image = _opened(kind, data)
    if kind == "PPM":
        wide.prepare_ppm(image)
    return image


@cache
def _heif_opener() -> Callable[[io.BytesIO], Image.Image]:
    try:
        from pi_heif import options  # takes 0.1 s, which only those wait for who have such pictures
        from pi_heif.as_plugin import HeifImageFile
    except ImportError:
        message = "HEIC is read by the package pi-heif, which is missing. Install it with: pip install pi-heif"
        raise ImageError("image_unrecognised", message) from None
    options.DECODE_THREADS = 1
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    opener: Callable[[io.BytesIO], Image.Image] = HeifImageFile
    return opener


def lacks_end(kind: str, data: bytes) -> bool:
    """True for a JPEG without an end marker behind the beginning of its last scan."""
    return kind == "JPEG" and not data.endswith(END) and data.find(END, max(data.rfind(b"\xff\xda"), 0)) < 0


def load_damaged(kind: str, data: bytes, reduced: tuple[int, int] | None) -> Image.Image | None:
    """Return the pixels of a file that Pillow could not load; None if it is damaged. `reduced` is for draft()."""
    if not lacks_end(kind, data):
        return None
    data = data.rstrip(b"\xff")
    image, other = (_jpeg(data + rest, reduced) for rest in (END, JUNK + END))
    return image if ImageChops.difference(image, other).getbbox(alpha_only=False) is None else None


def _opened(kind: str, data: bytes) -> ImageFile.ImageFile:
    """Read a header. A JPEG is given to its decoder in one piece: else it reads a run of FF again with each piece."""
    image = Image.open(io.BytesIO(data), formats=[kind])
    if kind == "JPEG":
        image.decodermaxblock = len(data)
    return image


def _jpeg(data: bytes, reduced: tuple[int, int] | None) -> Image.Image:
    image = _opened("JPEG", data)
    if reduced is not None:
        image.draft("RGB", reduced)
    image.load()
    return image


def without_wrong_texts(data: bytes) -> tuple[bytes, str]:
    """Return a PNG without its ancillary chunks of a wrong checksum, as browsers pass over them, and say so.

    Ancillary are those of texts, times and colour profiles: their names begin with a small letter.
    """
    view, kept, at = memoryview(data), [memoryview(data)[:8]], 8
    for name, start, end in itertools.islice(limits.png_chunks(data), limits.MAX_BLOCKS):
        if end + 4 > len(data):
            break
        if name[:1].isupper() or zlib.crc32(view[start - 4 : end]) == int.from_bytes(data[end : end + 4], "big"):
            kept.append(view[at : end + 4])
        at = end + 4
        if name == b"IEND":
            break
    if sum(map(len, kept)) == at:
        return data, ""
    return b"".join((*kept, view[at:])), "A text or profile in it has a wrong checksum."
