"""Bounds what computing a model may cost, before ONNX Runtime sees the file: work, and numbers that are in memory.

An allow-list of the operators that `pupila train` writes, with a rule for the shape of what each returns. What a rule
does not cover is refused by the operator's name. All is for one picture, and no rule lets an operator mix pictures: so
many pictures take so many times as much. The largest recipe (512 pixels, flip_average, int8) takes 19 thousand million
multiplications, reads and writes numbers for as long, and has at most 60 million of them at once.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pupila.errors import ModelError
from pupila.model_file.reader import Graph, Node, Tensor

MAX_NODES = 2_000
MAX_TOGETHER = 2**26
"""Numbers that may be in memory at once, 256 MiB as float32: of what a call computes, which is of fewer pictures where
each needs much."""
MAX_ALL_NUMBERS = 2**29
"""Numbers of all values together: they take time, even one after the other."""
MAX_WORK = 60_000_000_000
"""Multiplications, and what takes as long."""
NUMBER_WORK = 64
"""What reading or writing a number counts as, each time: operators that give little may read much, and a window reads
each number at many places."""
MAX_FIXED_WORK = MAX_TOGETHER * NUMBER_WORK
"""Of what follows from the weights alone, which ONNX Runtime computes once, as it loads the file."""
SLOW_WORK = 512
"""What a number counts as that is put in order among others, for each bit of their count, or of which e to its power is
computed."""
MAX_ORDERED = 20_000
"""Numbers that may be put in order: the cosines of a prototype for each class."""
PLANE_WORK = 2048
"""What each channel of each image counts as that is computed by itself: up to 40 ns."""
PLANES = ("AveragePool", "Conv", "GlobalAveragePool", "MaxPool", "Resize")
"""Operators that go through images one by one, and most of them through their channels."""
PASSED = ("MaxPool", "Reshape", "Slice", "Transpose")
"""Operators behind which ONNX Runtime moves a DequantizeLinear, one for each that reads what they give."""
PACKED = ("Conv", "Gemm", "MatMul")
"""Operators that keep a copy of a weight, put in order for them: each one that reads it."""
ROWS = 2
"""What may be made of a picture, one below the other: itself and its mirror image."""
SPAN, SPAN_WORK = 16, 256
"""Numbers that are computed at a stretch where one input is repeated for the other: the last side of the result, which
may be any of them, as ONNX Runtime moves transposes behind it. And what each stretch that is shorter counts as,
whatever it gives."""
REDUCTION_WORK = 4096
"""What each result of a reduction counts as: ONNX Runtime moves transposes behind it, and each result of an axis that
is no longer the last takes 100 ns."""
TRANSPOSE_WORK = 384
"""What each number of a picture counts as that a transpose moves besides: it joins two to one that takes 25 ns, also
where they are moved behind an operator that makes more of the picture."""
MAX_SIDE = 1024
"""Pixels a side of the picture."""
FURTHEST = 2**31
"""What a slice beyond it means is: to the end."""
BLOCK = 16
"""ONNX Runtime computes convolutions in blocks of so many channels, and fills the last block up."""
FLOAT = 1
"""TensorProto.DataType of float32."""
WHOLE = ("Cast", "DequantizeLinear", "Transpose")
"""Operators that may take whole numbers: others are slower with them, a product twenty times, and the least / -1 ends a
process. What says how something is done, such as sides and counts, does not stand first."""

Shape = tuple[int, ...]
Rule = Callable[[Node, Sequence[Tensor]], tuple[list[Shape], int]]
"""Returns the shapes of an operator's results, and how many multiplications they take, or what takes as long."""


class _UnusualError(Exception):
    """An operator is used in a way that no rule covers."""


@dataclass(frozen=True)
class Cost:
    """What one picture takes."""

    multiplications: int
    """Or what takes as long, without the time to read and to write."""
    numbers: int
    """That are in memory together at most, in whatever order ONNX Runtime computes the operators."""
    outputs: dict[str, Shape]
    """Those that follow from the picture, by name."""


