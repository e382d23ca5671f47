"""Reads an ONNX file strictly, before ONNX Runtime sees it: files of models are not trusted.

A small reader of protocol buffers (https://protobuf.dev/programming-guides/encoding) for the fields of onnx.proto that
`pupila train` writes. Every other field is refused by its name: weights in other files, functions, graphs in graphs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pupila import _files
from pupila.errors import ModelError

MAX_BYTES = 256 * 2**20
"""Of a model file: ResNet-18 has 45 MB in float32."""
MAX_FIELDS = 40_000
"""Fields of all messages: a file of ours has about 8,000."""
MAX_TEXT_BYTES = 8 * 2**20
"""Of all texts: the manifest has up to 4 MiB, and Python may take four bytes for one."""
MAX_NAME_BYTES = 200
"""Of all other texts: ONNX Runtime copies the names of operators and dimensions thousands of times."""
MAX_VALUES = 2**26
"""Numbers of one weight."""
SMALL = 64
"""Numbers up to which the values of a weight are looked at: shapes, axes, factors. No attribute has more."""

INT, FLOAT, BYTES, TEXT, NAME = "int", "float", "bytes", "text", "name"
KINDS = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2"}
"""Types of numbers, as NumPy names them, by TensorProto.DataType."""
FIELDS = {1: "float_data", 7: "int64_data"}
"""By the same: what holds numbers that are not in raw_data; of all others it is int32_data."""
Message = dict[str, list[Any]]

LAYOUT: dict[str, dict[int, tuple[str, str]]] = {
    "model": {
        1: ("ir_version", INT), 2: ("producer_name", NAME), 3: ("producer_version", NAME), 4: ("domain", NAME),
        5: ("model_version", INT), 6: ("doc_string", NAME), 7: ("graph", "graph"), 8: ("opset_import", "opset"),
        14: ("metadata_props", "entry"),
    },
    "opset": {1: ("domain", NAME), 2: ("version", INT)},
    "entry": {1: ("key", NAME), 2: ("value", TEXT)},
    "note": {1: ("key", NAME), 2: ("value", NAME)},
    "graph": {
        1: ("node", "node"), 2: ("name", NAME), 5: ("initializer", "tensor"), 10: ("doc_string", NAME),
        11: ("input", "value"), 12: ("output", "value"), 13: ("value_info", "value"), 16: ("metadata_props", "note"),
    },
    "node": {
        1: ("input", NAME), 2: ("output", NAME), 3: ("name", NAME), 4: ("op_type", NAME), 5: ("attribute", "attribute"),
        6: ("doc_string", NAME), 7: ("domain", NAME), 9: ("metadata_props", "note"),
    },
    "attribute": {
        1: ("name", NAME), 2: ("f", FLOAT), 3: ("i", INT), 4: ("s", NAME), 7: ("floats", FLOAT), 8: ("ints", INT),
        13: ("doc_string", NAME), 20: ("type", INT),
    },
    "tensor": {
        1: ("dims", INT), 2: ("data_type", INT), 4: ("float_data", FLOAT), 5: ("int32_data", INT),
        7: ("int64_data", INT), 8: ("name", NAME), 9: ("raw_data", BYTES), 12: ("doc_string", NAME),
        14: ("data_location", INT), 16: ("metadata_props", "note"),
    },
    "value": {1: ("name", NAME), 2: ("type", "type"), 3: ("doc_string", NAME), 4: ("metadata_props", "note")},
    "type": {1: ("tensor_type", "tensor type")},
    "tensor type": {1: ("elem_type", INT), 2: ("shape", "shape")},
    "shape": {1: ("dim", "dimension")},
    "dimension": {1: ("dim_value", INT), 2: ("dim_param", NAME)},
}  # fmt: skip
"""The fields that may occur, by message: number, name and type."""
REFUSED = {
    ("model", 20): "training instructions", ("model", 25): "functions of its own", ("graph", 15): "sparse weights",
    ("attribute", 5): "a constant within an operator", ("attribute", 6): "control flow: a graph within a graph",
    ("attribute", 11): "control flow: graphs within a graph", ("tensor", 3): "weights in segments",
    ("tensor", 6): "texts as weights", ("tensor", 13): "external data: weights in another file",
}  # fmt: skip
REPEATED = frozenset((
    "opset_import", "metadata_props", "node", "initializer", "input", "output", "value_info", "attribute", "floats",
    "ints", "dims", "float_data", "int32_data", "int64_data", "dim",
))  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """What is known of a value of the graph before it is computed."""

    shape: tuple[int, ...]
    values: NDArray[Any] | None = None
    """The numbers themselves, of a small weight."""
    fixed: bool = True
    """Whether it is a weight, or follows from weights alone."""
    real: bool = True
    """Whether its numbers are float32: what is stored as float16 is first made so."""


@dataclass(frozen=True)
class Node:
    """One operation."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    """Numbers, texts, and lists of numbers, by name."""


@dataclass(frozen=True)
class Graph:
    """A model file's content, checked for its form only."""

    nodes: tuple[Node, ...]
    weights: dict[str, Tensor]
    inputs: dict[str, tuple[int | str, ...]]
    """Shapes by name; a dimension that is not fixed has a name."""
    outputs: tuple[str, ...]
    declared: tuple[tuple[str, tuple[int | str, ...]], ...] = ()
    """Shapes that are said of outputs and of values on the way there, as of `inputs`; ONNX Runtime believes them."""
    metadata: dict[str, str] = field(default_factory=dict)


