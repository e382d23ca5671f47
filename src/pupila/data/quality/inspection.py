"""Finds what is wrong with a data set: leaks, copies, unusable files, odd formats and sizes. Changes nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pupila import images
from pupila.data.dataset import SkippedFiles, Splits, first_listed
from pupila.data.load import OpenedSource
from pupila.data.quality.class_balance import imbalance, remedy
from pupila.data.quality.duplicates import find_duplicates
from pupila.data.sources.files import SourceFile
from pupila.errors import ImageError
from pupila.images import DEFAULT_LIMITS, Header, ImageLimits
from pupila.progress import progress_bar

ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
}
"""By format: what names end in."""
DEEP_MODES = ("I", "F")
"""What Pillow calls grey of 16 and 32 bits begins so."""
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
    odd: SkippedFiles = field(default_factory=SkippedFiles)
    """Pictures that are used, and worth a look: name and what is odd."""

    def quantiles(self) -> dict[str, tuple[float, float, float]]:
        """Return smallest, median and largest of width, height and aspect ratio (width / height)."""
        sides = np.asarray(list(self.sizes.elements()), dtype=np.float64).reshape(-1, 2)
        if not len(sides):
            return {}
        columns = {"width": sides[:, 0], "height": sides[:, 1], "width / height": sides[:, 0] / sides[:, 1]}
        return {name: (float(v.min()), float(np.median(v)), float(v.max())) for name, v in columns.items()}


def survey(entries: Sequence[SourceFile], limits: ImageLimits) -> Survey:
    """Read the headers; files that cannot be read are left to those who decode them."""
    found = Survey()
    with progress_bar("looking at headers", len(entries)) as bar:
        for entry in entries:
            bar.update(1)
            try:
                header = images.header(entry.source, limits)
            except (ImageError, OSError):
                continue
            turned = header.orientation >= 5
            found.formats[header.format] += 1
            found.modes[header.mode] += 1
            found.sizes[(header.height, header.width) if turned else (header.width, header.height)] += 1
            found.rotated += header.orientation != 1
            if reason := _odd(entry, header):
                found.odd.add(entry.name, reason)
    return found


def _odd(entry: SourceFile, header: Header) -> str:
    reasons = []
    if entry.ending and entry.ending not in ENDINGS.get(header.format, (entry.ending,)):
        reasons.append(f"It is {header.format}, and its name ends in {entry.ending}.")
    if header.mode.startswith(DEEP_MODES):
        reasons.append("It has more than 8 bits a pixel: the range that it uses is stretched to 8.")
    elif header.mode not in PLAIN_MODES:
        reasons.append(f"Its colours are stored as {header.mode}; they are turned into RGB.")
    if min(header.width, header.height) < TINY:
        reasons.append(f"It has {header.width} x {header.height} pixels.")
    if header.note:
        reasons.append(header.note)
    return " ".join(reasons)


UNIFORM = 2.0
"""Standard deviation of each colour for itself, 0 to 255, below which a picture shows nothing: all red does so, too."""


@dataclass(frozen=True)
class Place:
    """One picture: its part, its row there, its name and its class."""

    part: str
    row: int
    name: str
    category: str

    def letters(self) -> int:
        """Return how many letters its names have."""
        return len(self.name) + len(self.category)


@dataclass(frozen=True)
class Twins:
    """Two pictures that are one."""

    first: Place
    second: Place
    exact: bool
    mirrored: bool
    similarity: float

    def letters(self) -> int:
        """Return how many letters the names of both have."""
        return self.first.letters() + self.second.letters()

    @property
    def leak(self) -> bool:
        """True if they are in different parts: one trains the model that the other is to judge."""
        return self.first.part != self.second.part

    @property
    def disagree(self) -> bool:
        """True if they are of different classes: one of the labels is wrong, or both."""
        return self.first.category != self.second.category


@dataclass(frozen=True, eq=False)
class Inspection:
    """Everything that a report says about one data set."""

    splits: Splits
    survey: Survey | None
    """None for data sets that are not made of picture files."""
    twins: tuple[Twins, ...]
    """Across parts first, then those of different classes, then exact ones, then by likeness."""
    uniform: tuple[Place, ...]

    def leaked(self, exact: bool | None = None) -> dict[str, int]:
        """Return, by part, how many of the pictures have a twin in a part that comes before; exact ones only, or not.

        The parts come in the order train, validation, test: so it is the pictures that are to judge that are counted.
        """
        chosen = [twins for twins in self.twins if twins.leak and (exact is None or twins.exact == exact)]
        rows = {part: {t.second.row for t in chosen if t.second.part == part} for part in self.splits.parts()}
        return {part: len(found) for part, found in rows.items() if found}

    def to_json(self) -> dict[str, Any]:
        """Return all of it but the pixels: of long lists the first, see dataset.MAX_LISTED, and how many there are."""
        splits = self.splits
        parts = {
            name: dict(zip(part.classes, part.counts().tolist(), strict=True)) for name, part in splits.parts().items()
        }
        files = self.survey and {
            "formats": dict(self.survey.formats),
            "modes": dict(self.survey.modes),
            "sizes": self.survey.quantiles(),
            "rotated": self.survey.rotated,
            "odd": [asdict(item) for item in self.survey.odd],
            "odd_count": len(self.survey.odd) + self.survey.odd.more,
        }
        return {
            "name": splits.name,
            "layout": splits.layout,
            "notes": list(splits.notes),
            "fingerprint": splits.fingerprint,
            "size": splits.train.size,
            "counts": parts,
            "leaked": self.leaked(),
            "leaked_exact": self.leaked(exact=True),
            "twins": [{**asdict(twins), "leak": twins.leak} for twins in first_listed(self.twins, Twins.letters)],
            "twins_count": len(self.twins),
            "skipped": [asdict(item) for item in splits.skipped],
            "skipped_count": splits.skipped_count(),
            "uniform": [asdict(place) for place in first_listed(self.uniform, Place.letters)],
            "uniform_count": len(self.uniform),
            "files": files or None,
            "imbalance": imbalance(splits.train.counts()),
            "balance": remedy(splits.train.counts(), "auto"),
        }


def inspect_dataset(
    source: str | Path,
    size: int | None = None,
    *,
    cache: Path | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    name_encoding: str | None = None,
) -> Inspection:
    """Load a source as training does, and look at it from all sides; raises what load_dataset() raises."""
    opened = OpenedSource(source, name_encoding)
    splits = opened.load(size, cache=cache, limits=limits)
    places = [
        Place(name, row, part.names[row] if part.names else str(row), part.classes[label])
        for name, part in splits.parts().items()
        for row, label in enumerate(part.labels.tolist())
    ]
    pictures = [part.images for part in splits.parts().values()]
    twins = [
        Twins(places[pair.first], places[pair.second], pair.exact, pair.mirrored, pair.similarity)
        for pair in find_duplicates(pictures)
    ]
    twins.sort(key=lambda t: (not t.leak, not t.disagree, not t.exact, -t.similarity))
    uniform = [
        place
        for place, picture in zip(places, chain(*pictures), strict=True)
        if picture.reshape(-1, 3).std(axis=0).max() < UNIFORM
    ]
    used = {split: set(part.names) for split, part in splits.parts().items()}
    files = [
        item.entry
        for split, members in opened.labelled().items()
        for item in members
        if f"{item.category}/{item.name}" in used[split]
    ]
    return Inspection(splits, survey(files, limits) if files else None, tuple(twins), tuple(uniform))
