"""Model files of which each value is small, and all together take gigabytes: refused before ONNX Runtime sees them."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from server_kit import picture, write_model

import pupila
from pupila import predictor as predictors
from pupila.errors import ModelError
from pupila.manifest import MAX_CLASSES, METADATA_KEY
from pupila.model_file import cost as costs
from pupila.model_file import reader
from pupila.models import bundled_model
from pupila.predictor import Predictor
from pupila.server.process.libc import give_memory_back
from pupila.training.export import graph
from pupila.training.loop.resnet import ResNet18

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
REFUSED_MIB = 64
"""What a worker's memory may grow by while it refuses a file, beside the file itself."""
ACCEPTED_MIB = 1024
"""What it may grow by for the most that a file of few bytes may take."""
MEASURE = """
import sys, time
from pathlib import Path
from pupila.errors import ModelError
from pupila.predictor import Predictor

def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

Predictor.load(sys.argv[2])  # what is loaded once is not the file's
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before, started, reason = status("VmRSS"), time.process_time(), ""
try:
    Predictor.load(sys.argv[1])
except ModelError as error:
    reason = error.reason
print(time.process_time() - started, status("VmHWM") - before, reason)
"""


class Bomb:
    """Operators and weights to be put between the pixels, `planes` [N, 3, 32, 32], and the answer."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator and return the name of its result."""
        output = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def weight(self, values: Any, kind: type = np.float32) -> str:
        """Add a weight and return its name."""
        name = f"number{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def enlarged(self, value: str, factor: float) -> str:
        """Enlarge a value by so much a side."""
        return self.add("Resize", value, "", self.weight([1, 1, factor, factor]), mode="nearest")

    def summed(self, values: Sequence[str]) -> str:
        """Add values up, the last two first, so that all are in memory until then."""
        total = values[-1]
        for value in reversed(values[:-1]):
            total = self.add("Add", total, value)
        return total


def chain_of_100(bomb: Bomb) -> str:
    values = [bomb.enlarged("planes", 18)]  # a million numbers
    for _ in range(99):
        values.append(bomb.add("Neg", values[-1]))
    return bomb.summed(values)


def a_hundred_read_one_by_one(bomb: Bomb) -> str:
    """In the file's order two of them are alive; ONNX Runtime makes all of them before it adds the first."""
    total = bomb.enlarged("planes", 18)
    for _ in range(99):
        total = bomb.add("Add", bomb.enlarged("planes", 18), total)
    return total


def resize_bomb(bomb: Bomb) -> str:
    return bomb.enlarged("planes", 300)


def concat_that_doubles(bomb: Bomb) -> str:
    value = "planes"
    for _ in range(16):
        value = bomb.add("Concat", value, value, axis=0)
    for _ in range(16):
        value = bomb.add("Split", value, axis=0)
        bomb.nodes[-1].output.append(f"{value} again")
    return value


def quantised(bomb: Bomb, value: str) -> str:
    """Round a value to whole numbers and back: ONNX Runtime computes what is between two of these in such."""
    scale, zero = bomb.weight(0.1), bomb.weight(3, np.uint8)
    return bomb.add("DequantizeLinear", bomb.add("QuantizeLinear", value, scale, zero), scale, zero)


def windows(bomb: Bomb) -> str:
    """A convolution of 31 x 31 that unrolls its windows: a thousand times what it reads."""
    value = quantised(bomb, bomb.enlarged("planes", 10))
    weight = bomb.weight(np.ones((1, 3, 31, 31)), np.int8)
    weight = bomb.add("DequantizeLinear", weight, bomb.weight(0.1), bomb.weight(0, np.int8))
    return quantised(bomb, bomb.add("Conv", value, weight, pads=[15] * 4))


def one_channel(bomb: Bomb) -> str:
    """Convolutions of 31 x 31 that unroll their windows for a single product each: 70 seconds at the limit."""
    scale, zero = bomb.weight(0.1), bomb.weight(0, np.int8)
    value = quantised(bomb, bomb.enlarged(bomb.add("Conv", "planes", bomb.weight(np.ones((1, 3, 1, 1)))), 16))
    weight = bomb.add("DequantizeLinear", bomb.weight(np.ones((1, 1, 31, 31)), np.int8), scale, zero)
    return bomb.summed([quantised(bomb, bomb.add("Conv", value, weight)) for _ in range(4)])


