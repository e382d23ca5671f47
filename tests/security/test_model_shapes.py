"""The shapes that a model file's cost is counted with, beside those that ONNX Runtime makes, for operators made up.

One that is counted as smaller than it is has no bound; one that depends on the number of pictures mixes them.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from pupila.errors import ModelError
from pupila.model_file import cost, reader

SIDE, CHANNELS = 12, 3
TRIALS = 400
"""Of each kind of operator."""
LEAST = 20
"""Of these, so many are counted at least: else nothing is compared."""
FURTHEST = 2**63 - 1

Weights = dict[str, np.ndarray[Any, Any]]
Made = tuple[list[NodeProto], Weights]
"""Operators that make `logits` of `x`, [N, 3, 12, 12] or its first sides, and the weights that they read."""


def slices(draw: random.Random) -> Made:
    count, places = (
        draw.randint(1, 2),
        [0, 1, -1, 5, -5, SIDE, -SIDE, SIDE + 3, -SIDE - 3, 2**31, FURTHEST, -FURTHEST - 1],
    )
    axes = draw.sample([2, 3, -1], count)
    numbers = [[draw.choice(places) for _ in range(count)] for _ in range(2)]
    steps = [draw.choice([1, 1, 2, 5, 40, -1, -2, -40, FURTHEST, -FURTHEST]) for _ in range(count)]
    weights = {name: np.array(value, np.int64) for name, value in zip("seat", (*numbers, axes, steps), strict=True)}
    return [helper.make_node("Slice", ["x", *"seat"], ["logits"])], weights


def resizes(draw: random.Random) -> Made:
    factors = [1, 1, *(draw.choice([draw.uniform(0.1, 4), *(n / SIDE for n in range(1, 40))]) for _ in range(2))]
    mode = draw.choice(["linear", "nearest"])
    return [helper.make_node("Resize", ["x", "", "f"], ["logits"], mode=mode)], {"f": np.array(factors, np.float32)}


def windows(draw: random.Random) -> Made:
    attributes: dict[str, Any] = {"kernel_shape": [draw.randint(1, 5) for _ in range(2)]}
    if draw.random() < 0.7:
        attributes["strides"] = [draw.randint(1, 4) for _ in range(2)]
    if draw.random() < 0.7:
        attributes["pads"] = [draw.randint(0, 4) for _ in range(4)]
    if draw.random() < 0.3:
        attributes |= draw.choice(
            [{"ceil_mode": 1}, {"auto_pad": "SAME_UPPER"}, {"dilations": [1, 2]}, {"dilations": [1, 1]}]
        )
    operator = draw.choice(["MaxPool", "AveragePool", "Conv"])
    if operator != "Conv":
        return [helper.make_node(operator, ["x"], ["logits"], **attributes)], {}
    weight = np.ones((draw.randint(1, 4), CHANNELS, *attributes["kernel_shape"]), np.float32)
    bias = draw.choice([[], ["b"]])
    convolution = helper.make_node(operator, ["x", "w", *bias], ["logits"], **attributes)
    return [convolution], {"w": weight, "b": np.ones(draw.choice([1, len(weight)]), np.float32)}


def reductions(draw: random.Random) -> Made:
    operator = draw.choice(["ReduceL2", "ReduceLogSumExp", "ReduceMean", "ReduceMin"])
    attributes = {"keepdims": draw.choice([0, 1, 2, -1])} if draw.random() < 0.8 else {}
    axes = draw.choice([[3], [2, 3], [1, 2, 3], [-1], [0], [0, 1, 2, 3], [3, 3], []])
    return [helper.make_node(operator, ["x", "a"], ["logits"], **attributes)], {"a": np.array(axes, np.int64)}


def products(draw: random.Random) -> Made:
    """A bias may be a weight, or come from the pictures."""
    inner, across = CHANNELS * SIDE * SIDE, draw.randint(1, 4)
    turned = draw.choice([0, 1, 2])
    weights = {"w": np.ones((across, inner) if turned else (inner, across), np.float32)}
    nodes, inputs = [helper.make_node("Flatten", ["x"], ["rows"])], ["rows", "w"]
    if draw.random() < 0.3:
        return [*nodes, helper.make_node("MatMul", inputs, ["logits"])], weights
    if draw.random() < 0.3:
        weights["a"] = np.array([1], np.int64)
        nodes.append(helper.make_node("ReduceMin", ["rows", "a"], ["bias"], keepdims=draw.choice([0, 1])))
        inputs.append("bias")
    elif draw.random() < 0.7:
        weights["b"] = np.ones(draw.choice([(), (1,), (across,), (1, across), (across, 1), (2, across)]), np.float32)
        inputs.append("b")
    return [*nodes, helper.make_node("Gemm", inputs, ["logits"], transB=turned)], weights


def broadcasts(draw: random.Random) -> Made:
    operator = draw.choice(["Add", "Div", "Max", "Mean", "Mul", "Sub"])
    if draw.random() < 0.4:  # with what was computed from the pictures
        axes, kept = draw.choice([[3], [2, 3], [1, 2, 3]]), draw.choice([0, 1, 2])
        reduced = helper.make_node("ReduceMean", ["x", "a"], ["mean"], keepdims=kept)
        return [reduced, helper.make_node(operator, ["x", "mean"], ["logits"])], {"a": np.array(axes, np.int64)}
    shape = [draw.choice([1, side]) for side in (draw.choice([1, 2]), CHANNELS, SIDE, SIDE)][draw.randint(0, 4) :]
    return [helper.make_node(operator, ["x", "w"], ["logits"])], {"w": np.ones(shape, np.float32)}


def layouts(draw: random.Random) -> Made:
    kind = draw.choice(["Transpose", "Flatten", "Concat", "Split", "TopK", "GlobalAveragePool"])
    if kind == "Transpose":
        order = draw.sample(range(4), 4) if draw.random() < 0.3 else [0, *draw.sample([1, 2, 3], 3)]
        return [helper.make_node(kind, ["x"], ["logits"], perm=order)], {}
    if kind == "Flatten":
        return [helper.make_node(kind, ["x"], ["logits"], axis=draw.choice([0, 1, 2, -1]))], {}
    doubled = helper.make_node("Concat", ["x", "x"], ["two"], axis=draw.choice([0, 0, 1, -1]))
    if kind == "Concat":
        doubled.output[0] = "logits"
        return [doubled], {}
    if kind == "Split":
        return [
            doubled,
            helper.make_node(kind, ["two"], ["logits", "rest"], axis=draw.choice([0, 0, 1]), num_outputs=2),
        ], {}
    if kind == "TopK":
        rows = helper.make_node("Flatten", ["x"], ["rows"])
        count = np.array([draw.choice([0, 1, 7, 10**6])], np.int64)
        return [rows, helper.make_node(kind, ["rows", "k"], ["logits", "places"])], {"k": count}
    return [helper.make_node(kind, ["x"], ["logits"])], {}


KINDS: list[Callable[[random.Random], Made]] = [slices, resizes, windows, reductions, products, broadcasts, layouts]


def file(made: Made, sides: int = 4) -> bytes:
    """Return an ONNX file of these operators behind those that make fractions of the pixels."""
    nodes, weights = made
    first = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["x" if sides == 4 else "whole"], to=TensorProto.FLOAT),
    ]
    if sides < 4:  # the first of them read what has fewer sides
        weights = {**weights, "last": np.arange(sides, 4)}
        first.append(helper.make_node("ReduceMean", ["whole", "last"], ["x"], keepdims=0))
    taken = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE, SIDE, CHANNELS])
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph([*first, *nodes], "made up", [taken], [given], initializers)
    opset = helper.make_opsetid("", 18)
    return onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=[opset], ir_version=8))


def counted(data: bytes) -> cost.Shape | None:
    """Return the shape of a picture's logits that its cost is counted with; None if the file is refused."""
    try:
        return cost.check(reader.read_graph(data)).outputs["logits"]
    except ModelError:
        return None