def read_bytes(path: Path) -> bytes:
    """Return a model file's content; raises ModelError if it is no file, or too large to be a model."""
    try:
        return _files.read_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot be read ({reason}). Give the path of a .onnx model file.", path) from error


def read_graph(data: bytes) -> Graph:
    """Return what is in a model file; raises ModelError for whatever `pupila train` does not write."""
    model = _MessageReader().message("model", memoryview(data))
    graph: Message = _one(model, "graph", None) or {}
    if not graph:
        raise ModelError("It is damaged or not an ONNX file. Export or copy the model again.")
    if any(_one(opset, "domain", "") not in ("", "ai.onnx") for opset in model.get("opset_import", [])):
        raise ModelError("It uses operators of another domain than ONNX's own. Export the model with Pupila.")
    weights = [_weight(tensor) for tensor in graph.get("initializer", [])]
    inputs = [(_one(value, "name", ""), _shape(value)) for value in graph.get("input", [])]
    names = [name for name, _ in (*weights, *inputs)]
    metadata = [(_one(entry, "key", ""), _one(entry, "value", "")) for entry in model.get("metadata_props", [])]
    if len(set(names)) != len(names) or len(dict(metadata)) != len(metadata):
        raise ModelError("It has two weights, inputs or properties of the same name. Export the model again.")
    return Graph(
        tuple(_node(node) for node in graph.get("node", [])),
        dict(weights),
        dict(inputs),
        tuple(_one(value, "name", "") for value in graph.get("output", [])),
        tuple(_declared(value) for part in ("output", "value_info") for value in graph.get(part, []) if _says(value)),
        dict(metadata),
    )


class _MessageReader:
    """Reads messages, and counts their fields."""

    def __init__(self) -> None:
        self.fields = 0
        self.text_bytes = 0

    def message(self, kind: str, data: memoryview) -> Message:
        """Return the fields of a message by name; those that are not repeated are there once at most."""
        found: Message = {}
        numbers = 0
        for number, wire, value in self.raw(data):
            name, type_ = LAYOUT[kind].get(number, ("", ""))
            if not name and kind == "model" and (kind, number) not in REFUSED:
                raise _damaged()
            if not name:
                what = REFUSED.get((kind, number), f"field {number} in a {kind}")
                raise ModelError(f"It has {what}, which no model of Pupila has. Export the model with Pupila.")
            if type_ in (INT, FLOAT) and wire == 2 and name not in REPEATED:
                raise _damaged()
            values = self.values(type_, wire, value)
            if name in found and name not in REPEATED:
                raise ModelError(f"It says {name} of a {kind} twice. Export or copy the model again.")
            found.setdefault(name, []).extend(values)
            if kind == "attribute" and name in REPEATED:
                numbers += sum(max(1, np.size(each)) for each in values)
            if numbers > SMALL:
                raise ModelError(f"It has more than {SMALL} numbers in an attribute. Export the model with Pupila.")
        return found

    def raw(self, data: memoryview) -> Iterator[tuple[int, int, Any]]:
        """Yield number, wire type and content of each field."""
        at = 0
        while at < len(data):
            self.count()
            key, at = _varint(data, at)
            wire = key & 7
            if wire == 0:
                value, at = _varint(data, at)
                yield key >> 3, wire, value
                continue
            if wire == 2:
                length, at = _varint(data, at)
            else:
                length = {1: 8, 5: 4}.get(wire, len(data) + 1)  # groups are not used any more
            if length > len(data) - at:
                raise _damaged()
            yield key >> 3, wire, data[at : at + length]
            at += length

    def values(self, type_: str, wire: int, value: Any) -> list[Any]:
        """Return the values of one field: several, where numbers are packed."""
        if type_ == INT:
            if wire == 0:
                return [_signed(value)]
            return list(self.packed(value)) if wire == 2 else _refuse()
        if type_ == FLOAT:
            if wire not in (2, 5) or len(value) % 4:
                raise _damaged()
            return [np.frombuffer(value, "<f4")]
        if wire != 2:
            raise _damaged()
        if type_ == BYTES:
            return [value]
        return [self.text(type_, value) if type_ in (TEXT, NAME) else self.message(type_, value)]

    def text(self, type_: str, value: memoryview) -> str:
        """Return a text, and count its bytes."""
        self.text_bytes += len(value)
        if type_ == NAME and len(value) > MAX_NAME_BYTES:
            raise ModelError(f"It has a name of more than {MAX_NAME_BYTES} bytes. Export the model with Pupila.")
        if self.text_bytes > MAX_TEXT_BYTES:
            raise ModelError(f"It has more than {MAX_TEXT_BYTES:,} bytes of text. Export the model with Pupila.")
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            raise _damaged() from None

    def packed(self, data: memoryview) -> Iterator[int]:
        """Yield numbers that stand one behind the other."""
        at = 0
        while at < len(data):
            self.count()
            value, at = _varint(data, at)
            yield _signed(value)

    def count(self) -> None:
        """Count one field more."""
        self.fields += 1
        if self.fields > MAX_FIELDS:
            raise ModelError(f"It has more than {MAX_FIELDS:,} fields. Export the model with Pupila.")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value < 2**64:
            return value, at
    raise _damaged()


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _refuse() -> list[Any]:
    raise _damaged()