def maxima(bomb: Bomb) -> str:
    """Each of 40,000 numbers: 70 seconds at the limit."""
    value = bomb.enlarged(bomb.add("Conv", "planes", bomb.weight(np.ones((1, 3, 1, 1)))), 16)
    return bomb.summed([bomb.add("MaxPool", value, kernel_shape=[200, 200]) for _ in range(4)])


def maxima_far_apart(bomb: Bomb) -> str:
    return bomb.add("MaxPool", bomb.enlarged("planes", 8), kernel_shape=[31, 31], dilations=[2, 2])


def maxima_of_weights(bomb: Bomb) -> str:
    """From weights alone, as the file is loaded: a minute of such passed the limit of numbers."""
    value = bomb.enlarged(bomb.weight(np.ones((1, 1, 8, 8))), 32)
    pools = [bomb.add("MaxPool", value, kernel_shape=[31, 31]) for _ in range(2)]
    return bomb.add("Mul", "planes", bomb.add("ReduceMean", bomb.summed(pools), bomb.weight([1, 2, 3], np.int64)))


def single_channels(bomb: Bomb) -> str:
    """Of one channel each; ONNX Runtime computes sixteen."""
    values = [bomb.enlarged("planes", 32)]
    for _ in range(5):
        values.append(bomb.add("Conv", values[0], bomb.weight(np.ones((1, 3, 3, 3))), pads=[1] * 4))
    return bomb.summed(values[1:])


def weights_that_grow(bomb: Bomb) -> str:
    """Computed from weights alone, as the file is loaded."""
    tall, wide = np.ones((4096, 1)), np.ones((1, 4096))
    values = [bomb.add("Add", bomb.weight(tall), bomb.weight(wide)) for _ in range(6)]
    total = bomb.add("MatMul", bomb.weight(wide), bomb.add("MatMul", bomb.summed(values), bomb.weight(tall)))
    return bomb.add("Mul", "planes", total)


def pictures_that_mix(bomb: Bomb) -> str:
    """As many numbers as the square of the pictures computed together."""
    first = bomb.add("ReduceMean", "planes", bomb.weight([2, 3], np.int64), keepdims=0)
    return bomb.add("MatMul", first, bomb.add("Transpose", first, perm=[1, 0]))


def pictures_and_channels(bomb: Bomb) -> str:
    """Enlarged four times each; the factors alone say that it is the sides, of which a pool leaves nothing."""
    factors = bomb.weight([1, 1, 4, 4])
    value = bomb.add("Resize", "planes", "", factors, mode="nearest", axes=[2, 3, 0, 1])
    return bomb.add("GlobalAveragePool", value)


def pools(bomb: Bomb) -> str:
    """A hundred that each read 11 million numbers, and give three."""
    value = bomb.enlarged("planes", 60)
    return bomb.summed([bomb.add("GlobalAveragePool", value) for _ in range(100)])


def weights_in_order(bomb: Bomb) -> str:
    """The first of four million numbers that follow from a few, twelve times."""
    column, row = bomb.weight(np.arange(2048)[:, None] * 2048), bomb.weight(np.arange(2048)[None])
    value = bomb.add("Reshape", bomb.add("Add", column, row), bomb.weight([1, 2**22], np.int64))
    least = []
    for count in range(10_000, 10_012):
        first = bomb.add("TopK", value, bomb.weight([count], np.int64))
        bomb.nodes[-1].output.append(f"{first} places")
        first = bomb.add("Reshape", first, bomb.weight([1, 1, 1, count], np.int64))
        least.append(bomb.add("ReduceMin", first, bomb.weight([3], np.int64)))
    return bomb.summed(least)


def exponents(bomb: Bomb) -> str:
    """Ten that each compute e to the power of 11 million numbers."""
    value, axis = bomb.enlarged("planes", 60), bomb.weight([3], np.int64)
    return bomb.summed([bomb.add("ReduceLogSumExp", value, axis) for _ in range(10)])


def column(bomb: Bomb) -> str:
    """A million numbers, each by itself along the last axis."""
    one = bomb.add("Conv", "planes", bomb.weight(np.ones((1, 3, 1, 1))))
    return bomb.add("Transpose", bomb.enlarged(one, 32), perm=[0, 2, 3, 1])


