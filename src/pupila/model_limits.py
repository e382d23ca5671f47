"""Bounds what computing a model may cost: the shape of every value is worked out before ONNX Runtime sees the file.

An allow-list of the operators that `pupila train` writes, with a rule for the shape of what each returns. What a rule
does not cover is refused by the operator's name. All is for one picture: the largest recipe (512 pixels, flip_average)
takes 19 thousand million multiplications and values of 8.4 million numbers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from pupila.errors import ModelError
from pupila.model_file import Graph, Node, Tensor

MAX_NODES = 2_000
MAX_NUMBERS = 2**24
"""Numbers of one value."""
MAX_ALL_NUMBERS = 2**29
"""Numbers of all values together."""
MAX_WORK = 50_000_000_000
"""Multiplications."""
MAX_SIDE = 1024
"""Pixels a side of the picture."""
FURTHEST = 2**31
"""What a slice beyond it means is: to the end."""

Shape = tuple[int, ...]
Rule = Callable[[Node, Sequence[Tensor]], tuple[list[Shape], int]]
"""Returns the shapes of an operator's results, and how many multiplications they take."""


class _UnusualError(Exception):
    """An operator is used in a way that no rule covers."""


def check(graph: Graph) -> int:
    """Return how many multiplications a picture takes; raises ModelError for what is not allowed or takes too much."""
    if len(graph.nodes) > MAX_NODES:
        raise ModelError(f"It has {len(graph.nodes):,} operators, over the limit of {MAX_NODES:,}. Export it again.")
    values, work, numbers = {**graph.weights, "images": Tensor(_input(graph))}, 0, 0
    for node in graph.nodes:
        rule = RULES.get(node.operator)
        if rule is None:
            raise ModelError(
                f"It has the operator {node.operator[:80]!r}, which no model of Pupila has. Export it again."
            )
        try:
            results, cost = rule(node, [values[name] if name else Tensor(()) for name in node.inputs])
        except (_UnusualError, KeyError, IndexError, ValueError, TypeError, ZeroDivisionError, OverflowError):
            raise ModelError(
                f"Its operator {node.operator} is used in a way that no model of Pupila has. Export the model again."
            ) from None
        work += cost
        for name, shape in zip(node.outputs, results, strict=False):
            size = math.prod(shape)
            numbers += size
            if not 0 < size <= MAX_NUMBERS or numbers > MAX_ALL_NUMBERS or work > MAX_WORK or name in values:
                raise ModelError(f"Its operator {node.operator} makes {_much(size, work)}. Export the model again.")
            values[name] = Tensor(shape)
        if len(node.outputs) != len(results):
            raise ModelError(f"Its operator {node.operator} has {len(node.outputs)} results. Export the model again.")
    if "logits" not in values or not set(graph.outputs) <= values.keys():
        raise ModelError("Its graph does not compute its outputs. Export or copy the model again.")
    return work


def _much(size: int, work: int) -> str:
    if size <= 0:
        return "nothing"
    return f"more work or memory than any model of Pupila ({work / 1e9:,.0f}e9 multiplications, {size:,} numbers)"


def _input(graph: Graph) -> Shape:
    """Return the shape of one picture; raises ModelError for other inputs."""
    shape = graph.inputs.get("images", ())
    sides = shape[1:3]
    square = len(shape) == 4 and shape[3] == 3 and sides[0] == sides[1] and isinstance(sides[0], int)
    if len(graph.inputs) != 1 or not square or not 1 <= int(sides[0]) <= MAX_SIDE:
        raise ModelError("Its input is not a picture of up to 1,024 pixels a side. Export or copy the model again.")
    return 1, int(sides[0]), int(sides[0]), 3


def _need(condition: bool) -> None:
    if not condition:
        raise _UnusualError


def _numbers(tensor: Tensor) -> list[Any]:
    """Return the values of a small weight."""
    if tensor.values is None:
        raise _UnusualError
    found: list[Any] = tensor.values.reshape(-1).tolist()
    return found


