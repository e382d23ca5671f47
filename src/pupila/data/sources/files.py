"""The files of a data set: listing of a folder, kinds by their endings, and decoding of names. No file is opened here.

Names in a zip archive without the UTF-8 flag, in a tar archive or on a disk are bytes. UTF-8 is tried first. Otherwise
each code page of Windows is tried, and the readings are compared: a right one has letters, in plausible places.
"""

import bisect
import functools
import io
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from pupila._arguments import counted, first_few
from pupila._files import DEEPEST_FOLDER, RUN_FILES, Identity, Ways, is_hidden, open_file
from pupila.data.dataset import SkippedFiles
from pupila.errors import DataError

VIDEOS = frozenset((".mov", ".mp4", ".m4v", ".avi", ".3gp", ".mkv", ".mts", ".webm"))
UNREAD = frozenset(
    (".7z", ".rar", ".h5", ".hdf5", ".mat", ".tfrecord", ".tfrecords", ".pkl", ".pickle", ".mdb", ".lmdb", ".rec")
)
"""Archives and data sets of a kind that is not read."""
SHEETS = frozenset((".xlsx", ".xls", ".ods", ".numbers"))
NOT_PICTURES = VIDEOS | UNREAD | SHEETS | {
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".md", ".rst", ".html", ".yaml", ".yml", ".ini", ".db", ".py",
    ".aae", ".xmp", ".lnk", ".url", ".webloc", ".gdoc", ".gsheet", ".gslides", ".log", ".toml", ".ipynb", ".onnx",
    ".npz", ".npy", ".zip", ".tar", ".tgz", ".txz", ".tbz2", ".gz", ".xz", ".bz2", ".parquet",
}  # fmt: skip
"""Endings of files that come with data sets and are no pictures: passed over. All else is judged by its content."""
PICTURES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mpo", ".avif",
        ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm", ".pnm",
    )
)  # fmt: skip
"""Usual endings of picture files. They decide nothing about what is in a file."""
LONGEST = 255
"""Letters of a name that are looked at closely, as file systems take no more: some of that takes their square."""
TOO_DEEP = f"It lies in over {DEEPEST_FOLDER} folders within each other."
HIDDEN, EMPTY, CLOSED, CLOUD = "hidden folder", "empty folder", "closed", "cloud"
"""Kinds of what is passed over."""

Waiting = tuple[str, tuple[str, ...], frozenset[Identity]]
"""A folder still to be looked into, its name within the data set, and the identities of those above it."""
CODE_PAGES = (
    "cp850", "cp437", "cp860", "cp865", "cp861", "cp1252", "cp852", "cp1250", "cp866", "cp1251", "koi8-r", "cp857",
    "cp1254", "cp737", "cp1253", "cp862", "cp1255", "cp720", "cp1256", "cp874", "cp932", "gbk", "big5", "cp949",
)  # fmt: skip
"""Western (cp860: Portuguese, cp865, cp861: Nordic), Central European, Cyrillic, Turkish, Greek, Hebrew, Arabic, Thai
and East Asian, of DOS, Windows and, for Cyrillic, Linux."""
COMMON = frozenset("áàâãäçéèêëíìîïñóòôõöùúûüßÁÀÂÃÄÇÉÈÊËÍÎÏÑÓÒÔÕÖÙÚÛÜ")
"""Letters of Portuguese, Spanish, French and German."""
NORTHERN = frozenset("åæøÅÆØœŒ")
ORDINALS = "ªº°"
"""Letters that stand behind a number or an n."""
TYPESET = "\u2019\u2013\u2014"
"""The apostrophe and dashes that programs put in place of those on the keyboard."""
SCRIPTS = {
    "CJK": 0.6, "HANGUL": 0.6, "HALFWIDTH": 0.6, "HIRAGANA": 0.0, "KATAKANA": 0.0, "CYRILLIC": 0.1, "GREEK": 0.1,
    "HEBREW": 0.1, "ARABIC": 0.1, "THAI": 0.1,
}  # fmt: skip
"""How implausible a letter of theirs is by itself; one of another script has 0.8, and one of Latin is looked at."""
LAST = frozenset("ςךםןףץ")
"""Letters that stand at the end of a word only."""
ODD_PAIRS = re.compile(
    "ã(?![eo]|$|[^\\w])|õ(?!e)|[äå][oe]|öe|[ãõ]\\w*[ãõ]|ç.*[äö]|[äö].*ç|ò(?=\\w)|[áàâ]a|[ùû][òô]", re.IGNORECASE
)
"""Where Portuguese has no tilde, or German and the Nordic languages no umlaut: in these cp860 and cp850 differ."""
MOST = 0.6
"""Implausibility a letter up to which a reading is believed."""
MARGIN = 0.4
"""Implausibility a letter by which the best reading must be better than the next one that differs."""
JUDGED, JUDGED_LETTERS = 2000, 50_000
"""Names that an encoding is judged by, and bytes beyond ASCII in them: more decide nothing else."""
BEYOND_ASCII = bytes(range(0x80, 0x100))
BY_CHANCE = 8
"""Bytes that a name in UTF-8 has more than letters, and may be in another encoding all the same."""
SHOWN = 3


class SourceFile(NamedTuple):
    """A file within a data set: as bytes if it comes out of an archive, else as the path to read it from.

    A tuple, as LabelledFile is: there is one of each a file, and a dataclass takes three times as long.
    """

    parts: tuple[str, ...]
    """Folders and file name, in Unicode normal form C: macOS would give the same name another spelling."""
    source: bytes | str
    stamp: tuple[int, int] = (0, 0)
    """Of a listed file: its bytes and its time in nanoseconds, which tell whether it has changed. Of one out of an
    archive: its share in the archive's bytes, and 0."""

    @property
    def name(self) -> str:
        """The path within the data set, with forward slashes."""
        return "/".join(self.parts)

    @property
    def file(self) -> str:
        """The name without folders."""
        return self.parts[-1]

    @property
    def stem(self) -> str:
        """The name without folders and ending."""
        return self.file[: len(self.file) - len(self.ending)]

    @property
    def ending(self) -> str:
        """The name's ending in small letters, with its dot."""
        return ending_of(self.file)

    @property
    def may_be_picture(self) -> bool:
        """False for notes and tables that lie beside the pictures."""
        return self.ending not in NOT_PICTURES

    def size(self) -> int:
        """Return the number of bytes; raises OSError."""
        return len(self.source) if isinstance(self.source, bytes) else os.stat(self.source).st_size  # noqa: PTH116

    def packed(self) -> int:
        """Return the bytes that it has where they are packed most: what it unpacks to is measured by them."""
        return self.stamp[0] or self.size()

    def open(self) -> BinaryIO:
        """Open it; raises OSError."""
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else open_file(self.source)

    def read(self, most: int = -1) -> bytes:
        """Return the content, all of it or so many bytes; raises OSError."""
        with self.open() as file:
            return file.read(most)


def ending_of(name: str) -> str:
    """Return a file name's ending in small letters, with its dot: as Path.suffix, and ten times faster."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def parts_of(name: str) -> tuple[str, ...]:
    """Split a name with forward slashes into its parts, without `.` and empty ones; `..` leads to the top at most."""
    if ".." in name:
        name = posixpath.normpath(f"/{name}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return tuple(parts if name.isascii() else map(composed, parts))


def composed(name: str, form: Literal["NFC", "NFKC"] = "NFC") -> str:
    """Return a name in a Unicode normal form; one that is longer than names are stays as it is, and is not kept."""
    return _composed(name, form) if len(name) <= LONGEST else name


@functools.lru_cache(10_000)  # a table may name the same class a million times, and each takes up to 0.1 ms
def _composed(name: str, form: Literal["NFC", "NFKC"]) -> str:
    return unicodedata.normalize(form, name)


@dataclass(frozen=True)
class SourceFiles:
    """All files of a source, and what was left out while listing them."""

    entries: Sequence[SourceFile]
    notes: Sequence[str] = ()
    skipped: SkippedFiles = field(default_factory=SkippedFiles)


def without_run_folders(files: Sequence[SourceFile]) -> tuple[list[SourceFile], list[str]]:
    """Leave out the folders that Pupila wrote, except the source itself; return the rest and a note."""
    beside: dict[tuple[str, ...], set[str]] = {}
    for file in files:
        if file.file.endswith((".json", ".jsonl", ".html", ".sqlite")) and len(file.parts) > 1:
            beside.setdefault(file.parts[:-1], set())
    if not beside:
        return list(files), []
    for file in files:
        if file.parts[:-1] in beside:
            beside[file.parts[:-1]].add(file.file)
    runs = sorted(folder for folder, names in beside.items() if any(known <= names for known in RUN_FILES))
    if not runs:
        return list(files), []
    tops: list[tuple[str, ...]] = []
    for run in runs:
        if not tops or run[: len(tops[-1])] != tops[-1]:  # else it lies in one
            tops.append(run)
    kept = [file for file in files if not _is_below(file.parts, tops)]
    return kept, [f"Ignored {_listed('folder', ['/'.join(run) for run in runs])} that Pupila wrote."]


def _is_below(parts: tuple[str, ...], folders: Sequence[tuple[str, ...]]) -> bool:
    """Return whether a file lies below one of the folders, which are sorted and do not lie in each other."""
    at = bisect.bisect_right(folders, parts)
    return at > 0 and parts[: len(folders[at - 1])] == folders[at - 1]


@dataclass
class _Listing:
    """What is found below a folder."""

    files: list[SourceFile] = field(default_factory=list)
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    """What looks like a picture and is no file."""
    passed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By kind: folders that are hidden, empty or may not be read, and pictures that are not on this disk."""


def list_folder(root: Path) -> SourceFiles:
    """Return all files below a folder that are not hidden, sorted by name, and notes on what was passed over.

    Links are followed, but not in circles. Raises OSError, and DataError if they lead on and on, or for closed folders.
    """
    listing, ways = _Listing(), Ways()
    waiting: list[Waiting] = [(str(root), (), frozenset())]
    while waiting:  # and no recursion: folders may be nested deeper than Python's calls
        folder, above, seen = waiting.pop()
        here, items = _items(folder, above, listing)
        if any(here) and not ways.enters(here, seen, folder):
            continue
        ways.lists(here, folder, len(items))
        if above and any(item.name == "pyvenv.cfg" for item in items):  # packages of Python, with pictures in them
            listing.passed[HIDDEN].append("/".join(above))
            continue
        if not items and above and any(here):
            listing.passed[EMPTY].append("/".join(above))
        for item in items:
            parts = (*above, item.name if item.name.isascii() else utf8_name(os.fsencode(item.name)))
            if _take(item, parts, listing):
                waiting.append((item.path, parts, seen | {here}))
    if closed := listing.passed[CLOSED]:
        raise DataError(
            f"{root}: {_listed('folder', sorted(closed))} cannot be read: there is no permission. "
            "Allow it, like: chmod -R u+rX FOLDER, or move what is not meant out of there."
        )
    kinds = (kind for kind in (HIDDEN, EMPTY) if listing.passed[kind])
    notes = [f"Ignored {_listed(kind, sorted(listing.passed[kind]))}." for kind in kinds]
    if away := listing.passed[CLOUD]:
        example = f"Not on this disk but in iCloud: {counted(len(away), 'file')}, like {min(away)}"
        notes.append(f"{example}. Download what you want to use.")
    listing.skipped.sort(key=lambda skipped: skipped.name)
    return SourceFiles(sorted(listing.files), notes, listing.skipped)


def _items(folder: str, above: tuple[str, ...], listing: _Listing) -> tuple[Identity, Sequence[os.DirEntry[str]]]:
    """Return a folder's identity and what is in it; nothing if it may not be read, or was removed a moment ago."""
    try:
        status = os.stat(folder)  # noqa: PTH116 - no Path for each of many
        with os.scandir(folder) as found:
            return (status.st_dev, status.st_ino), list(found)
    except OSError as error:
        if not above:
            raise
        if isinstance(error, PermissionError):
            listing.passed[CLOSED].append("/".join(above))
        elif not isinstance(error, FileNotFoundError):
            listing.skipped.add("/".join(above), _unread(error))
        return (0, 0), []


def _take(item: os.DirEntry[str], parts: tuple[str, ...], listing: _Listing) -> bool:
    """Note what an item is; return whether it is a folder to look into."""
    try:
        folder = item.is_dir()
        file = not folder and item.is_file()
    except OSError:  # a link to itself is neither
        folder = file = False
    if is_hidden(item.name):
        if folder:
            listing.passed[HIDDEN].append("/".join(parts))
        elif item.name.startswith(".") and item.name.endswith(".icloud"):
            listing.passed[CLOUD].append("/".join(parts))
    elif folder:
        deep = len(parts) > DEEPEST_FOLDER
        if deep or ending_of(item.name) in PICTURES:
            reason = TOO_DEEP if deep else "It is a folder with the name of a picture."
            listing.skipped.add("/".join(parts), reason)
        return not deep
    elif file:
        try:
            status = item.stat()
            listing.files.append(SourceFile(parts, item.path, (status.st_size, status.st_mtime_ns)))
        except FileNotFoundError:  # it was removed a moment ago
            return False
        except OSError as error:  # its folder may be listed, and not entered; or see _unread()
            listing.skipped.add("/".join(parts), _unread(error))
    else:
        reason = "It is a link to a file that is not there." if item.is_symlink() else "It is no regular file."
        listing.skipped.add("/".join(parts), reason)
    return False


def _unread(error: OSError) -> str:
    """Return why something is left out: its path is longer than the system takes, or the disk fails."""
    if isinstance(error, PermissionError):
        return "There is no permission to read it."
    return f"It cannot be read ({error.strerror})."


def _listed(kind: str, names: Sequence[str]) -> str:
    return f"{counted(len(names), kind)} ({first_few(names, 3, display_name)})"


class NameReading(NamedTuple):
    """One way to read names, each of them, and how implausible it is: 0 for common letters in usual places."""

    cost: float
    encoding: str
    names: tuple[str, ...]
    costs: tuple[float, ...]


def utf8_name(raw: bytes) -> str:
    """Return the name in Unicode normal form C; bytes that are not UTF-8 become surrogates, see is_undecoded()."""
    return composed(raw.decode("utf-8", "surrogateescape"))


def is_undecoded(name: str) -> bool:
    """Return whether a name holds bytes that are not UTF-8."""
    return not name.isascii() and any("\udc80" <= letter <= "\udcff" for letter in name)


def name_decoder(encoding: str) -> Callable[[str], str]:
    """Return a function that decodes what utf8_name() could not, or could by chance only.

    Raises LookupError for an unknown encoding.
    """
    try:
        b"a".decode(encoding)
    except UnicodeDecodeError as error:
        raise LookupError(encoding) from error

    @functools.cache
    def decoded(name: str) -> str:
        raw = name.encode("utf-8", "surrogateescape")
        read = composed(raw.decode(encoding, "replace")).replace("/", "_")
        if is_undecoded(name):
            return read
        few = len(raw) - len(name) <= BY_CHANCE
        return read if few and _implausibility(read) + 1 < _implausibility(name) else name

    return decoded


def name_readings(names: Iterable[str]) -> list[NameReading]:
    """Return the different ways to read names that are not UTF-8, the most plausible first.

    Of many names some are judged; all of them can be decoded in each way.
    """
    raw = [name.encode("utf-8", "surrogateescape")[:LONGEST] for name in sorted(set(names))]
    judged, letters = _judged(raw)
    readings: dict[tuple[str, ...], NameReading] = {}
    for encoding in CODE_PAGES:
        try:
            read = tuple(composed(name.decode(encoding)) for name in judged)
            if len(judged) < len(raw):
                b"\n".join(raw).decode(encoding)
        except UnicodeDecodeError:
            continue
        if read not in readings:
            costs = tuple(map(_implausibility, read))
            readings[read] = NameReading(sum(costs) / max(1, letters), encoding, read, costs)
    return sorted(readings.values(), key=lambda reading: reading.cost)


def _judged(raw: Sequence[bytes]) -> tuple[Sequence[bytes], int]:
    """Return names spread evenly over all, as many as are judged, and how many bytes beyond ASCII they have."""
    names = raw[:: max(1, -(-len(raw) // JUDGED))]
    while (letters := sum(len(name) - len(name.translate(None, BEYOND_ASCII)) for name in names)) > JUDGED_LETTERS:
        names = names[::2]
    return names, letters


def sure_encoding(readings: Sequence[NameReading]) -> str | None:
    """Return the encoding of the first reading if it is plausible and clearly better than all others."""
    if not readings or readings[0].cost > MOST:
        return None
    best = readings[0]
    for other in readings[1:]:
        pairs = zip(best.names, other.names, best.costs, other.costs, strict=True)
        differing = [(_differing(one, two), more - less) for one, two, less, more in pairs if one != two]
        if sum(more for _, more in differing) < MARGIN * sum(letters for letters, _ in differing):
            return None
    return best.encoding


def _differing(one: str, two: str) -> int:
    """Return in how many letters two readings of a name differ."""
    if len(one) != len(two):
        return min(sum(not letter.isascii() for letter in name) for name in (one, two)) or 1
    return sum(a != b for a, b in zip(one, two, strict=True))


def _implausibility(name: str) -> float:
    """Return the sum over the letters outside ASCII: signs, mixed scripts and capitals within a word cost most."""
    padded = f"  {name} "
    at = [index for index, letter in enumerate(name) if letter > "\x7f"]
    cost = sum(_cost_of(name[index], padded[index : index + 2], padded[index + 3]) for index in at)
    cost += len(ODD_PAIRS.findall(name)) / 2
    latin = sum(name[index] in COMMON or "LATIN" in _unicode_name(name[index]) for index in at)
    if latin < 2 or latin <= 3 * sum(letter.isalpha() and letter.isascii() for letter in name):
        return cost
    return cost + latin  # hardly any word has accents only


@functools.lru_cache(2**12)
def _unicode_name(letter: str) -> str:
    return unicodedata.name(letter, "")


@functools.lru_cache(2**14)
def _cost_of(letter: str, before: str, after: str) -> float:
    """Return how implausible a letter is between the two before it and the one after it."""
    if letter in ORDINALS:  # 1ª, nº
        return 0.0 if before[1].isdigit() or before[1] in "nN." else 3.0
    script = _unicode_name(letter).partition(" ")[0]
    if letter in TYPESET:
        return 0.2
    if not letter.isalpha() and not (script == "THAI" and unicodedata.category(letter) == "Mn"):
        return 3.0
    beside = "LATIN" in _unicode_name(before[1]) or "LATIN" in _unicode_name(after)
    if script != "LATIN":
        odd = beside or before[1].isdigit() or (letter.isupper() and before[1].islower())
        misplaced = letter in LAST and (after.isalpha() or not before[1].isalpha())
        return SCRIPTS.get(script, 0.8) + (2.0 if odd else 0.0) + (4.0 if misplaced else 0.0)
    odd_case = before[1].islower() if letter.isupper() else after.isupper() or (before.isupper() and before.isalpha())
    odd_case = odd_case or before[1].isdigit() or (letter.isupper() and before[1].isupper() and after.islower())
    return (0.0 if letter in COMMON else 0.1 if letter in NORTHERN else 0.5) + (2.0 if odd_case else 0.0)


def shortened(text: object) -> str:
    """Return of a name, or of what an error says, as much as a message quotes: 255 letters. It may be a stranger's."""
    whole = str(text)
    return whole if len(whole) <= LONGEST else f"{whole[:LONGEST]}…"


def is_plain(name: str) -> bool:
    """Return whether a name can be told from its looks: no space at its ends, and nothing invisible."""
    return bool(name) and name.isprintable() and name == name.strip()


def display_name(name: str) -> str:
    """Return a name as a message shows it: shortened, in quotes if it is not plain, and what is invisible escaped."""
    shown = "".join(letter if letter.isprintable() else _escaped(letter) for letter in shortened(name))
    return shown if is_plain(name) else f"'{shown}'"


def plain_name(name: str) -> str:
    """Return the name without invisible letters, runs of spaces, and spaces at its ends."""
    visible = "".join(
        letter if not letter.isspace() else " " for letter in name if unicodedata.category(letter) != "Cf"
    )
    return " ".join(visible.split())


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