def means_of_columns(bomb: Bomb) -> str:
    """Means over a middle axis, of one number each: 100 ns a result, 48 s a picture at the limit."""
    axis, value = bomb.weight([2], np.int64), column(bomb)
    for _ in range(400):
        value = bomb.add("ReduceMean", value, axis)
    return value


def short_stretches(bomb: Bomb) -> str:
    """A number times each of a column's: 14 ns each, 6 s a picture at the limit."""
    value = column(bomb)
    for number in range(400):
        value = bomb.add("Mul", value, bomb.weight(1 + 1e-7 * number))
    return value


def scales_of_columns(bomb: Bomb) -> str:
    """A scale for each place of the last axis, of what follows from the picture: 50 ns a number."""
    value = bomb.enlarged("planes", 8)
    scale = bomb.weight(np.linspace(0.1, 0.2, 256))
    zero = bomb.weight(np.zeros(256), np.uint8)
    value = bomb.add("QuantizeLinear", value, scale, zero, axis=3)
    return bomb.add("DequantizeLinear", value, scale, zero, axis=3)


def whole_numbers(bomb: Bomb) -> str:
    """Products of 64-bit whole numbers: 25 times as long as they counted as, 42 s a picture at the limit."""
    first = bomb.add("TopK", bomb.add("Flatten", "planes"), bomb.weight([64], np.int64))
    bomb.nodes[-1].output.append(f"{first} places")
    return bomb.add("MatMul", f"{first} places", bomb.weight(np.ones((64, 64)), np.int64))


def single_pixels(bomb: Bomb) -> str:
    """A thousand pools of 65,536 channels of one pixel each: ONNX Runtime goes through them one by one."""
    value = bomb.add("Conv", bomb.add("GlobalAveragePool", "planes"), bomb.weight(np.ones((2**16, 3, 1, 1))))
    for _ in range(1_000):
        value = bomb.add("MaxPool", value, kernel_shape=[1, 1])
    return value


def images_of_weights(bomb: Bomb) -> str:
    """Forty convolutions of 65,536 images of one pixel each, that are weights: they are done as the file is loaded."""
    value, weight = bomb.weight(np.ones((2**16, 1, 1, 1))), bomb.weight(np.ones((1, 1, 1, 1)))
    for _ in range(40):
        value = bomb.add("Conv", value, weight)
    value = bomb.add("Reshape", value, bomb.weight([1, 1, 256, 256], np.int64))
    return bomb.add("Mul", "planes", bomb.add("ReduceMean", value, bomb.weight([1, 2, 3], np.int64)))


def images_of_a_product(bomb: Bomb) -> str:
    """As many rows as weights have, by a sum that follows from the picture."""
    mean = bomb.add("ReduceMean", "planes", bomb.weight([2, 3], np.int64), keepdims=0)
    return bomb.add("Gemm", bomb.weight(np.ones((2**16, 3))), bomb.weight(np.ones((3, 3))), mean)


def weights_read_often(bomb: Bomb) -> str:
    """A weight of a million numbers, read 200 times: ONNX Runtime makes one for each, in each call."""
    weight = bomb.weight(np.ones((1024, 1024, 1, 1)), np.int8)
    weight = bomb.add("DequantizeLinear", weight, bomb.weight(0.1), bomb.weight(0, np.int8))
    value = bomb.add("Conv", bomb.add("GlobalAveragePool", "planes"), bomb.weight(np.ones((1024, 3, 1, 1))))
    for _ in range(200):
        value = bomb.add("Conv", value, weight)
    return value


def grown(operator: str, shape: Sequence[int]) -> Callable[[Bomb], str]:
    """Return a bomb of an operator that makes as much as it is told."""
    return lambda bomb: bomb.add(operator, "planes", bomb.weight(shape, np.int64))


def packed_often(bomb: Bomb) -> str:
    """A weight of 8 MB that 400 convolutions read: each keeps a copy of it, 3 GB in all."""
    side = 1448
    weight = bomb.weight(np.zeros((side, side, 1, 1)))
    value = bomb.add("Conv", bomb.add("GlobalAveragePool", "planes"), bomb.weight(np.zeros((side, 3, 1, 1))))
    for _ in range(400):
        value = bomb.add("Conv", value, weight)
    return value