def _damaged() -> ModelError:
    return ModelError("It is damaged or not an ONNX file. Export or copy the model again.")


def _one(message: Message, name: str, default: Any) -> Any:
    return message[name][0] if name in message else default


def _node(node: Message) -> Node:
    operator, domain = _one(node, "op_type", ""), _one(node, "domain", "")
    if domain not in ("", "ai.onnx"):
        raise ModelError(f"It has the operator {operator[:80]!r} of another domain than ONNX's own. Export it again.")
    attributes: dict[str, Any] = {}
    for attribute in node.get("attribute", []):
        name = _one(attribute, "name", "")
        if name in attributes:
            raise ModelError(
                f"The operator {operator[:80]!r} says {name[:80]!r} twice. Export or copy the model again."
            )
        attributes[name] = _attribute(attribute)
    return Node(operator, tuple(node.get("input", [])), tuple(node.get("output", [])), attributes)


def _attribute(attribute: Message) -> Any:
    kind = _one(attribute, "type", 0)
    if kind == 1:
        return float(_one(attribute, "f", [0.0])[0])
    if kind == 2:
        return _one(attribute, "i", 0)
    if kind == 3:
        return _one(attribute, "s", "")
    if kind == 6:
        return [float(number) for part in attribute.get("floats", []) for number in part]
    return attribute.get("ints", []) if kind == 7 else _refuse()


def _shape(value: Message) -> tuple[int | str, ...]:
    tensor: Message = _one(_one(value, "type", {}), "tensor_type", {})
    dimensions: list[Message] = _one(tensor, "shape", {}).get("dim", [])
    return tuple(_one(dim, "dim_value", _one(dim, "dim_param", "?")) for dim in dimensions)


def _says(value: Message) -> bool:
    """Return whether a value comes with a shape."""
    return "shape" in _one(_one(value, "type", {}), "tensor_type", {})


def _declared(value: Message) -> tuple[str, tuple[int | str, ...]]:
    return _one(value, "name", ""), _shape(value)


def _weight(tensor: Message) -> tuple[str, Tensor]:
    """Return a weight's name, and its shape once it is clear that all its numbers are there."""
    name, shape = _one(tensor, "name", ""), tuple(tensor.get("dims", []))
    if _one(tensor, "data_location", 0) != 0:
        raise ModelError(f"Its weight {name[:80]!r} is external data, in another file. Export the model with Pupila.")
    known = _one(tensor, "data_type", 0) in KINDS
    if not known or len(shape) > 4 or any(not 0 < side <= MAX_VALUES for side in shape):
        raise ModelError(f"Its weight {name[:80]!r} has a shape or type that no model of Pupila has. Export it again.")
    count = math.prod(shape)
    numbers = _numbers(tensor, _one(tensor, "data_type", 0))
    if count > MAX_VALUES or len(numbers) != count:
        raise ModelError(f"Its weight {name[:80]!r} has {len(numbers):,} numbers for {shape}. Copy or export it again.")
    small = numbers.reshape(shape) if count <= SMALL else None
    return name, Tensor(shape, small, real=numbers.dtype == np.float32)


def _numbers(tensor: Message, type_: int) -> NDArray[Any]:
    """Return a weight's numbers, from the one field of its type: others would be read here, and not by ONNX Runtime.

    Of float_data with more than SMALL the count is right, but not the numbers, which would be a second copy.
    """
    kind, place = KINDS[type_], FIELDS.get(type_, "int32_data")
    places = [name for name in ("raw_data", "float_data", "int32_data", "int64_data") if name in tensor]
    if places == ["raw_data"]:
        raw = _one(tensor, "raw_data", b"")
        return np.frombuffer(raw, kind) if len(raw) % np.dtype(kind).itemsize == 0 else np.empty(0)
    if not places:
        return np.empty(0)
    if places != [place]:
        raise _damaged()
    if place == "float_data":
        count = sum(map(len, tensor[place]))
        return np.concatenate(tensor[place]) if count <= SMALL else np.broadcast_to(np.float32(0), count)
    numbers = np.asarray(tensor[place], np.int64)
    found = numbers.astype(kind if kind != "<f2" else "<u2")
    if (found != numbers).any():
        raise _damaged()
    return found.view(kind)
