"""A data set in its published parts, and the fingerprint that tells it from all others. Knows nothing of files."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pupila.data.dataset import Dataset, Integers, Pictures
from pupila.errors import DataError


@dataclass(frozen=True)
class Skipped:
    """One picture that could not be used, and why."""

    name: str
    """Its path within the data set, for example train/cat/0001.jpg."""
    reason: str


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set as it was published: with its own validation and test parts, or without."""

    name: str
    train: Dataset
    validation: Dataset | None
    """None where the source has none: cut one off `train` with split()."""
    test: Dataset | None
    """Never touched by training."""
    skipped: tuple[Skipped, ...]
    fingerprint: str
    """SHA-256, hex, over names, labels and pixels: the same on any machine, however its files are listed or packed."""
    layout: str = ""
    """What the arrangement of its files was recognised as, in a few words."""
    notes: tuple[str, ...] = ()
    """What was passed over on purpose, one sentence each."""
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By part: the name of each picture, beginning with its class where it is a file."""
    aspect: float = 1.0
    """Median of longer side / shorter side of the pictures as they came: 1 for squares."""
    framing: str = "squash"
    """How those that are not square were made so, see images.FRAMINGS."""

    def parts(self) -> dict[str, Dataset]:
        """Return the parts that there are, by name, in the order train, validation, test."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}

    def part(self, name: str | None) -> tuple[Dataset, str]:
        """Return the part of that name and the name; None: test if there is one, else all there is.

        Raises DataError if the source has no such part.
        """
        parts = self.parts()
        name = name or ("test" if "test" in parts else "all")
        if name == "all":
            pictures = np.concatenate([part.images for part in parts.values()])
            labels = np.concatenate([part.labels for part in parts.values()])
            return Dataset(pictures, labels, self.train.classes), name
        if name not in parts:
            raise DataError(
                f"{self.name}: has no {name} part, only {', '.join(parts)}. Use --split {next(iter(parts))} or all."
            )
        return parts[name], name


@dataclass(frozen=True, eq=False)
class Part:
    """The pictures of one split in a fixed order, with the name of each: what a source hands over."""

    images: Pictures
    labels: Integers
    names: Sequence[str]


def assemble(
    name: str,
    classes: tuple[str, ...],
    parts: Mapping[str, Part],
    skipped: Sequence[Skipped] = (),
    *,
    layout: str = "",
    notes: Sequence[str] = (),
) -> Splits:
    """Join the parts (train, and perhaps validation and test) into validated Splits with their fingerprint."""
    made = {split: Dataset(part.images, part.labels, classes) for split, part in parts.items()}
    digest = fingerprint(classes, parts)
    names = {split: tuple(part.names) for split, part in parts.items()}
    validation, test = made.get("validation"), made.get("test")
    notes = (*notes, *_absent(made))
    return Splits(name, made["train"], validation, test, tuple(skipped), digest, layout, notes, names)


def _absent(parts: Mapping[str, Dataset]) -> list[str]:
    """Say which classes a part has no picture of: its scores leave them out."""
    notes = []
    for name, part in parts.items():
        absent = [category for category, count in zip(part.classes, part.counts(), strict=True) if not count]
        if absent:
            more = f" and {len(absent) - 5:,} more" if len(absent) > 5 else ""
            notes.append(f"{name} has no picture of {', '.join(absent[:5])}{more}: a score on it says nothing of them.")
    return notes


def fingerprint(classes: tuple[str, ...], parts: Mapping[str, Part]) -> str:
    """Return the SHA-256 over all that training sees. Texts go in with their lengths: none runs into the next."""
    digest = hashlib.sha256()
    for split in sorted(parts):
        part = parts[split]
        texts = [
            text.encode("utf-8", "surrogateescape") for text in (split, str(part.images.shape), *classes, *part.names)
        ]
        digest.update(b"".join([b"%d:%b" % (len(text), text) for text in texts]))
        digest.update(part.labels.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(part.images).data)
    return digest.hexdigest()