def filled_up(bomb: Bomb) -> str:
    """A weight that follows from two small ones, for one channel: its copy has 16."""
    channels, side = 256, 256
    value = bomb.add("Conv", bomb.add("GlobalAveragePool", "planes"), bomb.weight(np.zeros((channels, 3, 1, 1))))
    weight = bomb.add("Add", bomb.weight(np.zeros((1, channels, 1, 1))), bomb.weight(np.zeros((1, 1, side, side))))
    return bomb.add("Conv", value, weight, pads=[side - 1, side - 1, 0, 0])


def means_of_moved_columns(bomb: Bomb, count: int = 580) -> str:
    """Means of the last axis, which ONNX Runtime computes of another, as it moves the transposes: 15 s a picture."""
    value = bomb.add("Conv", bomb.add("GlobalAveragePool", "planes"), bomb.weight(np.ones((2**18, 3, 1, 1))))
    value = bomb.add("Transpose", value, perm=[0, 1, 3, 2])
    axis = bomb.weight([3], np.int64)
    for _ in range(count):
        value = bomb.add("ReduceMean", value, axis)
    return bomb.add("Transpose", value, perm=[0, 1, 3, 2])


def scalars_of_moved_columns(bomb: Bomb) -> str:
    """Products by a number, which ONNX Runtime computes of columns, as it moves the transposes: 6 s a picture."""
    column = [bomb.weight([number], np.int64) for number in (0, 1, 3, 1)]
    value = bomb.add("Slice", "floats", *column)  # [N, 32, 32, 1]
    value = bomb.add("Resize", value, "", bomb.weight([1, 1, 1024, 1]), mode="nearest")
    value = bomb.add("Transpose", value, perm=[0, 2, 3, 1])
    for number in range(430):
        value = bomb.add("Mul", value, bomb.weight(1 + 1e-7 * number))
    return bomb.add("Transpose", value, perm=[0, 3, 1, 2])


def moved_onto_more(bomb: Bomb) -> str:
    """Transposes of little, which ONNX Runtime joins and moves behind what makes much of it: 7 s a picture."""
    channels, last, most = 2048, bomb.weight([3], np.int64), bomb.weight([1, 2, 3], np.int64)
    value = bomb.add("Conv", bomb.add("GlobalAveragePool", "planes"), bomb.weight(np.ones((channels, 3, 1, 1))))
    for _ in range(36):
        turned = bomb.add("Transpose", bomb.add("Transpose", value, perm=[0, 2, 3, 1]), perm=[0, 2, 1, 3])
        more = bomb.add("Add", turned, bomb.weight(np.ones((1, 64, 64, 1))))
        means = bomb.add("Transpose", bomb.add("ReduceMean", more, last), perm=[0, 2, 1, 3])
        one = bomb.add("ReduceMean", bomb.add("GlobalAveragePool", means), most)
        other = bomb.add("ReduceMean", bomb.add("GlobalAveragePool", more), most)
        value = bomb.add("Add", value, bomb.add("Mul", bomb.add("Add", one, other), bomb.weight(1e-3)))
    return value


def test_prototypes_of_as_many_classes_as_there_may_be_can_be_put_in_order() -> None:
    assert costs.MAX_ORDERED == MAX_CLASSES


def split_into_nothing(bomb: Bomb) -> str:
    value = bomb.add("Split", bomb.add("Concat", "planes", "planes", axis=0), axis=0)
    bomb.nodes[-1].output[:] = ["", value]
    return value


def scaled_by_half(bomb: Bomb) -> str:
    """What follows is float16, for which ONNX Runtime makes copies of all weights, in each call."""
    value = bomb.add("QuantizeLinear", "planes", bomb.weight(0.1), bomb.weight(0, np.uint8))
    return bomb.add("DequantizeLinear", value, bomb.weight(0.1, np.float16), bomb.weight(0, np.uint8))


