"""Reads a .pth file with PyTorch once it is checked: what its records unpack to, and what its pickle would do.

PyTorch runs no code of a file, but it packs out, nests and shares what the file says: a kilobyte can take hours.
"""

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from pupila._files import open_file
from pupila.data.sources.archive import UnpackBudget, open_zip

MAX_RECORDS = 10_000
"""Of a file: one a tensor and a few more."""
MAX_INSTRUCTIONS = 100_000
"""Of a pickle: that of ResNet-18 has 5,000, that of ResNet-152 some 40,000."""
MAX_PICKLE = 4 * 2**20
"""Bytes of a pickle: that of ResNet-152 has some 100,000. A text in it takes eight times its bytes."""
MAX_NUMBER = 2**31
"""Of whole numbers in a pickle: those beyond 2^61 can be many with the same hash, and then take the square of it."""
MAX_DEPTH = 20
"""Of what lies in each other: tensors in a state dict need 7."""
MAKERS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter|parameter_with_state)"
    r"|torch\.nn\.parameter Parameter|torch (Size|(Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage)"
)
"""What makes tensors of plain numbers: quantised and complex ones are not converted to a network's."""
LEGACY_PICKLES = 5
"""Of the form before PyTorch 1.6: its number, its version, the machine, the state dict, the names of its numbers."""
LEGACY_START = 0x1950A86A20F9469CFC6C
"""The number that a file of that form begins with."""
LEGACY_COUNT = 8
"""Bytes in front of the numbers of each storage in that form: how many they are."""
ZIP_START, ZIP_ENTRY = b"PK\x03\x04", b"PK\x01\x02"
IN_PLACE = frozenset(("SETITEM", "SETITEMS", "APPEND", "APPENDS", "BUILD"))
FLAT = frozenset(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"))
"""What makes values that may be used again where only numbers lie in them, as the settings of optimizers are.

They are no keys, of which many could have the same hash, and lie in no lists, of which OrderedDict makes keys, too.
"""
EMPTY = frozenset(("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE"))
T = TypeVar("T")


class NotPlainError(ValueError):
    """The file holds something else than names and tensors; says what."""


def check_header(path: Path, most: int) -> None:
    """Raise ValueError if the JSON in front of a .safetensors file, names, shapes and texts, has more bytes."""
    with open_file(path) as file:
        if int.from_bytes(file.read(8), "little") > most:
            raise ValueError(f"a header of over {most:,} bytes")


def load(data: bytes) -> object:
    """Return what a .pth file holds, its tensors on the CPU; no code of it is run.

    Raises NotPlainError, and ValueError, DataError and what zipfile, pickletools and PyTorch raise if it is damaged or
    hostile.
    """
    if data.startswith(ZIP_START):
        return torch.load(_checked_zip(data), map_location="cpu", weights_only=True)
    return _load_legacy(data)


def _load_legacy(data: bytes) -> object:
    """Read the form before PyTorch 1.6: pickles, and behind them the numbers of all storages that they name.

    PyTorch reads those that the last pickle lists, and leaves the others as the memory was: all must be there.
    """
    start = 0
    for _ in range(LEGACY_PICKLES):
        part = io.BytesIO(data[start : start + MAX_PICKLE])
        _check_pickle(part)
        start += part.tell()
    left = len(data) - start
    made: list[tuple[Any, int]] = []

    def place(storage: Any, _location: str) -> Any:
        nonlocal left
        left -= LEGACY_COUNT + storage.nbytes()
        made.append((storage, storage.nbytes()))
        if left < 0:
            raise ValueError("it has fewer bytes than its numbers need")
        return storage.fill_(0)

    state = torch.load(io.BytesIO(data), map_location=place, weights_only=True)
    if left or any(storage.nbytes() != size for storage, size in made):
        raise ValueError("its numbers have other sizes than it says")
    return state


def _checked_zip(data: bytes) -> io.BytesIO:
    if data.count(ZIP_ENTRY) > MAX_RECORDS:
        raise ValueError(f"it has over {MAX_RECORDS:,} records")
    copy = io.BytesIO()
    with open_zip(io.BytesIO(data), UnpackBudget("", len(data))) as archive, zipfile.ZipFile(copy, "w") as plain:
        members = {member.filename: member for member in archive.infolist()}
        sizes = sum(member.file_size for member in members.values())
        if sizes > len(data) or any(member.compress_type for member in members.values()):
            raise ValueError("its records are packed, or share their bytes")
        for name, member in members.items():
            content = archive.read(member)
            if name.casefold().endswith("data.pkl"):  # PyTorch finds it whatever the capitals
                if len(content) > MAX_PICKLE:
                    raise ValueError(f"its pickle has over {MAX_PICKLE:,} bytes")
                _check_pickle(io.BytesIO(content))
            plain.writestr(name, content)
    copy.seek(0)
    return copy


def _check_pickle(file: IO[bytes]) -> None:
    """Read the instructions up to the end of one pickle without executing them.

    Raises ValueError if it nests deeply, NotPlainError if it calls anything but what makes tensors, or uses what it has
    put together in several places: the hash of a pair of the same pairs, and so on, takes a power of their number.
    """
    levels: list[list[tuple[int, str]]] = [[]]  # the depth of each value and what made it: a level for each mark
    memo: dict[object, tuple[int, str]] = {}
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        name, before = instruction.name, instruction.stack_before
        if count == MAX_INSTRUCTIONS:
            raise ValueError(f"its pickle has over {MAX_INSTRUCTIONS:,} instructions")
        _check_argument(name, argument)
        if name == "MARK":
            levels.append([])
        elif name.endswith("PUT"):
            memo[argument] = levels[-1][-1]
        elif name.endswith("GET"):
            depth, made = memo[argument]
            if depth and not (depth == 1 and made in FLAT):
                raise NotPlainError("its pickle uses a value in several places")
            levels[-1].append((depth, made))
        else:
            marked = levels.pop() if pickletools.markobject in before else []
            fixed = before.index(pickletools.markobject) if pickletools.markobject in before else len(before)
            taken = [levels[-1].pop() for _ in range(fixed)][::-1] + marked
            if any(made in FLAT and (depth > 1 or name not in FLAT) for depth, made in _hashed(name, taken)):
                raise NotPlainError("its pickle has a tuple as a key, or in a list")
            depth = _depth(name, [depth for depth, _ in taken])
            if depth > MAX_DEPTH:
                raise ValueError(f"its pickle is nested over {MAX_DEPTH} deep")
            levels[-1] += [(depth, name)] * len(instruction.stack_after)


def _check_argument(name: str, argument: object) -> None:
    if isinstance(argument, int) and abs(argument) > MAX_NUMBER and argument != LEGACY_START:
        raise ValueError(f"its pickle has a number of over {MAX_NUMBER:,}")
    if name == "GLOBAL" and not MAKERS.fullmatch(str(argument)):
        raise NotPlainError(f"its pickle asks for {argument}")


def _hashed(name: str, taken: list[T]) -> list[T]:
    """Return which values an instruction makes keys of, or puts where OrderedDict takes keys from."""
    if name.startswith("SETITEM"):
        return taken[1::2]
    return taken[name.startswith("APPEND") :] if name in FLAT or name.startswith("APPEND") else []


def _depth(name: str, taken: list[int]) -> int:
    """Return how deep the value of an instruction is nested: 0 for a number or a text."""
    if name in IN_PLACE:
        return max(taken[0], 1 + max(taken[1:], default=0))
    return 1 + max(taken, default=0) if taken or name in EMPTY else 0
