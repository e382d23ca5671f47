"""What the files of a data set say about themselves: formats, modes, sizes, and what is odd. Decodes no pixels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pupila import images
from pupila.data.decoding.worker import read
from pupila.data.sources.entries import Entry
from pupila.data.splits import Skipped
from pupila.errors import ImageError
from pupila.images import Header, ImageLimits
from pupila.progress import Progress

ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
}
"""By format: what names end in."""
PLAIN_MODES = frozenset(("RGB", "L", "P", "1", "RGBA", "LA"))
"""Stored in a way that any program shows alike."""
TINY = 16
"""Shorter side in pixels below which a photo holds next to nothing."""


@dataclass
class Survey:
    """Counts over all files whose header could be read."""

    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Width and height as seen, after the EXIF rotation."""
    rotated: int = 0
    """Files that are turned by their EXIF entry."""
    odd: list[Skipped] = field(default_factory=list)
    """Pictures that are used, and worth a look: name and what is odd."""

    def quantiles(self) -> dict[str, tuple[float, float, float]]:
        """Return smallest, median and largest of width, height and aspect ratio (width / height)."""
        sides = np.asarray(list(self.sizes.elements()), dtype=np.float64).reshape(-1, 2)
        if not len(sides):
            return {}
        columns = {"width": sides[:, 0], "height": sides[:, 1], "width / height": sides[:, 0] / sides[:, 1]}
        return {name: (float(v.min()), float(np.median(v)), float(v.max())) for name, v in columns.items()}


def survey(entries: Sequence[Entry], limits: ImageLimits) -> Survey:
    """Read the headers; files that cannot be read are left to those who decode them."""
    found = Survey()
    with Progress("looking at headers", len(entries)) as bar:
        for entry in entries:
            bar.advance()
            try:
                header = images.header(read(entry.source, limits), limits)
            except (ImageError, OSError):
                continue
            _count(found, header)
            reason = _odd(entry, header)
            if reason:
                found.odd.append(Skipped(entry.name, reason))
    return found


def _count(found: Survey, header: Header) -> None:
    turned = header.orientation >= 5
    found.formats[header.format] += 1
    found.modes[header.mode] += 1
    found.sizes[(header.height, header.width) if turned else (header.width, header.height)] += 1
    found.rotated += header.orientation != 1


def _odd(entry: Entry, header: Header) -> str:
    name = entry.parts[-1]
    ending = f".{name.rpartition('.')[2].lower()}" if "." in name else ""
    reasons = []
    if ending and ending not in ENDINGS.get(header.format, (ending,)):
        reasons.append(f"It is {header.format}, and its name ends in {ending}.")
    if header.mode not in PLAIN_MODES:
        reasons.append(f"Its colours are stored as {header.mode}; they are turned into RGB.")
    if min(header.width, header.height) < TINY:
        reasons.append(f"It has {header.width} x {header.height} pixels.")
    return " ".join(reasons)