BOMBS: dict[str, tuple[Callable[[Bomb], str], str]] = {
    "chain that keeps 100 values": (chain_of_100, "numbers in memory at once"),
    "100 values read one by one": (a_hundred_read_one_by_one, "numbers in memory at once"),
    "Resize": (resize_bomb, "numbers in memory at once"),
    "Resize of pictures and channels": (pictures_and_channels, "operator Resize is used in a way"),
    "Concat that doubles": (concat_that_doubles, "operator Concat is used in a way"),
    "windows of a convolution": (windows, "numbers in memory at once"),
    "single channels": (single_channels, "numbers in memory at once"),
    "weights that grow": (weights_that_grow, "from its weights alone"),
    "numbers that are read": (pools, "operator GlobalAveragePool makes more work"),
    "windows for one channel": (one_channel, "operator Conv makes more work"),
    "windows that are read": (maxima, "operator MaxPool makes more work"),
    "windows with gaps": (maxima_far_apart, "operator MaxPool is used in a way"),
    "windows of weights": (maxima_of_weights, "from its weights alone"),
    "numbers in order": (weights_in_order, "operator TopK is used in a way"),
    "exponents": (exponents, "operator ReduceLogSumExp makes more work"),
    "means of columns": (means_of_columns, "operator ReduceMean is used in a way"),
    "means of columns that are moved": (means_of_moved_columns, "operator ReduceMean makes more work"),
    "short stretches": (short_stretches, "operator Mul makes more work"),
    "scales of columns": (scales_of_columns, "operator QuantizeLinear is used in a way"),
    "whole numbers": (whole_numbers, "operator MatMul is used in a way"),
    "single pixels": (single_pixels, "operator MaxPool makes more work"),
    "images of weights": (images_of_weights, "from its weights alone"),
    "weights that are read often": (weights_read_often, "numbers in memory at once"),
    "weights that are packed often": (packed_often, "numbers in memory at once"),
    "weights that are filled up": (filled_up, "numbers in memory at once"),
    "images of a product": (images_of_a_product, "operator Gemm is used in a way"),
    "products of columns that are moved": (scalars_of_moved_columns, "operator Mul makes more work"),
    "transposes moved onto more": (moved_onto_more, "makes more work or memory"),
    "scale of float16": (scaled_by_half, "operator DequantizeLinear is used in a way"),
    "nothing to write to": (split_into_nothing, "operator Split is used in a way"),
    "nothing to compare with": (lambda b: b.add("Max", "planes", ""), "operator Max is used in a way"),
    "two axes that move": (lambda b: b.add("Transpose", "planes", perm=[0, 3, 2, 1]), "operator Transpose is used in"),
    "pictures that mix": (pictures_that_mix, "operator Transpose is used in a way"),
    "Expand": (grown("Expand", [1, 3, 2**15, 2**15]), "operator 'Expand', which no model"),
    "Tile": (grown("Tile", [1, 1, 2**10, 2**10]), "operator 'Tile', which no model"),
    "Pad": (grown("Pad", [0, 0, 0, 0, 0, 0, 2**15, 2**15]), "operator 'Pad', which no model"),
    "ConstantOfShape": (lambda b: b.add("ConstantOfShape", b.weight([2**30], np.int64)), "operator 'ConstantOfShape'"),
}  # fmt: skip


def write_bomb(path: Path, make: Callable[[Bomb], str]) -> Path:
    """Write a model file that answers as it should, and computes `make` besides."""
    model = onnx.load(write_model(path))
    bomb = Bomb()
    made = make(bomb)
    mean = bomb.add("Flatten", bomb.add("ReduceMean", made, bomb.weight([1, 2, 3], np.int64)))
    part = bomb.add("Mul", mean, bomb.weight(0))
    nodes = list(model.graph.node)
    at = next(place for place, node in enumerate(nodes) if "pooled" in node.input)
    feature = next(node for node in nodes if node.output[0] == "features")
    feature.output[0] = "plain"
    joined = helper.make_node("Add", ["plain", part], ["features"], name="joined")
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], *bomb.nodes, *nodes[at:-1], joined, nodes[-1]])
    model.graph.initializer.extend(bomb.weights)
    path.write_bytes(model.SerializeToString())
    return path


