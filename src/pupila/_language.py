"""The language of what people read: English as the sources have it, or Brazilian Portuguese.

Texts are put together in English, and translated where they leave for people. `translated` finds the message of the
catalogue that a text is an instance of: `{0:,} pictures` for "1,200 pictures". Unknown text passes unchanged. In
English nothing is loaded. `tools/messages.py` keeps the catalogue, locale/pt_BR/LC_MESSAGES/pupila.po.
"""

import functools
import os
import re
from pathlib import Path
from typing import NamedTuple

CATALOGUE = Path(__file__).parent / "locale" / "pt_BR" / "LC_MESSAGES" / "pupila.po"
FIELD = re.compile(r"\{\{|\}\}|\{(\w+)(?:!(t))?(?::([^{}]*))?\}")
"""In a message: a brace, or a field with its name, `!t` (translate even one word), and the format of a figure."""
FIGURE = r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?%?|nan|-?inf"
WORD = re.compile(r"[^\W\d_]{2,}")
WHOLE_WORD = re.compile(r"(?<!\w)[^\W\d_]{2,}(?!\w)")
SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\s+(?=\[)|\s(?=\()|, |: ")


class Message(NamedTuple):
    """One entry of the catalogue."""

    msgid: str
    msgstr: str


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
    return "\n".join(map(_line, text.split("\n")))


def figures(text: str) -> str:
    """Return figures, and nothing else, as people write them: 1,234.5 is 1.234,5 in Portuguese."""
    return text.translate({44: ".", 46: ","}) if language() != "en" and re.fullmatch(FIGURE, text.strip()) else text


def _line(line: str) -> str:
    text = line.strip()
    start = line.index(text)
    return line[:start] + _translate(text) + line[start + len(text) :]


def _translate(text: str) -> str:
    """Return the whole as one message, else the longest start that is one and what is after it."""
    found = _message(text)
    if found is not None or not text:
        return found or ""
    ends = [(end.start(), end.end()) for end in SENTENCE_END.finditer(text)]
    for stop, start in reversed(ends):
        found = _message(text[:stop])
        if found is not None:
            return found + text[stop:start] + _rest(text[start:])
    if not ends:
        return text
    stop, start = ends[0]
    return text[:start] + _rest(text[start:])


def _rest(text: str) -> str:
    return _translate(text) if " " in text else text


def _message(text: str) -> str | None:
    """Return the translation of the most specific message that the text is an instance of."""
    catalogue = _catalogue()
    if text in catalogue.whole:
        return catalogue.whole[text]
    near = [message for word in {*WORD.findall(text), ""} for message in catalogue.by_word.get(word, ())]
    for message in sorted(near, key=_literals, reverse=True):
        found = _pattern(message.msgid).fullmatch(text)
        if found is not None:
            return _filled(message, found)
    return None


def _literals(message: Message) -> int:
    return len(FIELD.sub("", message.msgid))


def _filled(message: Message, found: re.Match[str]) -> str:
    """Put what the fields hold into the translation: figures as Portuguese writes them, messages translated."""
    kinds = {field[1]: field[3] for field in FIELD.finditer(message.msgid)}

    def value(field: re.Match[str]) -> str:
        if field[1] is None:
            return field[0][0]
        text = found[f"_{field[1]}"]
        if kinds[field[1]]:
            setting = field.string[: field.start()].endswith("=")
            return text if setting else figures(text)
        return _line(text) if field[2] or " " in text.strip() else text

    return FIELD.sub(value, message.msgstr)


@functools.cache
def _pattern(msgid: str) -> re.Pattern[str]:
    out, at = "", 0
    for field in FIELD.finditer(msgid):
        out += re.escape(msgid[at : field.start()])
        out += f"(?P<_{field[1]}>{FIGURE if field[3] else '.*?'})" if field[1] else re.escape(field[0][0])
        at = field.end()
    return re.compile(out + re.escape(msgid[at:]), re.DOTALL)


@functools.cache
def _catalogue() -> Catalogue:
    found = Catalogue({}, {})
    for message in read_catalogue():
        if not message.msgstr or not message.msgid:
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
    return [Message(msgid, msgstr) for msgid, msgstr in entries]
