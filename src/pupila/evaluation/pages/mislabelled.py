"""Pictures whose label is likely wrong, as a page to look through and a table to correct. Computes nothing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pupila import images
from pupila._tables import CsvWriter
from pupila.errors import DataError
from pupila.evaluation.pages import html
from pupila.evaluation.pages.gallery import SIDE
from pupila.images import Pixels

SHOWN = 300
PAGE, TABLE = "mislabelled.html", "fixes.csv"


@dataclass(frozen=True)
class Doubt:
    """One picture, as it is written into the table."""

    path: str
    label: str
    suggested: str
    score: float
    """0 to 1: 1 minus the probability of the label."""


@dataclass(frozen=True, eq=False)
class Mislabelled:
    """The doubtful pictures, the likeliest wrong label first, and what they were found with."""

    name: str
    doubts: Sequence[Doubt]
    pictures: Sequence[Pixels]
    """Of the doubts, uint8 [H, W, 3] each."""
    looked_at: int
    estimated: int
    """Wrong labels that confident learning estimates; more than there are, where the features are weak."""
    agreement: float
    """Share of the labels that the cross-validated answers agree with."""
    features: str
    """What the features are from."""

    def text(self) -> str:
        """Return a summary for a terminal."""
        return (
            f"{self.name}: {self.looked_at:,} labels looked at, with features of {self.features}; cross-validated "
            f"answers agree with {self.agreement:.1%} of them.\n"
            f"About {self.estimated:,} are estimated to be wrong; the {len(self.doubts):,} likeliest are listed. Many "
            "of them are right and only hard to tell: look at each."
        )


def write_mislabelled(folder: Path, found: Mislabelled) -> tuple[Path, Path]:
    """Write the page and the table into a folder and return their paths; raises DataError if they cannot be written.

    A table that is there is not overwritten: there may be an hour of somebody's corrections in it.
    """
    page_path, table_path = folder / PAGE, folder / TABLE
    if table_path.exists():
        raise DataError(f"{table_path}: is there already, and may hold corrections. Choose another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page_path.write_text(_page(found), encoding="utf-8", errors="backslashreplace")
        with table_path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = CsvWriter(file)
            writer.writerow(("path", "label", "suggested", "score"))
            writer.writerows((d.path, d.label, d.suggested, f"{d.score:.4f}") for d in found.doubts)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}). Choose another folder.") from error
    return page_path, table_path


def to_json(found: Mislabelled) -> dict[str, object]:
    """Return all of it but the pixels."""
    plain = {"name": found.name, "looked_at": found.looked_at, "estimated": found.estimated}
    more = {"agreement": found.agreement, "features": found.features, "doubts": [asdict(d) for d in found.doubts]}
    return {**plain, **more}


def _page(found: Mislabelled) -> str:
    figures = [
        (f"{len(found.doubts):,}", "listed", "the likeliest first"),
        (f"{found.estimated:,}", "estimated wrong", f"of {found.looked_at:,}"),
        (f"{found.agreement:.1%}", "agreement", "of cross-validated answers with the labels"),
    ]
    shown = [
        ([_small(picture)], f"{doubt.label} → {doubt.suggested}? {doubt.score:.3f}, {doubt.path}")
        for doubt, picture in zip(found.doubts[:SHOWN], found.pictures, strict=False)
    ]
    text = (
        f"Label → suggestion. Look at each: some are right and only hard to tell. Correct {TABLE} beside this page: "
        "remove the rows whose label is right, put the right class into `suggested`, and give the table to training: "
        f"pupila train DATA --labels {TABLE}"
    )
    sections = [
        html.section("Summary", f"Found with features of {found.features}.", html.numbers(figures)),
        html.section("Likely wrong labels", text if shown else "None.", html.pictures(shown)),
    ]
    return html.page(f"{found.name}: likely wrong labels", f"{found.looked_at:,} labels looked at", sections)


def _small(picture: Pixels) -> Pixels:
    return picture if picture.shape[0] <= SIDE else images.resize(picture, SIDE)