def check(graph: Graph) -> Cost:
    """Return what a picture takes; raises ModelError for what is not allowed or takes too much.

    Of a DequantizeLinear ONNX Runtime makes one for each that reads it, and computes it, and what follows from it, in
    each call, also where it is of the weights alone.
    """
    count = max(len(graph.nodes), sum(len(node.outputs) for node in graph.nodes) // 2)
    if count > MAX_NODES:  # each result costs ONNX Runtime as much as an operator, or more
        raise ModelError(f"It has {count:,} operators, over the limit of {MAX_NODES:,}. Export it again.")
    shape = _input(graph)
    values = {**graph.weights, "images": Tensor(shape, fixed=False, real=False)}
    multiplications = work = numbers = fixed = unfolded = 0
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    each_call: set[str] = set()
    packed: set[str] = set()
    copied: set[str] = set()
    memory = _Memory()
    memory.add("pictures", (), ("images",), [shape])
    for node in graph.nodes:
        inputs, results, cost = _results(node, values)
        multiplications += cost
        is_copied = _is_copied(node, copied)
        copies = max(1, readers[node.outputs[0]]) if is_copied else 1
        cost = copies * (cost + _passage(node.operator, inputs, results))
        work += cost
        for name, shape in zip(node.outputs, results, strict=True):
            size = math.prod(shape)
            numbers += size
            if size <= 0 or numbers > MAX_ALL_NUMBERS or work > MAX_WORK or name in values:
                raise ModelError(f"Its operator {node.operator} makes {_much(size, work)}. Export the model again.")
            real = REAL.get(node.operator, inputs[0].real) and (node.operator != "TopK" or name == node.outputs[0])
            values[name] = Tensor(shape, fixed=all(value.fixed for value in inputs), real=real)
        unfolded += _packed(node, inputs, packed)
        if values[node.outputs[0]].fixed:
            fixed += cost
            if is_copied or not each_call.isdisjoint(node.inputs):
                each_call.update(node.outputs)
                unfolded += copies * sum(map(math.prod, results))
        else:
            windows = _windows(results[0], inputs[1].shape) if node.operator == "Conv" else 0
            places = results[1:] if node.operator == "TopK" else []  # of eight bytes each
            memory.add(node.operator, node.inputs, node.outputs, copies * results + places, windows)
    if "logits" not in values or not set(graph.outputs) <= values.keys():
        raise ModelError("Its graph does not compute its outputs. Export or copy the model again.")
    for name, said in graph.declared:
        _check_declared(name, said, values)
    operator, together = memory.most(graph.outputs)
    _check_limits(operator, together + unfolded, fixed)
    outputs = {name: values[name].shape for name in graph.outputs if not values[name].fixed}
    return Cost(multiplications, together, outputs)


def _is_copied(node: Node, copied: set[str]) -> bool:
    """Return whether ONNX Runtime makes one of an operator for each that reads it; note what it gives in `copied`."""
    moved = node.operator in PASSED and not copied.isdisjoint(node.inputs[:1])
    if found := moved or node.operator == "DequantizeLinear":
        copied.update(node.outputs)
    return found


def _packed(node: Node, inputs: Sequence[Tensor], known: set[str]) -> int:
    """Return the numbers that an operator's own copy of its weight adds to memory; note the weight's name in `known`.

    The first copy takes the place of the weight, so that only what fills it up counts; every further one counts whole.
    Channels are filled up to a multiple of BLOCK: of a convolution those that go in, too.
    """
    if node.operator not in PACKED or not inputs[1].fixed:
        return 0
    name, shape = node.inputs[1], inputs[1].shape
    if node.operator == "Conv":
        copy = _filled(shape[0]) * _filled(shape[1]) * math.prod(shape[2:])
    else:
        across, inner = shape if node.attributes.get("transB") else shape[::-1]
        copy = _filled(across) * inner
    more = copy if name in known else copy - math.prod(shape)
    known.add(name)
    return more


def _check_declared(name: str, said: Sequence[int | str], values: dict[str, Tensor]) -> None:
    """Raise ModelError for a shape that is said of a value, but is another than it has."""
    if (value := values.get(name)) is None:
        return
    sides: list[int | str] = list(value.shape)
    if not value.fixed and sides:
        sides[0] = "pictures"  # however many: no number is right
    wrong = any(isinstance(side, int) and side != real for side, real in zip(said, sides, strict=False))
    if wrong or len(said) != len(sides):
        raise ModelError(f"It says of {name[:80]!r} that it has another shape than it has. Export the model again.")


def _check_limits(operator: str, needed: int, fixed: int) -> None:
    """Raise ModelError for too many numbers in memory at once, or too much work on the weights alone."""
    if needed > MAX_TOGETHER:
        raise ModelError(
            f"Its operator {operator} and those around it need {needed:,} numbers in memory at once, over the limit of "
            f"{MAX_TOGETHER:,}. Export the model again."
        )
    if fixed > MAX_FIXED_WORK:
        raise ModelError(
            f"What it computes from its weights alone takes {fixed:,} multiplications, or as long, over the limit of "
            f"{MAX_FIXED_WORK:,}. Export the model again."
        )


def _results(node: Node, values: dict[str, Tensor]) -> tuple[list[Tensor], list[Shape], int]:
    """Return an operator's inputs, the shapes of its results, and what they take."""
    rule = RULES.get(node.operator)
    if rule is None:
        raise ModelError(f"It has the operator {node.operator[:80]!r}, which no model of Pupila has. Export it again.")
    try:
        _need(node.attributes.keys() <= ATTRIBUTES.get(node.operator, set()))
        inputs = [values[name] if name else Tensor(()) for name in node.inputs]
        _need(inputs[0].real or node.operator in WHOLE)
        _need(all(node.outputs))  # ONNX Runtime writes a Split's result where there is none
        results, cost = rule(node, inputs)
        _need(all(tensor.fixed for tensor in inputs) or all(shape[:1] <= (ROWS,) for shape in results))
    except (_UnusualError, KeyError, IndexError, ValueError, TypeError, ZeroDivisionError, OverflowError):
        raise ModelError(
            f"Its operator {node.operator} is used in a way that no model of Pupila has. Export the model again."
        ) from None
    if len(node.outputs) != len(results):
        raise ModelError(f"Its operator {node.operator} has {len(node.outputs)} results. Export the model again.")
    return inputs, results, cost


def _passage(operator: str, inputs: Sequence[Tensor], results: list[Shape]) -> int:
    """Return what reading, writing, and going from one image to the next takes as long as."""
    numbers = sum(math.prod(shape) for shape in [*(tensor.shape for tensor in inputs), *results])
    planes = math.prod(results[0][:2]) if operator in PLANES else 0
    return NUMBER_WORK * numbers + PLANE_WORK * planes


@dataclass
class _Memory:
    """The steps that make values from a picture: what each keeps in memory, and which steps need that."""

    operators: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    scratch: list[int] = field(default_factory=list)
    """Numbers that a step needs besides: a convolution's windows, one beside the other."""
    readers: list[set[int]] = field(default_factory=list)
    made: dict[str, int] = field(default_factory=dict)

    def add(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], results: list[Shape], scratch: int = 0
    ) -> None:
        """Note a step."""
        step = len(self.sizes)
        for name in inputs:
            if name in self.made:
                self.readers[self.made[name]].add(step)
        self.made.update(dict.fromkeys(outputs, step))
        self.operators.append(operator)
        self.sizes.append(sum(map(_in_blocks, results)))
        self.scratch.append(scratch)
        self.readers.append(set())

    def most(self, outputs: Sequence[str]) -> tuple[str, int]:
        """Return the largest number of numbers that may be in memory together, and the operator that runs then.

        ONNX Runtime chooses the order of the steps, and changes it as it joins some. Whatever it chooses, a step's
        results are gone when another step begins only if that step needs, by some way, each of their readers.
        """
        count, kept = len(self.sizes), {self.made[name] for name in outputs if name in self.made}
        later = np.zeros((count, count), np.bool_)  # [step, those that need its results]
        gone = np.zeros((count, count), np.bool_)  # [step, those that begin when its results are gone]
        for step in reversed(range(count)):
            readers = list(self.readers[step])
            later[step, readers] = True
            later[step] |= later[readers].any(axis=0)
            gone[step] = bool(readers) and step not in kept and later[readers].all(axis=0)
        totals = ~(gone | gone.T) @ np.asarray(self.sizes) + np.asarray(self.scratch)
        step = int(totals.argmax())
        return self.operators[step], int(totals[step])


