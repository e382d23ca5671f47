"""Self-contained pages about a data set: what an inspection found, leaks first, and which labels are likely wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pupila._arguments import counted
from pupila._files import CsvWriter
from pupila._language import translated
from pupila.data import Dataset
from pupila.data.dataset import SkippedFiles
from pupila.data.quality.class_balance import describe_classes, imbalance
from pupila.data.quality.inspection import Inspection, Place, Twins
from pupila.errors import DataError
from pupila.evaluation.pages import html
from pupila.evaluation.pages.plots import shorten
from pupila.images import Pixels
from pupila.progress import printable_lines

SHOWN_TWINS = 48
SHOWN_UNIFORM = 24
LISTED = 1000
"""Rows of a table: more of what is longer is in the JSON."""
SHOWN_CLASSES = 30
SHOWN_A_CLASS = 8
SHOWN_DOUBTS = 300
PAGE, TABLE = "mislabelled.html", "fixes.csv"


def write_data_report(path: Path, inspection: Inspection) -> None:
    """Write the page; raises DataError if it cannot be written."""
    splits = inspection.splits
    total = sum(len(part) for part in splits.parts().values())
    classes = counted(len(splits.train.classes), "class")
    subtitle = f"{splits.layout}; {counted(total, 'picture')}, {classes}"
    html.write_page(path, f"{splits.name}: data", subtitle, _sections(inspection))


def data_text(inspection: Inspection) -> str:
    """Return the summary for a terminal, leaks first."""
    splits = inspection.splits
    unusable = splits.skipped_count()
    lines = [f"{splits.name}: {splits.layout}", *_leak_lines(inspection), *splits.notes]
    lines += [f"Files that cannot be used: {unusable:,}" if unusable else "Every picture can be read."]
    lines += _first([f"  {item.name}: {item.reason}" for item in splits.skipped[:LISTED]], unusable)
    odd = inspection.survey.odd if inspection.survey else SkippedFiles()
    shown = [f"  {item.name}: {item.reason}" for item in odd]
    shown += [f"  {place.part}: {place.name}: It is of one colour." for place in inspection.uniform[:LISTED]]
    count = len(odd) + odd.more + len(inspection.uniform)
    lines += [f"Pictures that are used and worth a look: {count:,}", *_first(shown, count)] if count else []
    lines += [f"{translated('class'):20} " + " ".join(f"{translated(name):>10}" for name in splits.parts())]
    counts = [part.counts() for part in splits.parts().values()]
    for number, name in enumerate(splits.train.classes):
        lines.append(f"{shorten(name, 20):20} " + " ".join(f"{int(count[number]):10,}" for count in counts))
    return printable_lines(*lines, describe_classes(splits.train))


def _first(lines: Sequence[str], count: int, most: int = 20) -> list[str]:
    """Return the first lines, and how many more of so many there are."""
    shown = lines[:most]
    return [*shown, f"  and {count - len(shown):,} more: see --json or --report"] if count > len(shown) else [*shown]


def _leak_lines(inspection: Inspection) -> list[str]:
    """Say in sentences how much of each judging part is in a part that comes before."""
    parts, exact = inspection.splits.parts(), inspection.leaked(exact=True)
    lines = [
        f"LEAK: {count:,} of {counted(len(parts[part]), 'picture')} of {part} ({count / len(parts[part]):.2%}) found "
        f"in another part too, {exact.get(part, 0):,} of them bit for bit. A score on {part} flatters."
        for part, count in inspection.leaked().items()
    ]
    if not lines:
        lines = ["No picture is in two parts." if len(parts) > 1 else "There is one part only, so nothing can leak."]
    within = sum(not twins.leak for twins in inspection.twins)
    if within:
        lines.append(f"{counted(within, 'pair')} of pictures within one part are the same, or nearly.")
    disagree = [twins for twins in inspection.twins if twins.disagree]
    if disagree:
        example = f"{disagree[0].first.name}, {disagree[0].second.name}"
        which = f"One such pair is in different classes ({example}): one label is wrong, or both."
        many = f"{len(disagree):,} such pairs are in different classes (like {example}): labels are wrong there."
        lines.append(which if len(disagree) == 1 else many)
    return lines


def _sections(inspection: Inspection) -> Iterator[str]:
    splits = inspection.splits
    leaks = [twins for twins in inspection.twins if twins.leak]
    within = [twins for twins in inspection.twins if not twins.leak]
    sentences = map(html.paragraph, [*_leak_lines(inspection), *splits.notes])
    yield html.section("Summary", "", *sentences, html.numbers(_figures(inspection)))
    yield _twins_section("Leaks: pictures in two parts", leaks, inspection)
    yield _twins_section("Duplicates within a part", within, inspection)
    unusable = [(item.name, item.reason) for item in splits.skipped[:LISTED]]
    if unusable:
        yield html.section(
            "Files that cannot be used", "Training leaves them out.", html.table(("file", "why"), unusable, texts=2)
        )
    yield from _odd(inspection)
    yield html.section("Classes", describe_classes(splits.train), _counts(inspection))
    yield from _files(inspection)
    text = f"Each picture as it enters the network, {splits.train.size} x {splits.train.size} pixels, nothing cut off."
    yield html.section("What the network sees", text, *_grid(splits.train))


def _figures(inspection: Inspection) -> list[tuple[str, str, str]]:
    splits = inspection.splits
    figures = [(f"{len(part):,}", name, "pictures") for name, part in splits.parts().items()]
    leaked = sum(inspection.leaked().values())
    figures += [
        (f"{leaked:,}", "leaked", f"{sum(inspection.leaked(exact=True).values()):,} bit for bit"),
        (f"{sum(not t.leak for t in inspection.twins):,}", "pairs of duplicates", "within a part"),
        (f"{splits.skipped_count():,}", "files unusable", ""),
        (f"{imbalance(splits.train.counts()):.1f} : 1", "largest to smallest class", "of train"),
    ]
    return figures


def _twins_section(heading: str, twins: Sequence[Twins], inspection: Inspection) -> str:
    if not twins:
        return html.section(heading, "None.")
    step = max(1, len(twins) // SHOWN_TWINS)  # evenly, from the surest to the least sure, not the surest only
    shown = []
    for pair in twins[::step]:
        one, other = pair.first, pair.second
        classes = f"{one.category} ≠ {other.category}" if pair.disagree else one.category
        caption = f"{classes}, {one.part} / {other.part}, {_kind(pair)}"
        shown.append(html.Figure([_picture(one, inspection), _picture(other, inspection)], caption))
    rows = [(f"{t.first.part}: {t.first.name}", f"{t.second.part}: {t.second.name}", _kind(t)) for t in twins[:LISTED]]
    table = html.table(("one", "other", "likeness"), rows, texts=2)
    text = (
        f"{counted(len(twins), 'pair')}; those of different classes come first, then those that are alike bit for bit."
    )
    return html.section(heading, text, html.pictures(shown[:SHOWN_TWINS]), table)


def _kind(twins: Twins) -> str:
    if twins.exact:
        return "bit for bit"
    return f"{twins.similarity:.3f} mirrored" if twins.mirrored else f"{twins.similarity:.3f}"


def _picture(place: Place, inspection: Inspection) -> Pixels:
    picture: Pixels = inspection.splits.parts()[place.part].images[place.row]
    return picture


def _odd(inspection: Inspection) -> Iterator[str]:
    odd = [(item.name, item.reason) for item in inspection.survey.odd] if inspection.survey else []
    if odd:
        text = "They are used. A wrong ending or an unusual way to store colours often comes with other trouble."
        yield html.section("Files worth a look", text, html.table(("file", "what is odd"), odd[:LISTED], texts=2))
    if inspection.uniform:
        shown = [
            html.Figure([_picture(place, inspection)], place.part, place.name)
            for place in inspection.uniform[:SHOWN_UNIFORM]
        ]
        text = f"Nearly of one colour: {len(inspection.uniform):,}."
        yield html.section("Pictures that show nothing", text, html.pictures(shown, small=True))


def _counts(inspection: Inspection) -> str:
    parts = inspection.splits.parts()
    counts = np.stack([part.counts() for part in parts.values()], axis=1)
    rows = [
        (name, *(f"{int(count):,}" for count in row))
        for name, row in zip(inspection.splits.train.classes, counts, strict=True)
    ]
    return html.table(("class", *parts), rows)


def _files(inspection: Inspection) -> Iterator[str]:
    survey = inspection.survey
    if survey is None or not survey.sizes:
        return
    sizes = [
        (translated(name), *(f"{value:,.2f}" if "/" in name else f"{value:,.0f}" for value in values))
        for name, values in survey.quantiles().items()
    ]
    kinds = [(name, f"{count:,}") for name, count in survey.formats.most_common()]
    modes = [(name, f"{count:,}") for name, count in survey.modes.most_common()]
    yield html.section(
        "Files",
        f"Turned upright by their EXIF entry: {survey.rotated:,}.",
        html.table(("pixels", "smallest", "median", "largest"), sizes),
        html.table(("format", "files"), kinds),
        html.table(("colours", "files"), modes),
    )


def _grid(train: Dataset) -> Iterator[str]:
    for number, name in enumerate(train.classes[:SHOWN_CLASSES]):
        rows = np.flatnonzero(train.labels == number)
        chosen = rows[np.linspace(0, len(rows) - 1, min(SHOWN_A_CLASS, len(rows))).astype(np.int64)]
        yield html.heading(name)
        yield html.pictures([html.Figure([train.images[row]], "") for row in chosen], small=True)
    if len(train.classes) > SHOWN_CLASSES:
        yield html.paragraph(f"Not shown: {counted(len(train.classes) - SHOWN_CLASSES, 'more class')}.")


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
        return printable_lines(
            f"{self.name}: {self.looked_at:,} labels looked at, with features of {self.features}; cross-validated "
            f"answers agree with {self.agreement:.1%} of them.",
            f"Estimated to be wrong: about {self.estimated:,}; listed: the {len(self.doubts):,} likeliest. Many "
            "of them are right and only hard to tell: look at each.",
        )


def write_mislabelled(folder: Path, found: Mislabelled) -> tuple[Path, Path]:
    """Write the page and the table into a folder and return their paths; raises DataError if they cannot be written.

    A table that is there is not overwritten: there may be an hour of somebody's corrections in it. It begins with a
    byte order mark, by which spreadsheets know UTF-8.
    """
    page_path, table_path = folder / PAGE, folder / TABLE
    if table_path.exists() or table_path.is_symlink():
        raise DataError(f"{table_path}: is there already, and may hold corrections. Choose another folder.")
    html.write_page(
        page_path, f"{found.name}: likely wrong labels", f"{found.looked_at:,} labels looked at", _doubts(found)
    )
    try:
        with table_path.open("x", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
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


def _doubts(found: Mislabelled) -> Iterator[str]:
    figures = [
        (f"{len(found.doubts):,}", "listed", "the likeliest first"),
        (f"{found.estimated:,}", "estimated wrong", f"of {found.looked_at:,}"),
        (f"{found.agreement:.1%}", "agreement", "of cross-validated answers with the labels"),
    ]
    shown = [
        html.Figure([picture], f"{doubt.label} → {doubt.suggested}? {doubt.score:.3f}", doubt.path)
        for doubt, picture in zip(found.doubts[:SHOWN_DOUBTS], found.pictures, strict=False)
    ]
    text = (
        f"Label → suggestion. Look at each: some are right and only hard to tell. Correct {TABLE} beside this page: "
        "remove the rows whose label is right, put the right class into `suggested`, and give the table to training: "
        f"pupila train DATA --labels {TABLE}"
    )
    yield html.section("Summary", f"Found with features of {found.features}.", html.numbers(figures))
    yield html.section("Likely wrong labels", text if shown else "None.", html.pictures(shown))
