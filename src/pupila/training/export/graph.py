"""ResNet-18 as an ONNX graph, written node by node: what is in the file is what stands here, whatever torch's version.

Batch norm is folded into the convolutions. In: images uint8 [N, H, W, 3]. Out: logits [N, K], features [N, 512],
cam [N, K, h, w] (Zhou et al., "Learning Deep Features for Discriminative Localization", 2016). Also as int8: static
quantisation, calibrated on training pictures, one scale a channel.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from pupila.evaluation.unknown import LEAST, Scale, UnknownScore
from pupila.training.loop.resnet import FEATURES, LEAST_MEAN, MEAN, STD, WIDTHS

log = logging.getLogger("pupila.training")

CALIBRATION_PICTURES = 512
CALIBRATION_BATCH = 64

OPSET = 17
IR_VERSION = 10
BATCH_NORM_EPSILON = 1e-5  # torch's default

State = Mapping[str, NDArray[Any]]
HEAD_NODES = (
    "normalise_scale", "normalise_shift", "enlarge", "mirror", "both", "root_mean", "root_shift", "root",
    "root_scale", "earlier_average", "earlier_shift", "earlier_root", "earlier_scale", "earlier_mean", "earlier",
    "mean", "cam", "cam_mean", "last", "logits",
)  # fmt: skip
"""Nodes at either end that stay in float32 when the backbone is quantised: they cost next to nothing."""


def build(
    state: State, input_size: int, network_size: int, *, flip_average: bool = False, pooling: str = "mean"
) -> onnx.ModelProto:
    """Return the graph for a ResNet-18 state dict of float32 arrays under torchvision's names.

    flip_average: each picture goes through the network plain and mirrored, and the two answers are averaged. pooling:
    see Recipe.
    """
    graph = _Graph()
    x = _preprocess(graph, input_size, network_size)
    if flip_average:
        x = graph.node("Concat", [x, _mirrored(graph, x, "mirror")], "both", axis=0)
    x = _convolution(graph, x, state, "conv1", "bn1", stride=2, padding=3)
    x = graph.node("MaxPool", [graph.node("Relu", [x])], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    maps = [x]
    for stage in range(1, len(WIDTHS) + 1):
        for block in range(2):
            x = _block(graph, x, state, f"layer{stage}.{block}", stride=2 if stage > 1 and block == 0 else 1)
        maps.append(x)
    _head(graph, maps[-2], x, state, flip_average, pooling)
    return _model(graph, input_size, classes=len(state["fc.bias"]))


def with_unknown(model: onnx.ModelProto, score: UnknownScore) -> onnx.ModelProto:
    """Return a copy with one more output, `unknown` [N]: what `score` gives for the logits and the features."""
    graph = _Graph()

    def add(operator: str, inputs: list[str], what: str, **attributes: Any) -> str:
        return graph.node(operator, inputs, f"unknown.{what}", **attributes)

    def number(value: float, what: str) -> str:
        return graph.weight(f"unknown.{what}", np.asarray(value, dtype=np.float32))

    def scaled(signal: str, scale: Scale, what: str) -> str:
        centred = add("Sub", [signal, number(scale.middle, f"{what}.middle")], f"{what}.centred")
        divided = add("Div", [centred, number(scale.spread, f"{what}.spread")], f"{what}.divided")
        return add("Max", [divided, number(LEAST, f"{what}.least")], f"{what}.scaled")

    temperature = number(score.temperature, "temperature")
    warm = add("Div", ["logits", temperature], "logits")
    total = add("ReduceLogSumExp", [warm], "total", axes=[1], keepdims=0)
    energy = add("Neg", [add("Mul", [total, temperature], "free")], "energy")
    length = add("ReduceL2", ["features"], "length", axes=[1], keepdims=1)
    direction = add("Div", ["features", add("Max", [length, number(1e-12, "tiny")], "positive")], "direction")
    prototypes = graph.weight("unknown.prototypes", score.prototypes.T.astype(np.float32))
    cosines = add("MatMul", [direction, prototypes], "cosines")
    count = graph.weight("unknown.count", np.asarray([score.nearest], dtype=np.int64))
    graph.nodes.append(
        helper.make_node("TopK", [cosines, count], ["unknown.top", "unknown.places"], name="unknown.top")
    )
    nearest = add("ReduceMin", ["unknown.top"], "nearest", axes=[1], keepdims=0)
    square = add("Sub", [number(2, "two"), add("Mul", [nearest, number(2, "twice")], "double")], "square")
    distance = add("Sqrt", [add("Max", [square, number(0, "zero")], "not_negative")], "distance")
    signals = [scaled(energy, score.energy, "energy"), scaled(distance, score.distance, "distance")]
    graph.node("Add", signals, "unknown", "unknown")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.extend(graph.nodes)
    copy.graph.initializer.extend(graph.weights)
    copy.graph.output.append(helper.make_tensor_value_info("unknown", TensorProto.FLOAT, ["N"]))
    onnx.checker.check_model(copy)
    return copy


def with_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Set the file's metadata properties, in place of any that it has."""
    del model.metadata_props[:]
    helper.set_model_props(model, dict(metadata))
    model.producer_name = "pupila"
    return model