def _in_blocks(shape: Shape) -> int:
    """Return the numbers of a value, of four sides with its channels filled up."""
    return math.prod(shape) if len(shape) != 4 else math.prod(shape) // shape[1] * _filled(shape[1])


def _filled(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK


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


def _cast(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    _need(node.attributes["to"] == FLOAT)
    return [inputs[0].shape], 0


def _scaled(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    """Quantising: a scale for all; of weights that are read one for each part along an axis, too.

    Along the last axis ONNX Runtime quantises number by number, for 50 ns each.
    """
    axis = node.attributes.get("axis", 1)
    shape = inputs[0].shape
    sizes: set[Shape] = {(), (1,)} if shape else {()}
    if shape and inputs[0].fixed and node.operator == "DequantizeLinear":
        sizes.add((shape[axis if len(shape) > axis else 0],))
    _need(all(tensor.fixed and tensor.shape in sizes for tensor in inputs[1:]) and 2 <= len(inputs) <= 3)
    _need(inputs[1].real)  # with a scale of float16 all that follows is so
    return [shape], 0


def _broadcast(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    _need(1 <= len(inputs) <= 2 and all(node.inputs))  # ONNX Runtime computes a Max of nothing, too
    rank = max(len(tensor.shape) for tensor in inputs)
    shapes = [(1,) * (rank - len(tensor.shape)) + tensor.shape for tensor in inputs]
    result = tuple(max(sides) for sides in zip(*shapes, strict=True))
    _need(all(side in (1, whole) for shape in shapes for side, whole in zip(shape, result, strict=True)))
    pictures = {shape[0] for tensor, shape in zip(inputs, shapes, strict=True) if not tensor.fixed}
    weights = {shape[0] for tensor, shape in zip(inputs, shapes, strict=True) if tensor.fixed}
    _need(not pictures or (len(pictures) == 1 and weights <= {1}))
    _need(all(tensor.fixed or len(tensor.shape) == rank for tensor in inputs))
    repeated = any(shape != result for shape in shapes) and min(result[1:], default=1) < SPAN
    grown = any(not tensor.fixed and shape != result for tensor, shape in zip(inputs, shapes, strict=True))
    return [result], (SPAN_WORK * repeated + 2 * TRANSPOSE_WORK * grown) * math.prod(result)


def _transpose(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    shape, order = inputs[0].shape, node.attributes["perm"]
    _need(sorted(order) == list(range(len(shape))) and order[0] == 0)
    others = ([axis for axis in order if axis != moved] for moved in order)
    _need(any(rest == sorted(rest) for rest in others))  # where two axes move, each number takes 25 ns
    return [tuple(shape[axis] for axis in order)], 0 if inputs[0].fixed else TRANSPOSE_WORK * math.prod(shape)


def _concat(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    _need(1 <= len(inputs) <= 2 and node.attributes["axis"] == 0 and inputs[0].fixed == inputs[-1].fixed)
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
    _need(len(starts) == len(ends) == len(axes) == len(steps) <= len(shape) and 0 not in steps and min(axes) > 0)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        _need(step > 0 or start < 0)  # backwards from a place counted from the front ends elsewhere
        _need(abs(end) < FURTHEST or (end > 0) == (step > 0))  # else nothing is left
        whole = None if abs(end) >= FURTHEST else end
        shape[axis] = len(range(shape[axis])[start:whole:step])
    return [tuple(shape)], 0


def _resize(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    shape = inputs[0].shape
    factors = _numbers(inputs[2])
    _need(len(inputs) == 3 and len(factors) == len(shape) == 4 and factors[:2] == [1, 1])
    _need(all(0 < factor <= MAX_SIDE for factor in factors))
    _need(node.attributes.get("mode") in ("linear", "nearest"))
    _need(node.attributes.get("coordinate_transformation_mode", "half_pixel") == "half_pixel")  # ONNX's own, too
    # in float32, as ONNX Runtime multiplies: 96 by 5 / 3, whose nearest float32 is a little less, gives 160
    result = tuple(int(np.float32(side) * np.float32(factor)) for side, factor in zip(shape, factors, strict=True))
    return [result], NUMBER_WORK * math.prod(result)


def _window(node: Node, shape: Shape, kernel: Sequence[int]) -> Shape:
    """Return the sides of what a window that moves over a value gives."""
    attributes = node.attributes
    _need(not attributes.get("ceil_mode") and attributes.get("auto_pad") in (None, "NOTSET"))
    sides, count = shape[2:], len(kernel)
    strides, pads = attributes.get("strides", [1] * count), attributes.get("pads", [0] * 2 * count)
    _need(set(attributes.get("dilations", [])) <= {1})  # ONNX Runtime takes ten times as long for others
    _need(len(sides) == count == len(strides) == 2 and len(pads) == 4)
    _need(all(0 < number <= MAX_SIDE for number in (*kernel, *strides)))
    _need(all(0 <= pad <= MAX_SIDE for pad in pads))
    found = tuple((sides[i] + pads[i] + pads[count + i] - kernel[i]) // strides[i] + 1 for i in range(count))
    _need(min(found) > 0)  # two that are less have a product that is more
    return found


def _convolution(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    shape, weight = inputs[0].shape, inputs[1].shape
    _need(2 <= len(inputs) <= 3 and len(shape) == len(weight) == 4 and shape[1] == weight[1] and inputs[1].fixed)
    _need(node.attributes.get("group", 1) == 1)
    _need(len(inputs) == 2 or (inputs[2].fixed and inputs[2].shape == (weight[0],)))  # else one picture's for all
    _need(tuple(node.attributes.get("kernel_shape", weight[2:])) == weight[2:])
    result = (shape[0], weight[0], *_window(node, shape, weight[2:]))
    return [result], _windows(result, weight) * (NUMBER_WORK + _filled(weight[0]))


def _windows(result: Shape, weight: Shape) -> int:
    """Return the numbers of all of a convolution's windows, each of which all its channels multiply."""
    return math.prod(result) // result[1] * math.prod(weight[1:])


def _pool(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    kernel = node.attributes["kernel_shape"]
    shape = inputs[0].shape
    result = (*shape[:2], *_window(node, shape, kernel))
    return [result], NUMBER_WORK * math.prod(result) * math.prod(kernel)


def _global_pool(_: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    _need(len(inputs[0].shape) == 4)
    return [(*inputs[0].shape[:2], 1, 1)], 0


def _flatten(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    _need(node.attributes.get("axis", 1) == 1)
    return [(inputs[0].shape[0], math.prod(inputs[0].shape[1:]))], 0


def _product(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    (rows, inner), weight = inputs[0].shape, inputs[1].shape
    across = weight if not node.attributes.get("transB") else weight[::-1]
    _need(not node.attributes.get("transA") and len(across) == 2 and across[0] == inner and inputs[1].fixed)
    _need(len(inputs) == 2 or inputs[2].fixed)  # what follows from pictures is a row or a column by their number
    _need(len(inputs) == 2 or inputs[2].shape in ((), (1,), (across[1],), (1, across[1])))
    return [(rows, across[1])], rows * inner * across[1]


def _reshape(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    shape = tuple(int(side) for side in _numbers(inputs[1]))
    _need(not node.attributes.get("allowzero") and all(side > 0 for side in shape) and len(shape) <= 4)
    _need(math.prod(shape) == math.prod(inputs[0].shape) and inputs[0].fixed)
    return [shape], 0


def _top(_: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    (rows, across), (count,) = inputs[0].shape, _numbers(inputs[1])
    _need(1 <= count <= across <= MAX_ORDERED)  # of more, an order of them may take ten times as long as another
    return [(rows, count)] * 2, SLOW_WORK * rows * across * count.bit_length()


def _reduced(node: Node, inputs: Sequence[Tensor]) -> tuple[list[Shape], int]:
    axes = _numbers(inputs[1]) if len(inputs) > 1 else node.attributes["axes"]
    shape, keeps = inputs[0].shape, node.attributes.get("keepdims", 1)
    _need(keeps in (0, 1))  # ONNX Runtime takes any other number for 0
    _need(bool(axes) and all(0 < axis < len(shape) for axis in axes))  # of no axes all are reduced
    _need(sorted(axes) == list(range(len(shape) - len(axes), len(shape))))  # of others each result takes 100 ns
    kept = shape[: len(shape) - len(axes)]
    cost = REDUCTION_WORK * math.prod(kept)
    if node.operator == "ReduceLogSumExp":
        cost += SLOW_WORK * math.prod(shape)
    return [(*kept, *[1] * len(axes)) if keeps else kept], cost


RULES: dict[str, Rule] = {
    "Add": _broadcast, "AveragePool": _pool, "Cast": _cast, "Concat": _concat, "Conv": _convolution,
    "DequantizeLinear": _scaled, "Div": _broadcast, "Flatten": _flatten, "Gemm": _product,
    "GlobalAveragePool": _global_pool, "MatMul": _product, "Max": _broadcast, "MaxPool": _pool, "Mean": _broadcast,
    "Mul": _broadcast, "Neg": _same, "QuantizeLinear": _scaled, "ReduceL2": _reduced, "ReduceLogSumExp": _reduced,
    "ReduceMean": _reduced, "ReduceMin": _reduced, "Relu": _same, "Reshape": _reshape, "Resize": _resize,
    "Slice": _slice, "Split": _split, "Sqrt": _same, "Sub": _broadcast, "TopK": _top, "Transpose": _transpose,
}  # fmt: skip
"""The operators that may occur."""
REAL = {"Cast": True, "DequantizeLinear": True, "QuantizeLinear": False}
"""Whether what an operator gives has fractions; other results are as the first input, but for the places of TopK."""
WINDOW = {"kernel_shape", "strides", "pads", "dilations", "group", "ceil_mode", "count_include_pad", "auto_pad"}
REDUCED = {"axes", "keepdims"}
ATTRIBUTES: dict[str, set[str]] = {
    "AveragePool": WINDOW, "Cast": {"to"}, "Concat": {"axis"}, "Conv": WINDOW, "DequantizeLinear": {"axis"},
    "Flatten": {"axis"}, "Gemm": {"alpha", "beta", "transA", "transB"}, "MaxPool": WINDOW, "QuantizeLinear": {"axis"},
    "ReduceL2": REDUCED, "ReduceLogSumExp": REDUCED, "ReduceMean": REDUCED, "ReduceMin": REDUCED,
    "Reshape": {"allowzero"}, "Resize": {"coordinate_transformation_mode", "mode", "nearest_mode"}, "Split": {"axis"},
    "Transpose": {"perm"},
}  # fmt: skip
"""What may be said of them: with any other, a rule could give another shape than ONNX Runtime."""
