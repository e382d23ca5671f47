"""Python pickles of arrays, read without running anything that a pickle may ask for. Knows nothing of pictures."""

import io
import pickle
from typing import Any

import numpy as np

from pupila.data.sources.entries import Entry


class Array:
    """Stands in for a NumPy array while unpickling: takes its bytes, and calls nothing."""

    def __init__(self, *_: object) -> None:
        self._state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._state = state

    def values(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        _, shape, kind, column_major, data = self._state
        if kind.code != b"u1" or column_major:
            raise ValueError("its array is not of bytes, row by row")
        return np.frombuffer(data, dtype=np.uint8).reshape(shape)


class _Kind:
    """Stands in for a NumPy dtype: keeps its code, b"u1" for bytes."""

    def __init__(self, code: bytes, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment say nothing about single bytes."""


STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): Array,
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _Kind,
}


class _Unpickler(pickle.Unpickler):
    """Knows the three names that the published files use, and gives harmless stand-ins for them."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"its pickle asks for {module}.{name}")
        return STAND_INS[module, name]


def unpickle(entry: Entry) -> dict[bytes, Any]:
    """Return the dictionary in a file; raises nearly any type of error if it is damaged, or asks for more."""
    content = _Unpickler(io.BytesIO(entry.read()), encoding="bytes").load()
    if not isinstance(content, dict):
        raise ValueError(f"{entry.parts[-1]} holds no dictionary")
    return content
