"""Checks of what people give, and words of messages: the nearest known name, and plurals.

A public function answers a wrong argument with one sentence in place of an error from inside. Imports neither NumPy nor
Pillow: who gives an array or a PIL image has loaded them.
"""

import difflib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

PathLike = str | os.PathLike[str]
LONGEST = 100
"""Letters of an unknown name that are compared: it can come from a stranger, and comparing takes their square."""
MOST, MOST_LETTERS = 10_000, 250_000
"""Known names that are looked at, and letters of all of them."""
MOST_UNKNOWN = 100
"""Unknown names of one request or file that are compared: more are refused as they are."""
PICTURES = "Give a path, bytes, an open file, a PIL image, a uint8 array [H, W, 3], or a list of these."


def as_path(value: object, what: str) -> Path:
    """Return a path given as str or PathLike; `what` begins the TypeError for anything else."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"{what} must be a path (str or Path), not {type(value).__name__}.")
    return Path(path)


def as_text(value: object, what: str) -> str:
    """Return a name or path as text; `what` begins the TypeError for anything else."""
    return value if isinstance(value, str) else str(as_path(value, what))


def check_top(top: object) -> int:
    """Return how many choices are asked for; raises TypeError unless it is a whole number of 1 or more."""
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise TypeError(f"top must be a whole number of 1 or more, not {top!r}. Give several pictures as one list.")
    return top


def whole_number(text: str, digits: int = 15) -> int | None:
    """Return the number that up to so many digits from 0 to 9 say; None for other texts, also those `isdigit` takes."""
    return int(text) if len(text) <= digits and text.isascii() and text.isdigit() else None


def several(pictures: Any) -> Iterable[Any] | None:
    """Return the pictures of a list, tuple, iterator or array [N, H, W, 3]; None for what is one picture or none."""
    if isinstance(pictures, list | tuple):
        return pictures
    if isinstance(pictures, Iterator) and not hasattr(pictures, "read"):
        return pictures
    return list(pictures) if is_array(pictures) and pictures.ndim == 4 else None


def is_array(value: object) -> bool:
    """Return whether it is a NumPy array."""
    return isinstance(value, getattr(sys.modules.get("numpy"), "ndarray", ()))


def one_picture(value: Any) -> Any:
    """Return bytes, a Path, a PIL image or an array uint8 [H, W, 3]; raises TypeError for anything else."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str | os.PathLike):
        return as_path(value, "A picture")
    if is_array(value):
        if value.dtype != "uint8" or value.ndim != 3 or value.shape[2] != 3 or not value.size:
            raise TypeError(f"An array must be uint8 [H, W, 3], not {value.dtype} {list(value.shape)}.")
        return value
    if isinstance(value, getattr(sys.modules.get("PIL.Image"), "Image", ())):
        return value
    if not callable(getattr(value, "read", None)):
        raise TypeError(f"{type(value).__name__} is no picture. {PICTURES}")
    data = value.read()
    if not isinstance(data, bytes):
        raise TypeError("The file is open as text. Open it with open(path, 'rb').")
    return data


def name_of(value: object, place: int | None) -> str:
    """Return what an error calls a picture: its path, else its place in the list, else nothing."""
    if isinstance(value, str | os.PathLike):
        return f"{os.fspath(value)}"
    return "" if place is None else f"pictures[{place}]"


def nearest(word: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name most like `word`, whatever the case of its letters, or None if none is like it."""
    known: dict[str, str] = {}
    letters = 0
    for name in itertools.islice(names, MOST):
        letters += len(name)
        if letters > MOST_LETTERS:
            break
        known.setdefault(name.casefold(), name)
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
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {thing if count == 1 else plural(thing)}"


def plural(thing: str) -> str:
    """Return the plural of what counted() counts."""
    return f"{thing}es" if thing.endswith("s") else f"{thing}s"


def first_few(names: Sequence[str], most: int = 5, show: Callable[[str], str] = str) -> str:
    """Join names with commas, the first of them as `show` writes them, and count the others."""
    shown = ", ".join(map(show, names[:most]))
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown
