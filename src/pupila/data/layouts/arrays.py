"""Arrays with labels: .npz or .npy of NumPy or Keras, MNIST's idx files, and CIFAR-10 and CIFAR-100 as published.

CIFAR (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009) comes as pickles, which are not
executed, or as the binary version.
"""

import gzip
import io
import itertools
import math
import pickletools
import re
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pupila.data.dataset import Pictures, SplitArrays, Splits, assemble
from pupila.data.decode import check_rows, choose_size, resize_pictures
from pupila.data.layouts.labelled import check_class_count, check_names, natural_order, some, split_of
from pupila.data.sources.archive import DAMAGED, LONGEST_PATH, RATIO, RATIO_FROM, UnpackBudget, check_memory, open_zip
from pupila.data.sources.files import SourceFile, shortened
from pupila.errors import DataError
from pupila.images import DEFAULT_LIMITS, ImageLimits
from pupila.images.wide import eight_bits
from pupila.manifest import MAX_CLASSES, MAX_TEXT

IMAGE_KEYS = ("x", "images", "image", "data", "arr_0", "imgs", "pictures")
LABEL_KEYS = ("y", "labels", "label", "targets", "target", "classes", "arr_1")
PICTURE_KEY = re.compile(rf"(?:(?P<before>\w+)[_.])??(?P<kind>{'|'.join(IMAGE_KEYS)})(?:[_.]?(?P<after>[a-z]\w*))?")
"""The name of pictures, with that of a split before it or behind it: x, train_images, xtest."""
LONGEST_KEY = 64
"""Letters of such a name: to look for it takes their square."""
IDX_NAMES = {"train": "train", "t10k": "test", "test": "test", "valid": "validation", "val": "validation"}
IDX_KINDS = (b"-images-idx3-ubyte", b"-labels-idx1-ubyte")
CLASS_KEYS = ("class_names", "label_names", "names", "categories")
MAX_BYTES, MAX_CIFAR_BYTES = 2**30, 256 * 2**20
"""Of the idx files of a data set, also unpacked, and of CIFAR's, which have 178 MiB."""
MAX_NAMES = 64 * 2**10
"""Bytes of the names of classes in the binary version of CIFAR: they have one."""
MAX_HEADER = 1_000
"""Bytes that say what an array is: NumPy writes 118 for one of numbers or texts."""
HEADER = {
    "descr": re.compile(r"""['"]descr['"] ?: ?['"]([<>|=]?(?:[?biufcSUVO]\d{0,9}|[mM]8(?:\[[A-Za-z]{1,9}\])?))['"]"""),
    "fortran_order": re.compile(r"""['"]fortran_order['"] ?: ?(True|False)"""),
    "shape": re.compile(r"""['"]shape['"] ?: ?\(((?:\d{1,19}L?, ?){0,64}(?:\d{1,19}L?)?)\)"""),
}
"""What it says, by key: kinds of one number, text, date or raw bytes each, and no records."""
AROUND = frozenset("{}, \n\0")
"""Signs of a header beside these."""
SIDE = 32
ROW = 3 * SIDE * SIDE
"""Bytes of one picture of CIFAR: the red plane, then the green one, then the blue one."""
KEYS = frozenset((
    "batch_label", "labels", "data", "filenames", "fine_labels", "coarse_labels", "label_names", "fine_label_names",
    "coarse_label_names", "num_cases_per_batch", "num_vis",
))  # fmt: skip
"""Of the pickled dictionaries of CIFAR."""
LABELS, LETTERS = 2**20, 17
"""Bytes of labels that are looked at in one go, and letters of the name that a picture of an array gets."""
MAX_WHOLE = 2.0**31
"""Labels of that size and more are not turned into whole numbers."""
LABEL_KINDS = "biufSUMm"
"""Of labels: numbers, texts and times, as NumPy names them."""
MAX_INSTRUCTIONS = 1_000_000
"""Of one pickle: that of 50,000 pictures has about 200,000."""
MAX_LETTERS = 4 * 2**20
"""Of the texts of one pickle beside the pixels: the names of 50,000 pictures have 1,200,000."""
PIXELS = b"T"
"""The instruction of a long text of Python 2."""
MAX_GLOBAL = 100
"""Letters that are looked at of what a pickle asks for."""
MAKERS = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
SURROGATES = 0xD800, 0xDFFF
"""Halves of letters, which are no text."""
Array = NDArray[np.generic]


class _KindError(Exception):
    """An array is of a kind that is not read: which, as the end of a sentence."""


def find_arrays(entries: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the .npz files, the .npy files, or the idx files, if that is what the source consists of.

    Several .npz files are of one data set if each is named for a split.
    """
    if any(entry.may_be_picture and not _idx_kind(entry) for entry in entries):
        return []
    packed, single = ([e for e in entries if e.ending == ending] for ending in (".npz", ".npy"))
    one_set = len(packed) == 1 or all(split_of(entry.stem) for entry in packed)
    return (packed if one_set else []) or single or [entry for entry in entries if _idx_kind(entry)]


def read_arrays(
    files: Sequence[SourceFile], name: str, where: str, size: int | None, limits: ImageLimits = DEFAULT_LIMITS
) -> Splits:
    """Return the splits in the arrays; raises DataError if there are none, or they are damaged or too large."""
    try:
        single = files[0].ending in (".npz", ".npy")
        parts, names = _numpy_parts(files, where) if single else (_idx_parts(files), np.empty(0))
        count = sum(len(label) for _, label in parts.values())
        check_rows(count, where)
        check_names(count * LETTERS, count)
        texts = {split: _texts(label, names) for split, (_, label) in parts.items()}
    except _KindError as error:
        raise DataError(
            f"{where}: {files[0].name} {error}. Save labels as numbers, or as text: y.astype(str)."
        ) from error
    except (*DAMAGED, KeyError, TypeError) as error:
        raise DataError(
            f"{where}: {files[0].name} cannot be read ({shortened(error)}). Copy or download it again."
        ) from error
    if "train" not in parts:
        raise DataError(f"{where}: {files[0].name} holds no training pictures with labels. Name them x and y.")
    found = {name for names, _ in texts.values() for name in names}
    check_class_count(found, where, one_class=True)
    classes = tuple(sorted(found, key=natural_order))
    numbers = {category: number for number, category in enumerate(classes)}
    side = size or choose_size([(shape[2], shape[1]) for shape in (parts["train"][0].shape,)])
    made = {
        split: (
            resize_pictures(_eight_bits(images, where, limits), side),
            np.asarray([numbers[name] for name in texts[split][0]], dtype=np.int64)[texts[split][1]],
            [f"{split}/{index:06d}" for index in range(len(labels))],
        )
        for split, (images, labels) in sorted(parts.items())
    }
    return assemble(name, classes, made, layout=f"arrays in {', '.join(file.name for file in files[:4])}")


def _numpy_parts(files: Sequence[SourceFile], where: str) -> tuple[dict[str, tuple[Array, Array]], Array]:
    """Return pictures and labels by split, and the names of the classes, by number; empty if there are none."""
    arrays = _numpy_arrays(files, where)
    parts = _paired(arrays, where)
    if not parts:
        shapes = some(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise DataError(
            f"{where}: {files[0].name} holds the arrays {shapes}. Name the pictures x or x_train, uint8 [N, H, H, 3] "
            "or [N, H, H], and the labels y or y_train, as many."
        )
    names = next((arrays[key] for key in CLASS_KEYS if key in arrays), None)
    if names is None or names.dtype.kind not in "US":
        return parts, np.empty(0)
    check_rows(names.size, where)
    _check_room(names, where)
    return parts, names.reshape(-1)  # what goes by columns is copied for that


def _numpy_arrays(files: Sequence[SourceFile], where: str) -> dict[str, Array]:
    """Return the arrays by name: those of the .npz files, or each .npy; of train.npz beside test.npz with _train."""
    budget = UnpackBudget(f"{where}: {files[0].name}", sum(file.packed() for file in files))
    arrays: dict[str, Array] = {}
    for file in files:
        with file.open() as opened:
            if file.ending == ".npy":
                arrays[file.stem] = _npy(opened, budget)
                continue
            with open_zip(opened, budget) as archive:
                for member in archive.infolist():
                    if member.filename.endswith(".npy"):
                        name = member.filename.removesuffix(".npy") + (f"_{file.stem}" if len(files) > 1 else "")
                        with archive.open(member) as content:
                            arrays[name] = _npy(content, budget)
    return arrays


def _paired(arrays: Mapping[str, Array], where: str) -> dict[str, tuple[Array, Array]]:
    """Return the pictures and labels by split: x_train and y_train, images and labels."""
    parts: dict[str, tuple[Array, Array]] = {}
    by_name = {name.casefold(): array for name, array in arrays.items() if len(name) <= LONGEST_KEY}
    for key, images in arrays.items():
        match = PICTURE_KEY.fullmatch(key.casefold()) if len(key) <= LONGEST_KEY else None
        split = split_of(match["before"] or match["after"] or "train") if match else None
        pictures = _square(images)
        if match and split and pictures.ndim in (3, 4):
            label = _label_beside(key, match["kind"], by_name)
            if label is not None and len(label) == len(pictures):
                check_rows(len(label), where)
                _check_room(label, where)
                if not pictures.size:
                    raise _shape_error(pictures, where)
                parts[split] = pictures, label
    return {split: (pictures, _numbers(label)) for split, (pictures, label) in parts.items()}


def _check_room(texts: Array, where: str) -> None:
    """Raise DataError for texts that may be longer than a model's: to compare or list them takes many times that."""
    kind = texts.dtype
    if kind.kind in "US" and kind.itemsize > 4 * MAX_TEXT:
        room = kind.itemsize // (4 if kind.kind == "U" else 1)
        raise DataError(
            f"{where}: labels have room for {room:,} letters, and a model has {MAX_TEXT:,} at most. Shorten them."
        )


def _shape_error(images: Array, where: str) -> DataError:
    return DataError(f"{where}: pictures of the shape {list(images.shape[1:])} are not read. Give [N, H, H, 3].")


def _square(images: Array) -> Array:
    """Return grey pictures that are stored as rows of pixels, as MNIST's of 784, as pictures; all else as it is."""
    side = math.isqrt(images.shape[1]) if images.ndim == 2 else 0
    return images.reshape(len(images), side, side) if side > 1 and side**2 == images.shape[1] else images


def _label_beside(key: str, kind: str, by_name: Mapping[str, Array]) -> Array | None:
    names = (key.casefold().replace(kind, label, 1) if kind != "arr_0" else "arr_1" for label in LABEL_KEYS)
    return next((by_name[name] for name in names if name in by_name and by_name[name].ndim in (1, 2)), None)


def _numbers(label: Array) -> Array:
    """Return one label a picture, also of a row of figures for each, of which the largest counts."""
    if label.dtype.kind not in LABEL_KINDS:
        raise _KindError(f"holds labels of the type {label.dtype}")
    if label.ndim == 2 and label.shape[1] != 1:
        return np.asarray(label.argmax(axis=1))
    values = label.reshape(-1)
    with np.errstate(all="ignore"):  # those that are infinite are no whole numbers, and small kinds end below MAX_WHOLE
        whole = values.dtype.kind == "f" and bool(((np.mod(values, 1) == 0) & (np.abs(values) < MAX_WHOLE)).all())
    return values.astype(np.int64) if whole else values


def _texts(label: Array, names: Array) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the classes, and the place of each picture's among them.

    Read are 1 MiB of labels at a time, and no more where a model has fewer classes: what Python and NumPy make of
    them takes several times their bytes.
    """
    found: dict[str, int] = {}
    places, rows = np.zeros(len(label), dtype=np.int64), max(1, LABELS // max(1, label.itemsize))
    for start in range(0, len(label), rows):
        part = label[start : start + rows]
        values, inverse = np.unique(part, return_inverse=True)
        numbers = [found.setdefault(_text(value, names), len(found)) for value in values.tolist()]
        if len(found) > MAX_CLASSES:
            break
        places[start : start + rows] = np.asarray(numbers)[inverse.reshape(-1)]
    return list(found), places


def _text(value: object, names: Array) -> str:
    """Return the name of a class, as far as a message or a limit needs it: that of a number, or what a label says."""
    if isinstance(value, int) and 0 <= value < names.size:
        value = names[value].item()
    value = value + 0 if isinstance(value, float) else value  # there are two zeros
    text = _from_bytes(value) if isinstance(value, bytes) else str(value)
    return text[: MAX_TEXT + 1]


def _from_bytes(value: bytes) -> str:
    """Decode UTF-8, and write other bytes as \\xff: straight to that each of them would take 500 times as long."""
    return value.decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace").decode().replace("\\udc", "\\x")


def _npy(opened: IO[bytes], budget: UnpackBudget) -> Array:
    """Read one array; its size is checked before, and objects, which would be pickles, are refused."""
    first = npy.read_magic(opened) == (1, 0)
    count = int.from_bytes(budget.read(opened, 2 if first else 4), "little")
    if count > MAX_HEADER:
        raise _KindError(f"holds an array with a header of {count:,} bytes, as records have")
    shape, fortran, kind = _npy_header(budget.read(opened, count).decode("latin-1"))
    size = math.prod(shape) * kind.itemsize
    data = budget.read(opened, size)
    if len(data) < size:
        raise EOFError("it is cut off")
    values = np.frombuffer(data, dtype=kind)
    if kind.kind == "U":
        letters = values.view(np.dtype(np.uint32).newbyteorder(kind.byteorder)) if len(data) else np.zeros(1)
        if letters.max() > sys.maxunicode or ((letters >= SURROGATES[0]) & (letters <= SURROGATES[1])).any():
            raise ValueError("a text of what are no letters")
    return values.reshape(shape, order="F" if fortran else "C")


def _npy_header(text: str) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """Return shape, whether it goes by columns, and kind; raises ValueError or _KindError.

    NumPy evaluates it as Python: a few kilobytes of brackets or records take a thousand times as long as this.
    """
    found = {key: pattern.search(text) for key, pattern in HEADER.items()}
    descr, order, shape = found.values()
    rest = text
    for match in filter(None, found.values()):
        rest = rest.replace(match[0], "", 1)
    if not descr or not order or not shape or not set(rest) <= AROUND:
        raise _KindError("holds an array of records, or one that is not described as NumPy does")
    if "O" in descr[1]:
        raise _KindError("holds an array of objects, which is not read, as it is a pickle")
    try:
        kind = np.dtype(descr[1])
    except TypeError as error:
        raise ValueError(f"numbers of the type {descr[1]}") from error
    return tuple(map(int, re.findall(r"\d+", shape[1]))), order[1] == "True", kind


def _eight_bits(images: Array, where: str, limits: ImageLimits) -> Pictures:
    """Return uint8 [N, H, H, 1, 3 or 4] of pictures with any usual range and order of axes.

    Raises DataError for other arrays, for pictures of more pixels than a file may have, and where there is no memory.
    """
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.shape[3] not in (1, 3, 4) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.shape[3] not in (1, 3, 4) or images.shape[1] != images.shape[2] or not images.size:
        raise _shape_error(images, where)
    if images.dtype.kind not in "buif":
        raise DataError(f"{where}: pictures of the type {images.dtype} are not read. Give uint8 [N, H, H, 3].")
    side, most = images.shape[1], limits.max_pixels
    if side * side > most:
        raise DataError(
            f"{where}: pictures of {side} x {side} pixels are over the limit of {most / 1e6:g} megapixels. "
            "Scale them down."
        )
    if images.dtype == np.uint8:
        return images.astype(np.uint8, copy=False)
    check_memory(images.size, f"{where}: arrays of {images.dtype} as uint8", "Save them as uint8, or use fewer.")
    return eight_bits(images)


def _idx_kind(entry: SourceFile) -> bytes | None:
    name = entry.file.removesuffix(".gz").replace(".idx", "-idx").encode("utf-8", "replace")
    return next((kind for kind in IDX_KINDS if name.endswith(kind)), None)


def _idx_parts(files: Sequence[SourceFile]) -> dict[str, tuple[Array, Array]]:
    found: dict[str, dict[bytes, Array]] = {}
    left = MAX_BYTES
    for file in files:
        kind = _idx_kind(file) or b""
        split = IDX_NAMES.get(file.file.partition("-")[0].casefold())
        if split:
            found.setdefault(split, {})[kind], size = _idx(file, 3 if kind == IDX_KINDS[0] else 1, left)
            left -= size
    return {split: (pair[IDX_KINDS[0]], pair[IDX_KINDS[1]]) for split, pair in found.items() if len(pair) == 2}


def _idx(file: SourceFile, axes: int, most: int) -> tuple[Array, int]:
    """Read one file: two zeros, the type 8 for bytes, the number of axes, their lengths, the values.

    Also returned is how many bytes it has, unpacked: its values may be a few of them.
    """
    _check_size([file], most)
    data = file.read(most)
    if data.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as opened:
            data = opened.read(min(most, max(RATIO_FROM, RATIO * file.packed())))
    if data[:4] != bytes((0, 0, 8, axes)):
        raise ValueError(f"it is no idx file of bytes in {axes} axes")
    shape = struct.unpack_from(f">{axes}I", data, 4)
    values = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * axes)
    return values[: math.prod(shape)].reshape(shape), len(data)


def _check_size(files: Iterable[SourceFile], most: int) -> None:
    """Raise ValueError if files together have more bytes: outside of an archive a hole counts, and costs nothing."""
    size = sum(file.size() for file in files)
    if size > most:
        raise ValueError(f"it has {size / 2**20:,.0f} MiB, and {most // 2**20} are read at most")


@dataclass(frozen=True)
class CifarVersion:
    """One way in which the authors publish: the files of each split and of the classes' names, and what is in them."""

    title: str
    train: tuple[str, ...]
    test: str
    names: str
    keys: tuple[str, str] | None
    """Of the names and of the labels in the pickles; None for the binary version."""
    label_bytes: int = 1
    """Before each picture of the binary version; the last is the fine label."""

    def read_names(self, entry: SourceFile) -> Sequence[str]:
        """Return the names of the classes."""
        if self.keys:
            return read_pickle(entry)[self.keys[0]]
        text = entry.read(MAX_NAMES + 1)
        if len(text) > MAX_NAMES:
            raise ValueError(f"its {entry.file} has over {MAX_NAMES // 2**10} KiB")
        return text.decode("ascii").split()

    def read(self, entry: SourceFile) -> SplitArrays:
        """Return the pictures of one file."""
        file = entry.file
        if self.keys:
            content = read_pickle(entry)
            names = [f"{file}/{name}" for name in content["filenames"]]
            data = max((text for text in content["data"] if isinstance(text, str)), key=len)
            return _part(np.frombuffer(data.encode("latin-1"), np.uint8), content[self.keys[1]], names, file)
        rows = np.frombuffer(entry.read(MAX_CIFAR_BYTES), dtype=np.uint8).reshape(-1, self.label_bytes + ROW)
        names = [f"{file}/{index:05d}" for index in range(len(rows))]
        return _part(rows[:, self.label_bytes :], rows[:, self.label_bytes - 1].tolist(), names, file)


VERSIONS = (
    CifarVersion("CIFAR-10", BATCHES, "test_batch", "batches.meta", ("label_names", "labels")),
    CifarVersion(
        "CIFAR-10, binary version", tuple(f"{name}.bin" for name in BATCHES), "test_batch.bin", "batches.meta.txt", None
    ),
    CifarVersion("CIFAR-100", ("train",), "test", "meta", ("fine_label_names", "fine_labels")),
    CifarVersion("CIFAR-100, binary version", ("train.bin",), "test.bin", "fine_label_names.txt", None, 2),
)


def find_version(entries: Sequence[SourceFile]) -> CifarVersion | None:
    """Return the version whose files these are, packed or not; None if they are none of them."""
    present = {entry.file for entry in entries}
    for version in VERSIONS:
        # Names as common as `train` and `test` count only with the names of the classes beside them.
        sure = {version.names} if len(version.train) == 1 else set()
        if {version.train[0], version.test} | sure <= present:
            return version
    return None


def read_cifar(version: CifarVersion, entries: Sequence[SourceFile], name: str, where: str, size: int | None) -> Splits:
    """Return the published split, in the published order; raises DataError if a file is damaged or missing."""
    files = {entry.file: entry for entry in entries}
    title = version.title.partition(",")[0]
    missing = [file for file in (*version.train, version.test, version.names) if file not in files]
    if missing:
        raise DataError(f"{where}: lacks {missing[0]} of {title}. Unpack it again, or give the archive itself.")
    try:
        _check_size([files[file] for file in (*version.train, version.test, version.names)], MAX_CIFAR_BYTES)
        train = [version.read(files[file]) for file in version.train]
        test = [version.read(files[version.test])]
        classes = tuple(version.read_names(files[version.names]))
        letters = _check_texts(classes, *(names for _, _, names in (*train, *test)))
    except Exception as error:  # a damaged pickle raises nearly any type
        raise DataError(f"{where}: is not {title} as published ({shortened(error)}). Download it again.") from error
    check_class_count(classes, where, one_class=True)
    check_names(letters, sum(len(names) for _, _, names in (*train, *test)))
    parts = {"train": _join(train, size), "test": _join(test, size)}
    return assemble(name, classes, parts, layout=f"{version.title} as published")


def _check_texts(*texts: Sequence[str]) -> int:
    """Return their letters; raises TypeError or ValueError for what are no texts, or cannot be written down."""
    for several in texts:
        "".join(several).encode()
    return sum(len(text) for several in texts for text in several)


def _part(rows: Pictures, labels: Sequence[int], names: Sequence[str], file: str) -> SplitArrays:
    planes = rows.reshape(-1, 3, SIDE, SIDE)
    labels = [label for label in labels if type(label) is int]
    if not len(planes) == len(labels) == len(names):
        raise ValueError(f"{file} has {len(planes)} pictures, {len(labels)} labels and {len(names)} names")
    return planes.transpose(0, 2, 3, 1), np.asarray(labels, dtype=np.int64), names


def _join(batches: Sequence[SplitArrays], size: int | None) -> SplitArrays:
    images, labels, names = zip(*batches, strict=True)
    pictures = resize_pictures(np.ascontiguousarray(np.concatenate(images)), size or SIDE)
    return pictures, np.concatenate(labels), [name for batch in names for name in batch]


class _Pickle(io.BytesIO):
    """A pickle in which texts of more bytes than a path are those of Python 2 only, as the pixels are.

    These take a byte a letter, and others up to four, in each copy.
    """

    _code = b""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read so many bytes, which are an instruction if they are one; raises ValueError for a text that is too long.

        A long text follows upon its length, which has more bytes than one.
        """
        if size is None or size < 0 or (size > LONGEST_PATH and self._code != PIXELS):
            raise ValueError(f"its pickle has a text of over {LONGEST_PATH:,} bytes")
        content = super().read(size)
        self._code = content if size == 1 else self._code
        return content

    def readline(self, _size: int | None = -1, /) -> bytes:
        """Read a line; raises ValueError for one that is too long."""
        line = super().readline(LONGEST_PATH + 1)
        if len(line) > LONGEST_PATH:
            raise ValueError(f"its pickle has a text of over {LONGEST_PATH:,} bytes")
        return line


def read_pickle(entry: SourceFile) -> dict[str, list[Any]]:
    """Return by key the numbers and texts of a pickled dictionary: its instructions are read, and none is executed.

    Raises ValueError if it is damaged, or names anything to be called but what makes an array.
    """
    found: dict[str, list[Any]] = {}
    values: list[Any] = []
    letters = 0
    opened = _Pickle(entry.read(MAX_CIFAR_BYTES))
    for instruction, argument, _ in itertools.islice(pickletools.genops(opened), MAX_INSTRUCTIONS):
        if instruction.name == "GLOBAL" and (asked := str(argument)[:MAX_GLOBAL].replace(" ", ".")) not in MAKERS:
            raise ValueError(f"its pickle asks for {asked}")
        if isinstance(argument, str) and argument in KEYS:
            values = found[argument] = []
            continue
        if isinstance(argument, str) and (len(argument) <= LONGEST_PATH or values is not found.get("data")):
            letters += len(argument)
        if letters > MAX_LETTERS:
            raise ValueError(f"its names have over {MAX_LETTERS:,} letters")
        if instruction.stack_after and isinstance(argument, int | str) and not instruction.name.endswith("GET"):
            values.append(argument)
    return found
