"""HTML of the report pages: one file that asks for nothing from outside, in light and dark.

Every text that comes from a user passes through `escape`; nothing else enters the page.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from pupila import images
from pupila._files import write_file
from pupila._language import cell, language, translated
from pupila.errors import DataError
from pupila.images import Pixels

CODE = re.compile("`([^`]+)`")
MANY_COLUMNS = 5
"""Of a table: what a phone shows beside each other."""
SIDE = 96
"""Pixels a side of a picture: three times a CIFAR picture."""
# The policy makes the browser enforce that nothing is fetched and no script runs, whatever a class is called.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

STYLE = (resources.files("pupila.evaluation.pages") / "report.css").read_text(encoding="utf-8")


def write_page(
    path: Path, title: str, subtitle: str, sections: Iterable[str], reload_seconds: int | None = None
) -> None:
    """Write a page; title and subtitle are plain text, sections are HTML. Raises DataError if it cannot be written.

    reload_seconds: how often the browser is to load it again, None for never.
    """
    reload = f'<meta http-equiv="refresh" content="{reload_seconds}">\n' if reload_seconds else ""
    text = (
        f'<!doctype html>\n<html lang="{language()}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{reload}<title>{_shown(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_shown(title)}</h1>\n<p>{_shown(subtitle)}</p>\n{''.join(sections)}</body>\n</html>\n"
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text.encode(errors="backslashreplace"))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a file or folder that is being written into DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}). Choose another place.") from error


def section(heading: str, text: str, *parts: str) -> str:
    """Return a section; heading and text are plain text, parts are HTML."""
    explained = paragraph(text) if text else ""
    return f"<section>\n<h2>{_shown(heading)}</h2>\n{explained}{''.join(parts)}</section>\n"


def numbers(shown: Sequence[tuple[str, str, str]]) -> str:
    """Return a row of cards: value, what it is, and a note each, all plain text."""
    cards = (
        f'<div class="number"><b>{escape(cell(value))}</b>{_shown(name)}<br><small>{_shown(note)}</small></div>\n'
        for value, name, note in shown
    )
    return f'<div class="numbers">\n{"".join(cards)}</div>\n'


def plot(png: bytes, description: str, large: bool = False) -> str:
    """Return a plot; a large one keeps its size and scrolls."""
    return f'<div class="plot{" large" if large else ""}">{_image(png, description)}</div>\n'


def folded(summary: str, *parts: str) -> str:
    """Return parts, which are HTML, that show when the summary, plain text, is clicked."""
    return f"<details>\n<summary>{_shown(summary)}</summary>\n{''.join(parts)}</details>\n"


def warning(text: str) -> str:
    """Return a marked sentence, from plain text."""
    return f'<p class="warning">{_shown(text)}</p>\n'


class Figure(NamedTuple):
    """Pictures side by side, a plain caption below, and perhaps the name of one and the address of its file."""

    pictures: Sequence[Pixels]
    caption: str
    name: str = ""
    link: str = ""


def pictures(figures: Sequence[Figure], small: bool = False) -> str:
    """Return the figures; small ones stand close together."""
    return f'<div class="gallery{" small" if small else ""}">\n{"".join(map(_figure, figures))}</div>\n'


def _reduced(picture: Pixels) -> Pixels:
    return picture if len(picture) <= SIDE else images.resize(picture, SIDE)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Return a table, from plain text; the first `texts` columns are aligned left, and those of figures right.

    On a phone each row of a table of many columns becomes a block, with the column's name before each cell.
    """
    names = [translated(name) for name in head]
    top = "".join(_cells("th", head, texts, names))
    body = "".join(f"<tr>{''.join(_cells('td', row, texts, names))}</tr>\n" for row in rows)
    many = " many" if len(head) > MANY_COLUMNS else ""
    return f'<div class="table{many}"><table>\n<tr>{top}</tr>\n{body}</table></div>\n'


def heading(text: str) -> str:
    """Return a heading within a section, from plain text."""
    return f"<h3>{_shown(text) if ' ' in text else escape(text)}</h3>\n"


def paragraph(text: str) -> str:
    """Return a paragraph, from plain text; what stands in backquotes is code."""
    shown = CODE.sub(r"<code>\1</code>", _shown(text))
    return f"<p>{shown}</p>\n"


def _shown(text: str) -> str:
    return escape(translated(text))


def _cells(kind: str, row: Sequence[str], texts: int, names: Sequence[str]) -> Iterator[str]:
    for column, (text, name) in enumerate(zip(row, names, strict=True)):
        side, is_name = (' class="text"', " " not in text) if column < texts else ("", False)
        shown = name if kind == "th" else text if is_name else cell(text)
        label = f' data-label="{escape(name)}"' if kind == "td" and len(names) > MANY_COLUMNS else ""
        yield f"<{kind}{side}{label}>{escape(shown)}</{kind}>"


def _figure(figure: Figure) -> str:
    shown = " ".join(_image(images.encode_png(_reduced(picture)), figure.caption) for picture in figure.pictures)
    name = escape(figure.name)
    named = f'<a href="{escape(figure.link)}">{name}</a>' if figure.link else name
    below = f"{_shown(figure.caption)}<br>{named}" if named else _shown(figure.caption)
    return f"<figure>{shown}<figcaption>{below}</figcaption></figure>\n"


def _image(png: bytes, description: str) -> str:
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{_shown(description)}">'
