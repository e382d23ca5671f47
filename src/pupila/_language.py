"""The language of what people read: English as the sources have it, or Brazilian Portuguese.

Texts are put together in English, and translated where they leave for people. `translated` finds the message of the
catalogue that a text is an instance of: `{0:,} pictures` for "1,200 pictures". Unknown text passes unchanged. In
English nothing is loaded. `tools/messages.py` keeps the catalogue, locale/pt_BR/LC_MESSAGES/pupila.po.
"""

import functools
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

CATALOGUE = Path(__file__).parent / "locale" / "pt_BR" / "LC_MESSAGES" / "pupila.po"
FIELD = re.compile(r"\{(\w+)(?:!(t))?(?::([^{}]*))?\}")
"""In a message: a field with its name, `!t` (translate even one word), and the format of a figure."""
FIGURE = r"[-+]?\d+(?:,\d+)*(?:\.\d+)?(?:e[-+]?\d+)?%?|nan|-?inf"
ROW = re.compile(r"(.*?\S)(\s(?:\s+[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?%?)+)")
"""A row of a table on a terminal: a name, and figures."""
WORD = re.compile(r"[^\W\d_]{2,}")
WHOLE_WORD = re.compile(r"(?<!\w)[^\W\d_]{2,}(?!\w)")
BREAK = re.compile(r"(?<=[.!?:)\]])\s+|\s+(?=[(\[])|(?<=[(\[])|(?=[)\]])|[,;] ")
"""Where a text may go over from one message to the next."""
FAR = 12
"""Breaks that one message may go over when it is not the whole text."""
SIGNS = (".", ":", ",", ";")
"""What may end a message."""
SEVERAL = re.compile(r"[.!?:;,](?:\s|$)")
"""In what a field holds: a sign that it holds other messages, too."""
UNLIKELY = (False, False, 12)
"""The rank up to which a match is taken for chance."""
LONG = 2_000
"""Letters beyond which a line is a list of names, or somebody's trick."""
EFFORT = 50_000
"""Letters of all texts that are looked up to translate one line; what is left then stays as it is."""


class Message(NamedTuple):
    """One entry of the catalogue."""

    msgid: str
    msgstr: str

    @property
    def literals(self) -> list[str]:
        """What stands between the fields."""
        return FIELD.split(self.msgid)[:: 1 + FIELD.groups]


class Catalogue(NamedTuple):
    """Messages without fields by their text; those with fields by their longest word."""

    whole: dict[str, str]
    by_word: dict[str, list[Message]]