def measured(path: Path) -> tuple[float, float, str]:
    """Load a file in a process of its own; return seconds, growth of its memory in MiB, and why it is refused."""
    good = write_model(path.with_name("good.onnx"))
    command = [sys.executable, "-c", MEASURE, str(path), str(good)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    seconds, growth, *reason = out.rstrip("\n").split(" ", 2)
    return float(seconds), float(growth), reason[0] if reason else ""


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_by_name_within_a_second_and_little_memory(name: str, tmp_path: Path) -> None:
    make, words = BOMBS[name]
    seconds, growth, reason = measured(write_bomb(tmp_path / "bomb.onnx", make))
    assert words in reason, reason
    assert seconds < 1 and growth < REFUSED_MIB


def grown_by_a_lie(bomb: Bomb) -> str:
    """Counted as 4 channels and then 1 row, where ONNX Runtime takes 16 as they are said to be, and 13 rows."""
    ends = [bomb.weight([number], np.int64) for number in (3, 2**63 - 1, 1, 1)]
    value = bomb.add("Conv", bomb.add("GlobalAveragePool", "planes"), bomb.weight(np.ones((4, 3, 1, 1))))
    for _ in range(400):
        value = bomb.add("Neg", value)
    value = bomb.add("Slice", bomb.add("MaxPool", value, kernel_shape=[1, 1]), *ends)
    value = bomb.add("Transpose", value, perm=[0, 2, 3, 1])
    for _ in range(22):
        value = bomb.add("Resize", value, "", bomb.weight([1, 1, 1, 1.9]), mode="nearest")
    return value


def long_chain(bomb: Bomb) -> str:
    """What costs next to nothing, and has a thousand values with shapes."""
    value = bomb.add("GlobalAveragePool", "planes")
    for _ in range(1000):
        value = bomb.add("Neg", value)
    return value


def large_weights(bomb: Bomb) -> str:
    """Sixteen million numbers, of which ONNX Runtime makes a copy in blocks."""
    value = bomb.add("GlobalAveragePool", "planes")
    for outputs, inputs in ((4096, 3), (4096, 4096), (3, 4096)):
        value = bomb.add("Conv", value, bomb.weight(np.ones((outputs, inputs, 1, 1))))
    return value


@pytest.mark.parametrize("said", [["N", 16, 1, 1], ["N", 0, 1, 1], [2, 4, 1, 1], ["N", 4, 1], []])
def test_shape_that_is_said_of_a_value_but_is_not_its_own_is_refused(said: list[int | str], tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "lie.onnx", grown_by_a_lie)
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Neg":
            model.graph.value_info.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, said))
    path.write_bytes(model.SerializeToString())
    seconds, growth, reason = measured(path)
    assert "that it has another shape than it has" in reason
    assert seconds < 1 and growth < REFUSED_MIB


def name_an_operator(model: onnx.ModelProto, name: str) -> None:
    model.graph.node[3].name = name


def name_the_batch(model: onnx.ModelProto, name: str) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name


def note_at_a_weight(model: onnx.ModelProto, name: str) -> None:
    model.graph.initializer[0].metadata_props.add(key="a", value=name)


@pytest.mark.parametrize("put", [name_an_operator, name_the_batch, note_at_a_weight])
def test_long_names_are_refused(put: Callable[[onnx.ModelProto, str], None], tmp_path: Path) -> None:
    """ONNX Runtime copies the batch's into each value, and compares those of copied operators with all others."""
    path = write_bomb(tmp_path / "named.onnx", long_chain)
    model = onnx.load(path)
    put(model, "x" * reader.MAX_NAME_BYTES)
    reader.read_graph(model.SerializeToString())
    put(model, "x" * 2**20)
    path.write_bytes(model.SerializeToString())
    seconds, growth, reason = measured(path)
    assert "a name of more than 200 bytes" in reason
    assert seconds < 1 and growth < REFUSED_MIB


def test_what_a_session_takes_before_any_picture_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the largest weights were copied, and more often than three times."""
    monkeypatch.setattr(predictors, "COPIES", 0)
    monkeypatch.setattr(predictors, "MOST_MEMORY", 2**24)
    give_memory_back()  # see below
    with pytest.raises(ModelError, match="It takes more than 16 MiB beside its size"):
        Predictor.load(write_bomb(tmp_path / "large.onnx", large_weights))


def field(number: int, content: bytes) -> bytes:
    """Return a field of a message."""
    size = len(content)
    head = [number << 3 | 2, *(size >> shift & 127 | 128 for shift in (0, 7, 14, 21)), size >> 28]
    return bytes(head) + content


def test_numbers_of_a_weight_are_counted_where_they_lie(tmp_path: Path) -> None:
    """A copy of them was made, of as many bytes as the file."""
    count = 2**25
    packed = field(4, bytes(4 * count)) + b"\x08" + bytes([128, 128, 128, 16]) + b"\x10\x01" + field(8, b"w")
    (tmp_path / "m.onnx").write_bytes(field(7, field(5, packed)))
    seconds, growth, reason = measured(tmp_path / "m.onnx")
    assert "without Pupila's manifest" in reason
    assert seconds < 1 and growth < REFUSED_MIB + (tmp_path / "m.onnx").stat().st_size / 2**20


def test_numbers_of_an_attribute_are_refused_within_a_second_and_little_memory(tmp_path: Path) -> None:
    """In 190,000 parts of 65 they took 2.3 s and 579 MiB."""
    part = b"\x3a\x84\x02" + b"\0\0\xc0\x3f" * 65
    attribute = field(1, b"x") + b"\xa0\x01\x06" + part * 190_000
    (tmp_path / "m.onnx").write_bytes(field(7, field(1, field(4, b"Relu") + field(5, attribute))))
    seconds, growth, reason = measured(tmp_path / "m.onnx")
    assert f"more than {reader.SMALL} numbers in an attribute" in reason
    assert seconds < 1 and growth < REFUSED_MIB + (tmp_path / "m.onnx").stat().st_size / 2**20


def bundled_at(side: int) -> bytes:
    """Return the bundled model's file, int8, with a network of so many pixels a side, and no seal."""
    model = onnx.load(bundled_model())
    factors = next(weight for weight in model.graph.initializer if weight.name == "enlarge.factors")
    factors.CopyFrom(numpy_helper.from_array(np.asarray([1, 1, side / 32, side / 32], np.float32), factors.name))
    del model.graph.value_info[:]  # of the smaller network
    cam = next(output for output in model.graph.output if output.name == "cam")
    for side in cam.type.tensor_type.shape.dim[2:]:
        side.dim_param = "side"
    entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = json.dumps({**json.loads(entry.value), "sha256": ""})
    return bytes(model.SerializeToString())


def test_largest_network_is_accepted_and_answers_pictures_in_parts_as_one_by_one() -> None:
    predictor = Predictor.from_bytes(bundled_at(512))
    pictures = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    assert predictor.together < len(pictures) < Predictor.load(bundled_model()).together
    together, alone = predictor.scores(pictures), [predictor.scores(picture[np.newaxis]) for picture in pictures]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-4)


def half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """As earlier versions wrote it: weights are stored as float16, and widened by a node each."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            name, half = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize(("precision", "classes"), [("float32", 10), ("float16", 10), ("float16", MAX_CLASSES)])
def test_largest_network_over_picture_and_mirror_image_is_accepted(precision: str, classes: int) -> None:
    state = {name: value.numpy() for name, value in ResNet18(classes).state_dict().items()}
    model = graph.build(state, 512, 512, flip_average=True)
    model = model if precision == "float32" else half_precision(model)
    cost = costs.check(reader.read_graph(model.SerializeToString()))
    assert 0.3 * costs.MAX_TOGETHER < cost.numbers < 0.9 * costs.MAX_TOGETHER


def nearly_too_much(bomb: Bomb) -> str:
    """Three values of 21 million numbers each, of 2**26 that are allowed."""
    value = bomb.enlarged(bomb.add("Conv", "planes", bomb.weight(np.ones((16, 3, 1, 1)))), 36)
    return bomb.add("Add", value, bomb.add("Neg", value))


def test_most_that_is_allowed_takes_no_more_than_the_documents_say(tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "allowed.onnx", nearly_too_much)
    cost = costs.check(reader.read_graph(path.read_bytes()))
    assert cost.numbers > 0.9 * costs.MAX_TOGETHER
    _, growth, reason = measured(path)
    assert reason == "" and growth < ACCEPTED_MIB
    assert f"{ACCEPTED_MIB // 1024} GiB beside it" in PAGE and f"{REFUSED_MIB} MiB |" in PAGE


def copies_behind_a_slice(bomb: Bomb, count: int) -> str:
    """ONNX Runtime moves a DequantizeLinear behind a Slice, one for each reader, and makes all before the first Add."""
    value = bomb.add("Conv", "planes", bomb.weight(np.ones((16, 3, 1, 1))))
    value = quantised(bomb, bomb.enlarged(value, 8))
    value = bomb.add("Slice", value, *[bomb.weight([number], np.int64) for number in (0, 255, 3, 1)])
    total = value
    for _ in range(count):
        total = bomb.add("Add", value, total)
    return total


def test_each_copy_that_is_made_behind_a_slice_is_counted(tmp_path: Path) -> None:
    def work(count: int) -> int:
        path = write_bomb(tmp_path / "copies.onnx", partial(copies_behind_a_slice, count=count))
        return costs.check(reader.read_graph(path.read_bytes())).numbers

    assert work(20) - work(10) > 1.9 * 10 * 2**20  # a copy and a sum each


def test_what_takes_more_memory_than_was_counted_is_computed_alone_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if what ONNX Runtime makes of it were not counted at all."""
    monkeypatch.setattr(costs, "MAX_TOGETHER", 2**32)
    give_memory_back()  # what another test has left would be used first, and no growth be seen
    few = Predictor.load(write_bomb(tmp_path / "few.onnx", partial(copies_behind_a_slice, count=60)))
    assert few.together < 8  # 250 MiB each, of 1 GiB
    monkeypatch.setattr(predictors, "MOST_MEMORY", 2**28)
    with pytest.raises(ModelError, match="It takes more than 256 MiB for a picture"):
        Predictor.load(write_bomb(tmp_path / "many.onnx", partial(copies_behind_a_slice, count=140)))


@pytest.mark.parametrize(("slowest", "given_up"), [(0.5, 30.0), (5.0, 0.5)])
def test_what_takes_longer_than_it_was_counted_as_is_refused(
    slowest: float, given_up: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if nobody knew yet that ONNX Runtime moves transposes behind a reduction."""
    monkeypatch.setattr(costs, "REDUCTION_WORK", 0)
    monkeypatch.setattr(costs, "TRANSPOSE_WORK", 0)
    monkeypatch.setattr(predictors, "SLOWEST", slowest)
    monkeypatch.setattr(predictors, "GIVEN_UP", given_up)
    path = write_bomb(tmp_path / "slow.onnx", partial(means_of_moved_columns, count=80))  # 2 s
    with pytest.raises(ModelError, match=f"It takes more than {slowest:g} s for a picture"):
        Predictor.load(path)


def test_places_of_the_first_numbers_take_twice_what_those_take(tmp_path: Path) -> None:
    """They have eight bytes each, and counted as four."""

    def needed(count: int) -> int:
        def first(bomb: Bomb) -> str:
            bomb.add("TopK", bomb.add("Flatten", "planes"), bomb.weight([count], np.int64))
            bomb.nodes[-1].output.append("places")
            return "planes"

        return costs.check(reader.read_graph(write_bomb(tmp_path / "first.onnx", first).read_bytes())).numbers

    assert needed(1_001) - needed(1) == 3 * 1_000


LOADING = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pupila
from pupila.predictor import Predictor

pupila.load()
begun = time.process_time()
with ThreadPoolExecutor(1) as hot_reload:
    hot_reload.submit(Predictor.load, Path(sys.argv[1]), int(sys.argv[2])).result()
print(time.process_time() - begun)
"""


def vanishing(weight: float) -> Callable[[Bomb], str]:
    """Return a network whose numbers become smaller with each layer."""

    def make(bomb: Bomb) -> str:
        kernel = bomb.weight(np.full((256, 256, 3, 3), weight))
        value = bomb.add("Conv", "planes", bomb.weight(np.full((256, 3, 1, 1), weight)))
        for _ in range(12):
            value = bomb.add("Conv", value, kernel, pads=[1, 1, 1, 1])
        return value

    return make


@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_that_nearly_vanish_take_no_longer_than_others(threads: int, tmp_path: Path) -> None:
    """Processors take fifty times as long for them: a file of 9 MiB took 70 seconds to load."""
    times = []
    for weight in (1e-3, 1e-7):
        path = write_bomb(tmp_path / "vanishing.onnx", vanishing(weight))
        command = [sys.executable, "-c", LOADING, str(path), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        times.append(float(done.stdout))
    assert times[1] < 3 * times[0] + 0.1


def test_loading_a_model_leaves_the_arithmetic_of_a_program_as_it_was() -> None:
    pupila.load().predict(picture())
    assert np.float32(1e-20) * np.float32(1e-20) > 0