class _Graph:
    """Nodes and weights in the order they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, operator: str, inputs: list[str], name: str = "", output: str = "", **attributes: Any) -> str:
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        output = output or f"{name}.out"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
        return output

    def halves(self, x: str) -> list[str]:
        """Split along the first axis into two equal parts."""
        name = f"halves_{len(self.nodes)}"
        outputs = [f"{name}.first", f"{name}.second"]
        self.nodes.append(helper.make_node("Split", [x], outputs, name=name, axis=0))
        return outputs

    def weight(self, name: str, values: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _preprocess(graph: _Graph, input_size: int, network_size: int) -> str:
    """uint8 [N, H, W, 3] -> normalised float32 [N, 3, S, S], as resnet.enlarged does in training."""
    scale = (1 / (255 * np.asarray(STD))).astype(np.float32).reshape(1, 3, 1, 1)
    shift = (-np.asarray(MEAN) / np.asarray(STD)).astype(np.float32).reshape(1, 3, 1, 1)
    x = graph.node("Transpose", ["images"], perm=[0, 3, 1, 2])
    x = graph.node("Cast", [x], to=TensorProto.FLOAT)
    x = graph.node("Mul", [x, graph.weight("pixel_scale", scale)], name="normalise_scale")
    x = graph.node("Add", [x, graph.weight("pixel_shift", shift)], name="normalise_shift")
    if network_size == input_size:
        return x
    factor = np.float32(network_size / input_size)
    if int(input_size * factor) < network_size:  # ONNX rounds the product down
        factor = np.nextafter(factor, np.float32(np.inf))
    factors = graph.weight("enlarge.factors", np.asarray([1, 1, factor, factor], dtype=np.float32))
    return graph.node(
        "Resize", [x, "", factors], name="enlarge", mode="linear", coordinate_transformation_mode="half_pixel"
    )


def _convolution(graph: _Graph, x: str, state: State, convolution: str, norm: str, *, stride: int, padding: int) -> str:
    """A convolution with the batch norm that follows it folded in."""
    gain = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
    kernel = state[f"{convolution}.weight"] * gain.reshape(-1, 1, 1, 1)
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
    weights = graph.weight(f"{convolution}.weight", kernel.astype(np.float32))
    biases = graph.weight(f"{convolution}.bias", bias.astype(np.float32))
    return graph.node(
        "Conv", [x, weights, biases], name=convolution, kernel_shape=list(kernel.shape[2:]),
        strides=[stride, stride], pads=[padding] * 4,
    )  # fmt: skip


def _block(graph: _Graph, x: str, state: State, name: str, stride: int) -> str:
    y = _convolution(graph, x, state, f"{name}.conv1", f"{name}.bn1", stride=stride, padding=1)
    y = graph.node("Relu", [y])
    y = _convolution(graph, y, state, f"{name}.conv2", f"{name}.bn2", stride=1, padding=1)
    if f"{name}.downsample.0.weight" in state:
        x = _convolution(graph, x, state, f"{name}.downsample.0", f"{name}.downsample.1", stride=stride, padding=0)
    return graph.node("Relu", [graph.node("Add", [y, x])])


def _head(graph: _Graph, before: str, x: str, state: State, flip_average: bool, pooling: str) -> None:
    """The last feature map -> features, logits, and the same head applied at every place of the map.

    With square roots the map before it has a part in the logits, too.
    """
    if pooling == "root":
        x = _rooted(graph, x)
    pooled = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])], output="" if flip_average else "features")
    if flip_average:
        graph.node("Mean", graph.halves(pooled), "mean", "features")
    weights = graph.weight("fc.weight", state["fc.weight"][:, :FEATURES])
    inputs = ["features", weights, graph.weight("fc.bias", state["fc.bias"])]
    if pooling == "root":
        last = graph.node("Gemm", inputs, "last", transB=1)
        graph.node("Add", [last, _earlier(graph, before, state, flip_average)], "logits", "logits")
    else:
        graph.node("Gemm", inputs, "logits", "logits", transB=1)
    shape = graph.weight("cam.shape", np.asarray([len(state["fc.bias"]), FEATURES, 1, 1], dtype=np.int64))
    kernel = graph.node("Reshape", [weights, shape])
    cam = graph.node("Conv", [x, kernel], "cam", "" if flip_average else "cam", kernel_shape=[1, 1])
    if flip_average:
        plain, mirrored = graph.halves(cam)
        graph.node("Mean", [plain, _mirrored(graph, mirrored, "cam_mirror")], "cam_mean", "cam")


def _earlier(graph: _Graph, x: str, state: State, flip_average: bool) -> str:
    """The feature map before the last -> what it adds to the logits: the head of its averages' square roots."""
    least = graph.weight("earlier.least", np.asarray(LEAST_MEAN, dtype=np.float32))
    average = graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "earlier_average")])
    root = graph.node("Sqrt", [graph.node("Add", [average, least], "earlier_shift")], "earlier_root")
    features = graph.node("Div", [average, root], "earlier_scale")
    if flip_average:
        features = graph.node("Mean", graph.halves(features), "earlier_mean")
    weights = graph.weight("fc.earlier", state["fc.weight"][:, FEATURES:].T)
    return graph.node("MatMul", [features, weights], "earlier")