def _same(_: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    return [inputs[0].shape], 0


def _scaled(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    """Quantising: a scale for all, or one for each part along an axis."""
    axis = node.attributes.get("axis", 1)
    shape = inputs[0].shape
    sizes = {()} if not shape else {(), (1,), (shape[axis if len(shape) > axis else 0],)}
    _need(all(tensor.shape in sizes for tensor in inputs[1:]) and 2 <= len(inputs) <= 3)
    return [shape], 0


def _broadcast(_: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    _need(1 <= len(inputs) <= 8)
    rank = max(len(tensor.shape) for tensor in inputs)
    shapes = [(1,) * (rank - len(tensor.shape)) + tensor.shape for tensor in inputs]
    result = tuple(max(sides) for sides in zip(*shapes, strict=True))
    _need(all(side in (1, whole) for shape in shapes for side, whole in zip(shape, result, strict=True)))
    return [result], 0


def _transpose(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    shape, order = inputs[0].shape, node.attributes["perm"]
    _need(sorted(order) == list(range(len(shape))))
    return [tuple(shape[axis] for axis in order)], 0


def _concat(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    _need(1 <= len(inputs) <= 8 and node.attributes["axis"] == 0)
    shapes = [tensor.shape for tensor in inputs]
    _need(all(shape[1:] == shapes[0][1:] for shape in shapes))
    return [(sum(shape[0] for shape in shapes), *shapes[0][1:])], 0


def _split(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    shape, parts = inputs[0].shape, len(node.outputs)
    _need(len(inputs) == 1 and node.attributes.get("axis", 0) == 0 and shape[0] % parts == 0)
    return [(shape[0] // parts, *shape[1:])] * parts, 0


def _slice(_: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    starts, ends, axes, steps = (_numbers(tensor) for tensor in inputs[1:5])
    shape = list(inputs[0].shape)
    _need(len(starts) == len(ends) == len(axes) == len(steps) <= len(shape) and 0 not in steps)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        whole = None if abs(end) >= FURTHEST else end
        shape[axis] = len(range(shape[axis])[start if step > 0 or start < 0 else None : whole : step])
    return [tuple(shape)], 0


def _resize(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    shape = inputs[0].shape
    factors = _numbers(inputs[2])
    _need(len(inputs) == 3 and len(factors) == len(shape) and all(0 < factor <= MAX_SIDE for factor in factors))
    _need(node.attributes.get("mode") in ("linear", "nearest"))
    result = tuple(math.floor(side * factor) for side, factor in zip(shape, factors, strict=True))
    return [result], 4 * math.prod(result)


def _window(node: Node, shape: Shape, kernel: Sequence[int]) -> Shape:
    """Return the sides of what a window that moves over a value gives."""
    known = {"kernel_shape", "strides", "pads", "dilations", "group", "ceil_mode", "count_include_pad", "auto_pad"}
    attributes = node.attributes
    _need(
        set(attributes) <= known and not attributes.get("ceil_mode") and attributes.get("auto_pad") in (None, "NOTSET")
    )
    sides, count = shape[2:], len(kernel)
    strides, pads = attributes.get("strides", [1] * count), attributes.get("pads", [0] * 2 * count)
    dilations = attributes.get("dilations", [1] * count)
    _need(len(sides) == count == len(strides) == len(dilations) == 2 and len(pads) == 4)
    _need(all(0 < number <= MAX_SIDE for number in (*kernel, *strides, *dilations)))
    _need(all(0 <= pad <= MAX_SIDE for pad in pads))
    return tuple(
        (sides[i] + pads[i] + pads[count + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(count)
    )


def _convolution(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    shape, weight = inputs[0].shape, inputs[1].shape
    group = node.attributes.get("group", 1)
    _need(2 <= len(inputs) <= 3 and len(shape) == len(weight) == 4 and group > 0 and shape[1] == weight[1] * group)
    _need(len(inputs) == 2 or inputs[2].shape == (weight[0],))
    _need(tuple(node.attributes.get("kernel_shape", weight[2:])) == weight[2:])
    result = (shape[0], weight[0], *_window(node, shape, weight[2:]))
    return [result], math.prod(result) * math.prod(weight[1:])


def _pool(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    kernel = node.attributes["kernel_shape"]
    shape = inputs[0].shape
    result = (*shape[:2], *_window(node, shape, kernel))
    return [result], math.prod(result) * math.prod(kernel)


def _global_pool(_: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    return [(*inputs[0].shape[:2], 1, 1)], 0


def _flatten(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    _need(node.attributes.get("axis", 1) == 1)
    return [(inputs[0].shape[0], math.prod(inputs[0].shape[1:]))], 0


def _product(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    (rows, inner), weight = inputs[0].shape, inputs[1].shape
    across = weight if not node.attributes.get("transB") else weight[::-1]
    _need(not node.attributes.get("transA") and len(across) == 2 and across[0] == inner)
    _need(len(inputs) == 2 or inputs[2].shape in ((), (1,), (across[1],), (1, across[1])))
    return [(rows, across[1])], rows * inner * across[1]


def _reshape(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    shape = tuple(int(side) for side in _numbers(inputs[1]))
    _need(not node.attributes.get("allowzero") and all(side > 0 for side in shape) and len(shape) <= 4)
    _need(math.prod(shape) == math.prod(inputs[0].shape))
    return [shape], 0


def _top(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    (rows, across), (count,) = inputs[0].shape, _numbers(inputs[1])
    _need(1 <= count <= across and not node.attributes)
    return [(rows, count)] * 2, 0


def _reduced(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    axes = _numbers(inputs[1]) if len(inputs) > 1 else node.attributes["axes"]
    shape = inputs[0].shape
    _need(all(0 <= axis < len(shape) for axis in axes))
    if node.attributes.get("keepdims", 1):
        return [tuple(1 if axis in axes else side for axis, side in enumerate(shape))], 0
    return [tuple(side for axis, side in enumerate(shape) if axis not in axes)], 0


RULES: dict[str, Rule] = {
    "Add": _broadcast, "AveragePool": _pool, "Cast": _same, "Concat": _concat, "Conv": _convolution,
    "DequantizeLinear": _scaled, "Div": _broadcast, "Flatten": _flatten, "Gemm": _product,
    "GlobalAveragePool": _global_pool, "MatMul": _product, "Max": _broadcast, "MaxPool": _pool, "Mean": _broadcast,
    "Mul": _broadcast, "Neg": _same, "QuantizeLinear": _scaled, "ReduceL2": _reduced, "ReduceLogSumExp": _reduced,
    "ReduceMean": _reduced, "ReduceMin": _reduced, "Relu": _same, "Reshape": _reshape, "Resize": _resize,
    "Slice": _slice, "Split": _split, "Sqrt": _same, "Sub": _broadcast, "TopK": _top, "Transpose": _transpose,
}  # fmt: skip
"""The operators that may occur."""
