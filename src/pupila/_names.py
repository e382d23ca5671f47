"""Words of messages: the nearest known name to one that is unknown, and plurals."""

import difflib
import itertools
from collections.abc import Iterable

LONGEST = 100
"""Letters of an unknown name that are compared: it can come from a stranger, and comparing takes their square."""
MOST = 10_000
"""Known names that are looked at."""


def nearest(word: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name most like `word`, whatever the case of its letters, or None if none is like it."""
    known = {name.casefold(): name for name in reversed(list(itertools.islice(names, MOST)))}
    near = difflib.get_close_matches(word[:LONGEST].casefold(), known, 1, cutoff)
    return known[near[0]] if near else None


def did_you_mean(word: str, names: Iterable[str], otherwise: str = "", cutoff: float = 0.6) -> str:
    """Return "Did you mean 'epochs'?", or `otherwise` if no name is near."""
    near = nearest(word, names, cutoff)
    return otherwise if near is None else f"Did you mean {near!r}?"


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the message for a key of a settings file that does not exist."""
    return f"unknown key {key!r}. {did_you_mean(key, known)}".rstrip()


def counted(count: float, thing: str) -> str:
    """Return the count with the thing, in the plural where it is not one."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