def _rooted(graph: _Graph, x: str) -> str:
    """The last feature map -> the same scaled so that its averages are, nearly, the square roots of what they were."""
    least = graph.weight("root.least", np.asarray(LEAST_MEAN, dtype=np.float32))
    shifted = graph.node("Add", [graph.node("GlobalAveragePool", [x], "root_mean"), least], "root_shift")
    return graph.node("Div", [x, graph.node("Sqrt", [shifted], "root")], "root_scale")


def _mirrored(graph: _Graph, x: str, name: str) -> str:
    """[N, C, H, W] with its columns in reverse."""
    values = {"starts": -1, "ends": np.iinfo(np.int64).min, "axes": 3, "steps": -1}
    slices = [graph.weight(f"{name}.{key}", np.asarray([value], dtype=np.int64)) for key, value in values.items()]
    return graph.node("Slice", [x, *slices], name)


def _model(graph: _Graph, input_size: int, classes: int) -> onnx.ModelProto:
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", input_size, input_size, 3])
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", FEATURES]),
        helper.make_tensor_value_info("cam", TensorProto.FLOAT, ["N", classes, "h", "w"]),
    ]
    body = helper.make_graph(graph.nodes, "resnet18", [images], outputs, graph.weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, pictures: NDArray[np.uint8]) -> None:
        starts = range(0, len(pictures), CALIBRATION_BATCH)
        self._batches: Iterator[dict[str, NDArray[np.uint8]]] = iter(
            [{"images": pictures[start : start + CALIBRATION_BATCH]} for start in starts]
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next batch, None after the last: the name and the contract are ONNX Runtime's."""
        return next(self._batches, None)


def int8(model: onnx.ModelProto, pictures: NDArray[np.uint8]) -> onnx.ModelProto | None:
    """Return a copy whose backbone computes in int8; pictures uint8 [N, H, W, 3] show the range of each activation.

    None, and a sentence, where int8 cannot hold the weights: a few of them are beyond all others, or not finite.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of the same trouble
            return _quantised(model, pictures)
    except (AssertionError, ValueError, RuntimeError) as error:
        log.info(f"int8 cannot hold these weights ({error}): float32 is kept.")
        return None


def _quantised(model: onnx.ModelProto, pictures: NDArray[np.uint8]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # the quantiser moves the weights of the model it is given into files of its own
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        with _quiet_root_logger():
            quantize_static(
                copy,
                path,
                _Calibration(pictures[:CALIBRATION_PICTURES]),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=list(HEAD_NODES),
                extra_options={"CalibMovingAverage": True},
            )
        return onnx.load(path)


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Hide the quantiser's advice on the root logger, and the handler that its first message gives that logger."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