def language() -> str:
    """Return `pt-BR` or `en`, by PUPILA_LANG, else by the locale."""
    names = ("PUPILA_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
    chosen = next(filter(None, map(os.environ.get, names)), "")
    return "pt-BR" if chosen.lower().startswith("pt") else "en"


def translated(text: str) -> str:
    """Return a text for people in their language, line by line; what is not known stays as it is."""
    if language() == "en":
        return text
    return "\n".join(_line(line, _Effort(EFFORT)) for line in text.split("\n"))


def cell(text: str) -> str:
    """Return a cell of a table: figures and messages of several words translated, names as they are."""
    if language() == "en" or " " in text:
        return translated(text)
    return _swapped(text) if re.fullmatch(FIGURE, text) else text


def _swapped(text: str) -> str:
    """Return figures as Portuguese writes them: 1,234.5 is 1.234,5."""
    return text.translate({ord(","): ".", ord("."): ","})


@dataclass
class _Effort:
    """What may still be done for one line: texts in texts can be read in more ways than there is time for."""

    letters: int

    def allows(self, text: str) -> bool:
        """Return whether a text may be looked up, too, and count it."""
        self.letters -= len(text) + 1
        return self.letters >= 0


def _line(line: str, effort: _Effort) -> str:
    text = line.strip()
    if len(text) > LONG:
        return line
    start = line.index(text)
    row = ROW.fullmatch(text)
    shown = row[1] + _swapped(row[2]) if row else _message(text, effort) or _pieces(text, effort)
    return line[:start] + shown + line[start + len(text) :]


def _pieces(text: str, effort: _Effort) -> str:
    """Translate a text that is several messages, or a message and a name: at each place the longest one that fits."""
    done = ""
    while text:
        name, colon, reason = text.partition(": ")
        if colon and " " in reason and _message(text, effort) is None and _message(reason, effort):
            shown = _message(name, effort) if " " in name else None
            done, text = f"{done}{shown or name}: ", reason
        breaks = [end for end in itertools.islice(BREAK.finditer(text), FAR) if end.end()]
        for head, rest in [(text, ""), *((text[: end.start()], text[end.end() :]) for end in reversed(breaks))]:
            found = _message(head, effort) if " " in head else None
            if found is not None:
                done += found + text[len(head) : len(text) - len(rest)]
                text = rest
                break
        else:
            cut = breaks[0].end() if breaks else len(text)
            done, text = done + text[:cut], text[cut:]
    return done + text


def _message(text: str, effort: _Effort) -> str | None:
    """Return the translation of the message that the text is most likely an instance of."""
    catalogue = _catalogue()
    if text in catalogue.whole:
        return catalogue.whole[text]
    if not effort.allows(text):
        return None
    near = [message for word in {*WORD.findall(text), ""} for message in catalogue.by_word.get(word, ())]
    fits = [message for message in near if all(literal in text for literal in message.literals)]
    found = [(message, match) for message in fits if (match := _pattern(message.msgid).fullmatch(text))]
    likely = max(found, key=lambda pair: _rank(*pair), default=None)
    if likely is not None and _rank(*likely) > UNLIKELY:
        return _filled(*likely, effort)
    return _beside(text, effort)


def _beside(text: str, effort: _Effort) -> str | None:
    """Return the translation of a message with a figure before or after it, or with a sign that ends it."""
    first, _, rest = text.partition(" ")
    start, _, last = text.rpartition(" ")
    if rest and re.fullmatch(FIGURE, first):
        found, shown = _message(rest, effort), f"{_swapped(first)} {{}}"
    elif " " in start and re.fullmatch(FIGURE, last):
        found, shown = _message(start, effort), f"{{}} {_swapped(last)}"
    elif text[-1:] in SIGNS and text[-2:-1] not in SIGNS:
        found, shown = _message(text[:-1], effort), f"{{}}{text[-1]}"
    else:
        return None
    return found and shown.format(found)


def _rank(message: Message, match: re.Match[str]) -> tuple[bool, bool, int]:
    """Return how likely a match is: fields that hold no other messages, a fixed beginning, many letters."""
    alone = not any(SEVERAL.search(held) for held in match.groups())
    return alone, not message.msgid.startswith("{"), sum(map(len, message.literals))


def _filled(message: Message, found: re.Match[str], effort: _Effort) -> str:
    """Put what the fields hold into the translation: figures as Portuguese writes them, messages translated."""
    formats = {field[1]: field[3] for field in FIELD.finditer(message.msgid)}

    def value(field: re.Match[str]) -> str:
        text = found[f"_{field[1]}"]
        if formats[field[1]]:
            return text if field.string[: field.start()].endswith("=") else _swapped(text)  # as in --set lr=0.1
        return _line(text, effort) if field[2] or " " in text.strip() else text

    return FIELD.sub(value, message.msgstr)


@functools.cache
def _pattern(msgid: str) -> re.Pattern[str]:
    """Return what fits the instances of a message, in time that grows with their length.

    A field ends where what follows it, up to the next field that holds any text, fits first: looking further could not
    help the rest to fit. Only the last one must reach the end.
    """
    first, *parts = FIELD.split(msgid)
    steps = [re.escape(first)]
    for name, form, after in zip(parts[::4], parts[2::4], parts[3::4], strict=True):
        if form:
            steps[-1] += f"(?P<_{name}>{FIGURE}){re.escape(after)}"
        else:
            steps.append(f"(?P<_{name}>.*?){re.escape(after)}")
    *steps, last = steps
    return re.compile("".join(f"(?>{step})" for step in steps) + last, re.DOTALL)


@functools.cache
def _catalogue() -> Catalogue:
    found = Catalogue({}, {})
    for message in read_catalogue():
        if not message.msgstr:
            continue
        if "{" not in message.msgid:
            found.whole[message.msgid] = message.msgstr
            continue
        words = WHOLE_WORD.findall(FIELD.sub("_", message.msgid))
        found.by_word.setdefault(max(words, key=len, default=""), []).append(message)
    return found


def read_catalogue() -> list[Message]:
    """Return the entries of the .po file; its strings are written as those of JSON are."""
    import json

    entries: list[list[str]] = []
    for line in CATALOGUE.read_text(encoding="utf-8").splitlines():
        if line.startswith("msgid "):
            entries.append([])
        if line.startswith("msg"):
            entries[-1].append("")
        if line and not line.startswith("#"):
            entries[-1][-1] += json.loads(line[line.index('"') :])
    return [Message(msgid, msgstr) for msgid, msgstr in entries if msgid]