def made(data: bytes, pictures: int) -> cost.Shape | None:
    """Return the shape that ONNX Runtime makes for so many pictures; None for what it refuses, which costs nothing."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (found,) = session.run(["logits"], {"images": np.ones((pictures, SIDE, SIDE, CHANNELS), np.uint8)})
    except Exception:  # it has a dozen types of its own
        return None
    return tuple(found.shape)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_shape_is_the_one_that_onnx_runtime_makes(kind: Callable[[random.Random], Made]) -> None:
    draw, compared = random.Random(7), 0
    for _ in range(TRIALS):
        data = file(kind(draw), draw.choice([2, 3, 4, 4, 4, 4]))
        shape = counted(data)
        for pictures in (1, 3) if shape else ():
            found = made(data, pictures)
            assert found in (None, (pictures * shape[0], *shape[1:])), onnx.load_from_string(data).graph.node
            compared += found is not None
    assert compared >= LEAST


@pytest.mark.parametrize("operator", ["Gemm", "Conv"])
def test_a_bias_that_pictures_make_is_refused(operator: str) -> None:
    """ONNX Runtime adds a row of as many numbers as there are pictures where there are as many classes."""
    weights = {"w": np.ones((CHANNELS * SIDE * SIDE, 2), np.float32), "a": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["rows"]),
        helper.make_node("ReduceMin", ["rows", "a"], ["b"], keepdims=0),
    ]
    inputs = ["rows", "w", "b"]
    if operator == "Conv":  # or the first picture's number for all
        weights, inputs = {**weights, "w": np.ones((1, CHANNELS, 1, 1), np.float32)}, ["x", "w", "b"]
    assert counted(file(([*nodes, helper.make_node(operator, inputs[:2], ["logits"])], weights))) is not None
    assert counted(file(([*nodes, helper.make_node(operator, inputs, ["logits"])], weights))) is None
