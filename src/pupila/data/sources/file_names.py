"""File names: decoding those of unknown encoding, Unicode normal form, and how names are shown in messages.

Names in a zip archive without the UTF-8 flag, in a tar archive or on a disk are bytes. UTF-8 is tried first. Otherwise
each code page of Windows is tried, and the readings are compared: a right one has letters, in plausible places.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

CODE_PAGES = ("cp850", "cp437", "cp1252", "cp852", "cp1250", "cp866", "cp1251", "cp932", "gbk", "big5", "cp949")
"""Western, Central European and Cyrillic code pages of DOS and Windows, then those of East Asia."""
COMMON = frozenset("áàâãäçéèêëíìîïñóòôõöùúûüßÁÀÂÃÄÇÉÈÊËÍÎÏÑÓÒÔÕÖÙÚÛÜ")
"""Letters of Portuguese, Spanish, French and German."""
NORTHERN = frozenset("åæøÅÆØœŒ")
MOST = 0.6
"""Implausibility a letter up to which a reading is believed."""
MARGIN = 0.4
"""Implausibility a letter by which the best reading must be better than the next one that differs."""
SHOWN = 3


class NameReading(NamedTuple):
    """One way to read the names, and how implausible it is: 0 for common letters in usual places."""

    cost: float
    encoding: str
    names: tuple[str, ...]


def utf8_name(raw: bytes) -> str:
    """Return the name in Unicode normal form C; bytes that are not UTF-8 become surrogates, see is_undecoded()."""
    return unicodedata.normalize("NFC", raw.decode("utf-8", "surrogateescape"))


def is_undecoded(name: str) -> bool:
    """Return whether a name holds bytes that are not UTF-8."""
    return not name.isascii() and any("\udc80" <= letter <= "\udcff" for letter in name)


def name_decoder(encoding: str) -> Callable[[str], str]:
    """Return a function that decodes what utf8_name() could not; raises LookupError for an unknown encoding."""
    try:
        b"a".decode(encoding)
    except UnicodeDecodeError as error:
        raise LookupError(encoding) from error

    def decoded(name: str) -> str:
        raw = name.encode("utf-8", "surrogateescape")
        return unicodedata.normalize("NFC", raw.decode(encoding, "replace")).replace("/", "_")

    return decoded


def name_readings(names: Iterable[str]) -> list[NameReading]:
    """Return the different ways to read names that are not UTF-8, the most plausible first."""
    raw = [name.encode("utf-8", "surrogateescape") for name in sorted(set(names))]
    readings: dict[tuple[str, ...], NameReading] = {}
    letters = max(1, sum(byte >= 0x80 for name in raw for byte in name))
    for encoding in CODE_PAGES:
        try:
            read = tuple(unicodedata.normalize("NFC", name.decode(encoding)) for name in raw)
        except UnicodeDecodeError:
            continue
        if read not in readings:
            readings[read] = NameReading(sum(map(_implausibility, read)) / letters, encoding, read)
    return sorted(readings.values(), key=lambda reading: reading.cost)


def sure_encoding(readings: Sequence[NameReading]) -> str | None:
    """Return the encoding of the first reading if it is plausible and clearly better than all others."""
    if not readings or readings[0].cost > MOST:
        return None
    best = readings[0]
    for other in readings[1:]:
        pairs = [(one, two) for one, two in zip(best.names, other.names, strict=True) if one != two]
        worse = sum(_implausibility(two) - _implausibility(one) for one, two in pairs)
        if worse < MARGIN * sum(_differing(one, two) for one, two in pairs):
            return None
    return best.encoding


def _differing(one: str, two: str) -> int:
    """Return in how many letters two readings of a name differ."""
    if len(one) != len(two):
        return min(sum(not letter.isascii() for letter in name) for name in (one, two)) or 1
    return sum(a != b for a, b in zip(one, two, strict=True))


def _implausibility(name: str) -> float:
    """Return the sum over the letters outside ASCII: signs, mixed scripts and capitals within a word cost most."""
    cost, padded = 0.0, f"  {name} "
    for index, letter in enumerate(name):
        if not letter.isascii():
            cost += _cost_of(letter, padded[index : index + 2], padded[index + 3])
    latin = sum(letter in COMMON or "LATIN" in unicodedata.name(letter, "") for letter in name if not letter.isascii())
    own = sum(letter.isalpha() and letter.isascii() for letter in name)
    return cost + (float(latin) if latin > max(1, 3 * own) else 0.0)  # hardly any word has accents only


def _cost_of(letter: str, before: str, after: str) -> float:
    """Return how implausible a letter is between the two before it and the one after it."""
    if not letter.isalpha():
        return 3.0
    script = unicodedata.name(letter, "").partition(" ")[0]
    beside = any(other.isascii() and other.isalpha() for other in (before[1], after))
    if script != "LATIN":
        usual = {"CJK": 0.6, "HANGUL": 0.6, "HIRAGANA": 0.0, "KATAKANA": 0.0, "CYRILLIC": 0.1}
        return usual.get(script, 0.8) + (2.0 if beside else 0.0)
    odd_case = before[1].islower() if letter.isupper() else after.isupper() or (before.isupper() and before.isalpha())
    return (0.0 if letter in COMMON else 0.1 if letter in NORTHERN else 0.5) + (2.0 if odd_case else 0.0)


def display_name(name: str) -> str:
    """Return a name as a message shows it: in quotes if it begins or ends with a space, what is invisible escaped."""
    shown = "".join(letter if _is_visible(letter) else _escaped(letter) for letter in name)
    return shown if shown == name and name == name.strip() and name else f"'{shown}'"


def plain_name(name: str) -> str:
    """Return the name without invisible letters, runs of spaces, and spaces at its ends."""
    visible = "".join(
        letter if not letter.isspace() else " " for letter in name if unicodedata.category(letter) != "Cf"
    )
    return " ".join(visible.split())


def _is_visible(letter: str) -> bool:
    return letter == " " or letter.isprintable()


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
