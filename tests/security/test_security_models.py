"""Model files that mean harm: each is refused by name within a second of processor time, and a server goes on."""

import base64
import json
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from server_kit import Running, encode, launch, picture, serving, signal_worker, wait_for_url, wait_until, write_model

from pupila.errors import ModelError
from pupila.manifest import METADATA_KEY, UNSEALED, Manifest, check_seal, sealed
from pupila.model_file import cost as costs
from pupila.model_file import reader
from pupila.model_file.reader import Node, Tensor
from pupila.predictor import Predictor
from pupila.server.model_versions import version_of

SECRET = "what only the server may read"
Change = Callable[[onnx.ModelProto], None]


def external(location: str) -> Change:
    """Let a weight stand in another file."""

    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[-1]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location

    return change


def external_without_saying_so(model: onnx.ModelProto) -> None:
    entry = model.graph.initializer[-1].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def operator(kind: str, inputs: list[str], more: dict[str, Any] | None = None, **attributes: Any) -> Change:
    """Add an operator, and small weights, between the pixels and what follows."""

    def change(model: onnx.ModelProto) -> None:
        for name, values in (more or {}).items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        model.graph.node.insert(1, helper.make_node(kind, inputs, ["more"], name="more", **attributes))

    return change


def branch() -> onnx.GraphProto:
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node("Identity", ["floats"], ["inner"])], "branch", [], [out])


def doubling(count: int) -> Change:
    """Join a value with itself again and again."""

    def change(model: onnx.ModelProto) -> None:
        names = ["floats", *(f"twice{i}" for i in range(count))]
        for i in range(count):
            node = helper.make_node("Concat", [names[i], names[i]], [names[i + 1]], axis=0)
            model.graph.node.insert(1 + i, node)

    return change


def mixing(model: onnx.ModelProto) -> None:
    """Take the mean of no axes, which is that of all: the pictures computed together would see each other."""
    model.opset_import[0].version = 17  # up to which the axes are no input
    for node in model.graph.node:
        if node.op_type == "ReduceMean":
            del node.input[1:]
            node.attribute.append(helper.make_attribute("axes", [2, 3]))
        node.output[:] = ["first" if name == "logits" else name for name in node.output]
    mixed = helper.make_node("ReduceMean", ["features"], ["mixed"], keepdims=1)
    mixed.attribute.append(onnx.AttributeProto(name="axes", type=onnx.AttributeProto.INTS))
    own = helper.make_node("ReduceMean", ["features"], ["own"], axes=[1], keepdims=1)
    difference = helper.make_node("Sub", ["own", "mixed"], ["difference"])
    one = helper.make_node("ReduceMean", ["difference"], ["one"], axes=[1], keepdims=1)
    model.graph.node.extend([mixed, own, difference, one, helper.make_node("Add", ["first", "one"], ["logits"])])


def instead(name: str, kind: str, *inputs: str, logits: Sequence[float] = (), **attributes: Any) -> Change:
    """Put another output in the place of one, which is called "first" then, and keep one golden picture."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["first" if output == name else output for output in node.output]
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 4), np.float32), "zeros"))
        model.graph.node.append(helper.make_node(kind, inputs, [name], **attributes))
        next(output for output in model.graph.output if output.name == name).type.tensor_type.shape.dim[0].Clear()
        first = json.loads(model.metadata_props[0].value)["golden"][0]
        golden(first["png"], logits or first["logits"])(model)

    return change


def huge_maps(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = ["maps" if name == "cam" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 33, 33], np.float32), "factors"))
    model.graph.node.append(helper.make_node("Resize", ["maps", "", "factors"], ["cam"], mode="nearest"))
    for side in next(output for output in model.graph.output if output.name == "cam").type.tensor_type.shape.dim[2:]:
        side.dim_value = 66


def maps_of_many_classes(model: onnx.ModelProto) -> None:
    """Each of 64 x 64: of the pictures that are computed together they took gigabytes."""
    for weight in model.graph.initializer:
        shape = numpy_helper.to_array(weight).shape
        if 4 in shape:
            many = np.zeros([15_000 if side == 4 else side for side in shape], np.float32)
            weight.CopyFrom(numpy_helper.from_array(many, weight.name))
    huge_maps(model)
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.array([1, 1, 32, 32], np.float32), "factors"))
    for output in model.graph.output:
        for side in output.type.tensor_type.shape.dim[1:]:
            side.dim_value = {4: 15_000, 66: 64}.get(side.dim_value, side.dim_value)
    manifest(classes=[str(number) for number in range(15_000)])(model)
    golden(as_text(picture()), [0.0] * 15_000)(model)


def many_operators(model: onnx.ModelProto) -> None:
    for i in range(5_000):
        model.graph.node.insert(1, helper.make_node("Relu", ["floats"], [f"relu{i}"]))


def many_weights(model: onnx.ModelProto) -> None:
    """None of which is read: ONNX Runtime took six seconds."""
    for i in range(39_000):
        model.graph.initializer.add(name=f"x{i}", dims=[1], data_type=TensorProto.FLOAT, raw_data=bytes(4))


def split_by_the_thousand(model: onnx.ModelProto) -> None:
    """Each result would be a weight of its own, as by many_weights."""
    model.graph.initializer.append(numpy_helper.from_array(np.ones(38_000, np.float32), "numbers"))
    model.graph.node.append(helper.make_node("Split", ["numbers"], [f"x{i}" for i in range(38_000)]))


def many_values(model: onnx.ModelProto) -> None:
    for i in range(90_000):
        model.graph.value_info.add(name=f"x{i}")


def huge_weight(*shape: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = TensorProto(name="huge", data_type=TensorProto.FLOAT, raw_data=bytes(16))
        tensor.dims.extend(shape)
        model.graph.initializer.append(tensor)

    return change


def outer_product(model: onnx.ModelProto) -> None:
    for name, shape in {"tall": (60_000, 1), "wide": (1, 60_000)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    model.graph.node.insert(0, helper.make_node("Add", ["tall", "wide"], ["product"]))


def big_input(model: onnx.ModelProto) -> None:
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[1:3]:
        dimension.dim_value = 2**31


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(2**40)


def function(model: onnx.ModelProto) -> None:
    model.functions.add().name = "again"


def training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def other_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.evil"
    model.opset_import.append(helper.make_opsetid("com.evil", 1))


def cut(kind: int, step: int, instead: bytes) -> Callable[[bytes], bytes]:
    """Return what adds a Slice whose step, in the file, is another number than the reader here may believe."""

    def change(data: bytes) -> bytes:
        model = onnx.load_model_from_string(data)
        operator("Slice", ["floats", "starts", "ends", "sides", "steps"])(model)
        for name, values in {"starts": (0, 0), "ends": (32, 32), "sides": (1, 2), "steps": (step, step)}.items():
            model.graph.initializer.append(helper.make_tensor(name, kind, [2], values))
        return bytes(model.SerializeToString()).replace(written(step) * 2, instead * 2)

    return change


def written(number: int) -> bytes:
    """Return a whole number as it stands in a protocol buffer."""
    number, found = number % 2**64, bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def two_graphs(data: bytes) -> bytes:
    """Append a second graph, which a lax reader would join with the first."""
    graph = onnx.GraphProto(name="second")
    external_model = onnx.ModelProto(graph=graph)
    return data + external_model.SerializeToString()


def manifest(**values: Any) -> Change:
    """Change fields of the manifest."""

    def change(model: onnx.ModelProto) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        entry.value = json.dumps({**json.loads(entry.value), **values})

    return change


def manifest_text(text: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.metadata_props[0].value = text

    return change


def golden(png: str, logits: object = (1.0, 0.0, 0.0, 0.0)) -> Change:
    return manifest(golden=[{"png": png, "logits": logits}])


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


CHANGES: dict[str, Change] = {
    "external data, absolute": external("/etc/passwd"),
    "external data, relative": external("../../srv/keys.txt"),
    "external data, beside it": external("keys.txt"),
    "external data, by a link": external("link"),
    "external data, unsaid": external_without_saying_so,
    "If": operator("If", ["yes"], {"yes": True}, then_branch=branch(), else_branch=branch()),
    "Loop": operator("Loop", ["much", "yes"], {"much": np.int64(2**62), "yes": True}, body=branch()),
    "Scan": operator("Scan", ["floats"], body=branch(), num_scan_inputs=1),
    "unknown operator": operator("Explode", ["floats"]),
    "known operator that is not ours": operator("LSTM", ["floats", "floats", "floats"]),
    "Tile": operator("Tile", ["floats", "often"], {"often": np.full(4, 2**20, np.int64)}),
    "Expand": operator("Expand", ["floats", "shape"], {"shape": np.full(4, 2**20, np.int64)}),
    "ConstantOfShape": operator("ConstantOfShape", ["shape"], {"shape": np.full(4, 2**20, np.int64)}),
    "Constant": operator("Constant", [], value=numpy_helper.from_array(np.ones(3))),
    "Range": operator("Range", ["a", "b", "c"], {"a": 0, "b": 2**62, "c": 1}),
    "operator of another domain": other_domain,
    "Resize to a huge size": operator("Resize", ["floats", "", "f"], {"f": np.full(4, 1e3, np.float32)}, mode="linear"),
    "Resize of which ONNX Runtime writes to stderr": operator(
        "Resize",
        ["floats", "", "f"],
        {"f": np.ones(4, np.float32)},
        mode="linear",
        coordinate_transformation_mode="tf_half_pixel_for_nn",
    ),
    "Resize by no number": operator(
        "Resize", ["floats", "", "f"], {"f": np.full(4, np.nan, np.float32)}, mode="linear"
    ),
    "Resize by sizes": operator("Resize", ["floats", "", "", "f"], {"f": np.full(4, 2**40, np.int64)}, mode="linear"),
    "Slice of nothing": operator(
        "Slice", ["floats", "a", "a", "b", "c"], {"a": np.array([5]), "b": np.array([1]), "c": np.array([1])}
    ),
    "pool with huge padding": operator("MaxPool", ["floats"], kernel_shape=[3, 3], pads=[10**9] * 4),
    "pool over more than there is": operator("MaxPool", ["floats"], kernel_shape=[100, 100], strides=[5, 5]),
    "pool with no step": operator("MaxPool", ["floats"], kernel_shape=[3, 3], strides=[0, 0]),
    "reshape to a huge shape": operator("Reshape", ["floats", "s"], {"s": np.full(4, 2**40, np.int64)}),
    "value that doubles": doubling(40),
    "division that ends the process": operator("Div", ["a", "b"], {"a": np.array([-(2**63)]), "b": np.array([-1])}),
    "places that are divided": operator("Div", ["a", "b"], {"a": np.array([-(2**63)]), "b": np.array([2])}),
    "mean of all pictures": mixing,
    "huge maps": huge_maps,
    "maps of many classes": maps_of_many_classes,
    "logits that are no picture's": instead("logits", "Relu", "zeros", logits=[0.0] * 4),
    "two rows of logits a picture": instead("logits", "Concat", "first", "first", axis=0),
    "two maps a picture": instead("cam", "Concat", "first", "first", axis=0),
    "outer product": outer_product,
    "operators by the thousand": many_operators,
    "weights by the thousand": many_weights,
    "results by the thousand": split_by_the_thousand,
    "values by the thousand": many_values,
    "weight of a huge shape": huge_weight(2**20, 2**20),
    "weight of a shape that overflows": huge_weight(2**32, 2**32),
    "weight of a negative shape": huge_weight(-1, 4),
    "weight with less than its shape says": huge_weight(8),
    "huge input": big_input,
    "second input": second_input,
    "sparse weights": sparse,
    "function": function,
    "training instructions": training,
    "manifest that is no JSON": manifest_text("{"),
    "manifest of brackets": manifest_text("[" * 2_000_000),
    "manifest of empty tables": manifest_text('{"data": [' + "{}," * 1_300_000 + "{}]}"),
    "manifest that is a list": manifest_text("[]"),
    "manifest with a number for a text": manifest(name=3),
    "manifest with a text for a number": manifest(input_size="32"),
    "manifest with a huge size": manifest(input_size=10**9),
    "manifest with a negative size": manifest(input_size=-32),
    "manifest with classes that are no texts": manifest(classes=[1, 2, 3, [4]]),
    "manifest with no classes": manifest(classes=[]),
    "manifest with a temperature of text": manifest(temperature="hot"),
    "manifest with an infinite temperature": manifest(temperature=float("inf")),
    "manifest with a list for a table": manifest(metrics=[1]),
    "golden picture that is no base64": golden("%%%"),
    "golden picture that is no picture": golden(as_text(b"hello")),
    "golden picture that is cut off": golden(as_text(picture()[:60])),
    "golden picture of another size": golden(as_text(picture(size=(64, 64)))),
    "golden picture of 100 megapixels": golden(as_text(encode(Image.new("1", (10_000, 10_000)), "PNG"))),
    "golden picture that is a JPEG": golden(as_text(picture(kind="JPEG"))),
    "golden logits that are texts": golden(as_text(picture()), ["a", "b", "c", "d"]),
    "golden logits that are too few": golden(as_text(picture()), [1.0]),
    "golden logits that are a text of letters": golden(as_text(picture()), "\u0100" * 1_500_000),
    "classes that are a text of letters": manifest(classes="\u0100" * 1_500_000),
    "golden logits that are none": golden(as_text(picture()), None),
    "golden set of another model": golden(as_text(picture()), [-9.0, 9.0, 0.0, 0.0]),
    "golden set of thousands": manifest(golden=[{"png": "", "logits": [0.0] * 4}] * 5_000),
}


def packed(number: int, content: bytes) -> bytes:
    """Return a field of a protocol buffer."""
    length = bytearray()
    size = len(content)
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes(length) + bytes([size]) + content


def numbers(parts: int, size: int) -> bytes:
    """Return a graph with an attribute of numbers in so many parts."""
    part = packed(7, b"\0\0\xc0\x3f" * size)
    return packed(7, packed(1, packed(4, b"Relu") + packed(5, packed(1, b"x") + b"\xa0\x01\x06" + part * parts)))


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"no model at all",
    "zero bytes": lambda _: bytes(10_000),
    "a length beyond the end": lambda data: data + b"\x3a\xff\xff\xff\xff\x0f",
    "a number without end": lambda data: data + b"\x08" + b"\xff" * 50,
    "a second graph": two_graphs,
    "groups": lambda data: data + b"\x0b" * 1_000,
    "fields by the million": lambda data: data + b"\x08\x01" * 1_000_000,
    "numbers of an attribute": lambda data: data + numbers(26_000, 65),
    "no numbers of an attribute, again and again": lambda data: data + numbers(38_000, 0),
    "attributes of numbers, one by one": lambda _: packed(7, packed(1, packed(5, b"\x40\x01" * 64) * 600)),
    "text of megabytes, four bytes a letter": lambda data: data + packed(6, b"a" * 2**25 + "\U0001f438".encode()),
    "a step that is 1 in 32 bits": cut(TensorProto.INT32, 2**31 - 1, b"\x81\x80\x80\x80\x10"),
    "a step that is 1 in 64 bits": cut(TensorProto.INT64, -1, b"\x81" + b"\x80" * 8 + b"\x02"),
    "messages in messages": lambda data: packed(7, packed(1, packed(5, packed(6, data * 3)))),
    "a picture": lambda _: picture(),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_model(tmp_path_factory.mktemp("good") / "colours.onnx").read_bytes()


def hostile(name: str, good: bytes) -> bytes:
    if name in BYTES:
        return BYTES[name](good)
    model = onnx.load_model_from_string(good)
    CHANGES[name](model)
    return bytes(model.SerializeToString())


def refusal(data: bytes, folder: Path) -> str:
    """Return why a file is refused, which must not take a second."""
    path = folder / "hostile.onnx"
    path.write_bytes(data)
    started = time.process_time()
    with pytest.raises(ModelError) as caught:
        Predictor.load(path)
    assert time.process_time() - started < 1
    assert str(path) in str(caught.value) and str(path) not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize("name", [*CHANGES, *BYTES])
def test_hostile_model_file_is_refused_by_name_within_a_second(name: str, good: bytes, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(SECRET)
    (tmp_path / "link").symlink_to(tmp_path / "keys.txt")
    reason = refusal(hostile(name, good), tmp_path)
    assert reason.endswith(("again.", "train", "Pupila.")) and len(reason) < 300, reason
    for word in ("external data", "If", "Loop", "Scan", "Tile", "Expand", "ConstantOfShape", "golden picture"):
        if name.startswith(word) and word not in ("If", "Loop", "Scan"):
            assert word in reason


def test_bytes_that_could_be_onnx_runtimes_own_format_are_computed_as_what_was_checked(good: bytes) -> None:
    model = onnx.load_model_from_string(good)
    model.ir_version, model.producer_name = 10, "ORTM"
    data = bytes(model.SerializeToString())
    assert data[4:8] == b"ORTM"  # by which ONNX Runtime tells its format
    known, loaded = Predictor.from_bytes(good), Predictor.from_bytes(data)
    size = known.manifest.input_size
    pictures = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    assert np.array_equal(loaded.logits(pictures), known.logits(pictures))


def test_truncated_and_flipped_files_are_refused_or_answer_as_before(good: bytes, tmp_path: Path) -> None:
    draw = random.Random(7)
    for _ in range(60):
        refusal(good[: draw.randrange(len(good))], tmp_path)
    for _ in range(120):
        data = bytearray(good)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / "flipped.onnx").write_bytes(data)
        try:
            found = Predictor.load(tmp_path / "flipped.onnx")
        except ModelError:
            continue
        assert found.check_golden() <= 0.05


def test_manifest_of_empty_tables_is_not_read() -> None:
    """Of 4 MiB they took 100."""
    text = '{"data": [' + "{}," * 1_300_000 + "{}]}"
    tracemalloc.start()
    with pytest.raises(ModelError, match="not one that Pupila wrote"):
        Manifest.from_json(text)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


@pytest.mark.parametrize("number", ["1e999", "-1e999", "Infinity", "NaN"])
@pytest.mark.parametrize("table", ["recipe", "data"])
def test_manifest_of_numbers_that_json_has_none_of_is_not_read(table: str, number: str) -> None:
    """1e999 was read as infinite, and what shows the manifest wrote Infinity, which is no JSON."""
    text = Manifest("n", ("a",), 8, 8, "float32", "none", {"x": 1}, {"x": 1}).to_json()
    assert Manifest.from_json(text).recipe == {"x": 1}
    with pytest.raises(ModelError, match="not one that Pupila wrote"):
        Manifest.from_json(text.replace(f'"{table}":{{"x":1', f'"{table}":{{"x":{number}'))


def nested(depth: int) -> object:
    """Return lists within each other."""
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_manifest_that_nests_deeply_is_not_read() -> None:
    """One that nested 900 deep was served, and /model answered with an error of the server."""
    manifest = Manifest("n", ("a",), 8, 8, "float32", "none", {"x": nested(18)}, {})
    assert Manifest.from_json(manifest.to_json()).without_golden()["recipe"] == {"x": nested(18)}
    for deep in (nested(19), nested(450)):
        with pytest.raises(ModelError, match="not one that Pupila wrote"):
            Manifest.from_json(manifest.to_json().replace(json.dumps(nested(18)), json.dumps(deep)))


@pytest.mark.parametrize("place", [0, 2**20 - 75, 2**20 - 74, 2**20 - 1, 2**20, 2**21 - 40])
def test_seal_is_found_wherever_it_is(place: int) -> None:
    data = b" " * place + b'"sha256":"%b"' % UNSEALED.encode() + b" " * 2**20
    whole = sealed(data)
    assert check_seal(whole).encode() == whole[place + 10 : place + 74]


def test_window_larger_than_the_picture_is_used_in_no_model() -> None:
    """Two sides that are less than nothing have a product that is more."""
    node = Node("MaxPool", ("x",), ("y",), {"kernel_shape": [100, 100], "strides": [5, 5]})
    with pytest.raises(costs._UnusualError):
        costs.RULES["MaxPool"](node, [Tensor((1, 3, 32, 32))])


def test_seals_by_the_thousand_are_not_collected() -> None:
    data = b'"sha256":"%b",' % (b"0" * 64) * 100_000
    tracemalloc.start()
    assert check_seal(data) == ""
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100_000


def test_size_and_kind_of_the_file_are_looked_at_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "big.onnx").open("wb") as file:
        file.truncate(reader.MAX_BYTES + 1)
    with pytest.raises(ModelError, match="over the limit"):
        Predictor.load(tmp_path / "big.onnx")
    with pytest.raises(ModelError, match="no file"):
        Predictor.load(Path("/dev/zero"))
    with pytest.raises(ModelError, match="directory"):
        Predictor.load(tmp_path)


def test_work_is_counted_as_it_is_done(good: bytes) -> None:
    """By hand: 2 x 2 places of 4 classes by 3 colours, windows of 16 x 16.

    A number of a window counts as 64, since it is read, and is multiplied for 16 channels at least. The division goes
    through the pixels by their three colours, which counts as 256 a number; each result of the mean counts as 4,096,
    and each number that the transpose moves as 384.
    """
    stretches, moved = 256 * 32 * 32 * 3 + 4096 * 3, 384 * 32 * 32 * 3
    counted = costs.check(reader.read_graph(good)).multiplications
    assert counted == stretches + moved + 3 * 4 * 256 * 64 + 4 * 3 * (64 + 16) + 4 * 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    with serving(write_model(folder / "colours.onnx"), folder / "log", '{"port": 0, "workers": 1}') as running:
        yield running


SWAPPED = ("external data, absolute", "Loop", "golden picture that is no picture", "a length beyond the end",
           "manifest with a text for a number", "value that doubles", "logits that are no picture's")  # fmt: skip


@pytest.mark.parametrize("name", SWAPPED)
def test_server_refuses_a_hostile_file_says_why_without_its_path_and_serves_on(
    name: str, server: Running, good: bytes
) -> None:
    path = server.log.parent / "colours.onnx"
    new = path.with_suffix(".new")
    new.write_bytes(hostile(name, good))
    new.replace(path)
    wait_until(lambda: "refused" in server.get("/readyz").json())
    ready = server.get("/readyz")
    assert ready.status_code == 200 and str(path.parent) not in ready.text
    assert server.predict(picture()).json()["predictions"][0]["category"] == "red"
    new.write_bytes(good)
    new.replace(path)
    wait_until(lambda: "refused" not in server.get("/readyz").json())


def test_weight_with_the_name_of_the_input_is_refused(good: bytes) -> None:
    """To ONNX Runtime it is what the network computes with, at any size, as it loads the file."""
    model = onnx.load_from_string(good)
    model.ir_version = 3
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 64, 64, 3), np.uint8), "images"))
    with pytest.raises(ModelError, match="of the same name"):
        reader.read_graph(model.SerializeToString())


def test_output_of_another_shape_than_was_counted_is_refused(good: bytes) -> None:
    predictor = Predictor.from_bytes(good)
    predictor.check_golden()
    predictor._shapes = {**predictor._shapes, "cam": (1, 1, 1, 1)}
    with pytest.raises(ModelError, match="It gives cam of another shape"):
        predictor.check_golden()


DEADLY = """
import itertools, signal, sys, time
from pathlib import Path
from pupila.predictor import Predictor
from pupila.server import Settings, serve

class Deadly(Predictor):
    def logits(self, pictures):
        if self.manifest.name == "deadly" and sys.argv[2] == "in its first batches" and len(pictures) == 8:
            signal.raise_signal(signal.SIGABRT)
        return super().logits(pictures)

def load(path):
    predictor = Deadly.load(path)
    marks = [path.with_name("first"), path.with_name("second")]
    if predictor.manifest.name == "deadly" and sys.argv[2] == "pauses":
        sys.setswitchinterval(10)
        until = time.monotonic() + 1.25
        while time.monotonic() < until:
            pass
        sys.setswitchinterval(0.005)
    elif predictor.manifest.name == "deadly" and sys.argv[2] == "stalls the second":
        if marks[0].exists() and not marks[1].exists():
            marks[1].touch()
            sum(itertools.repeat(1, 10**11))
        marks[0].touch()
    elif predictor.manifest.name == "deadly" and sys.argv[2] == "stalls":
        sum(itertools.repeat(1, 10**11))  # no other thread runs, as where ONNX Runtime makes a session
    elif predictor.manifest.name == "deadly" and sys.argv[2] != "in its first batches":
        signal.raise_signal(signal.Signals[sys.argv[2]])
    return predictor

serve(Path(sys.argv[1]), Settings(port=0, workers=2, request_timeout=1.0), load)
"""


@pytest.mark.parametrize(("way", "stalled"), [("pauses", 0), ("stalls the second", 1)])
def test_file_that_some_worker_could_load_is_taken_over_by_all(way: str, stalled: int, tmp_path: Path) -> None:
    """A session that is made lets no other thread run, on a busy machine for a second."""
    path, log = write_model(tmp_path / "colours.onnx"), tmp_path / "log"
    with log.open("w") as output:
        command = [sys.executable, "-c", DEADLY, str(path), way]
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
    try:
        server = Running(process, wait_for_url(process, log), log)
        wait_until(lambda: server.get("/readyz").json()["workers"] == 2)
        write_model(tmp_path / "new", name="deadly").replace(path)
        wait_until(lambda: log.read_text().count("serves now") == 2 - stalled)
        wait_until(lambda: log.read_text().count("has ended with") == stalled)
        wait_until(lambda: server.get("/readyz").json()["workers"] == 2)
        found = {server.predict(picture()).headers["Pupila-Model"] for _ in range(30)}
        assert found == {version_of(path)} and "refused" not in server.get("/readyz").json()
        assert log.read_text().count("has no heartbeat") == stalled
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(("way", "most"), [("SIGFPE", 1), ("in its first batches", 1), ("stalls", 1), ("SIGKILL", 3)])
def test_file_that_ends_who_loads_it_ends_one_worker(way: str, most: int, tmp_path: Path) -> None:
    """Another where it is killed: the first time may have been something else's doing. Others answer meanwhile."""
    path, log = write_model(tmp_path / "colours.onnx"), tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", DEADLY, str(path), way], stdout=output, stderr=output, text=True
        )
    try:
        first, server = version_of(path), Running(process, wait_for_url(process, log), log)
        wait_until(lambda: server.get("/readyz").json()["workers"] == 2)
        write_model(tmp_path / "new", name="deadly").replace(path)

        def is_over() -> bool:
            if way == "stalls":  # else the connection may be to the one that ends
                asked = time.monotonic()
                assert server.predict(picture()).headers["Pupila-Model"] == first
                assert time.monotonic() - asked < 2
            return log.read_text().count("has ended with") > 0 and server.get("/readyz").json()["workers"] == 2

        wait_until(is_over)
        wait_until(lambda: "has ended a process" in server.get("/readyz").json().get("refused", ""))
        ends = log.read_text().count("has ended with")
        assert ends <= most and log.read_text().count("has no heartbeat") == (way == "stalls")
        write_model(tmp_path / "new", name="better").replace(path)
        wait_until(lambda: server.predict(picture()).headers["Pupila-Model"] == version_of(path))
        assert log.read_text().count("has ended with") == ends
    finally:
        process.terminate()
        process.wait(30)
    write_model(path, name="deadly")
    if way == "stalls":  # 63 s for each worker, at a start
        return
    begun = subprocess.run([sys.executable, "-c", DEADLY, str(path), way], capture_output=True, text=True, timeout=25)
    assert "Loading it has ended a process" in begun.stderr


SLOW = """
import sys, time
from pathlib import Path
from pupila.predictor import Predictor
from pupila.server import Settings, serve
from pupila.server.process import supervisor

supervisor.LOADED = supervisor.TAKEN_OVER = 2.0

def load(path):
    predictor = Predictor.load(path)
    time.sleep(2.5 if predictor.manifest.name == "slow" else 0)
    return predictor

serve(Path(sys.argv[1]), Settings(port=0, workers=1), load)
"""


def test_file_that_loads_so_slowly_that_no_worker_could_start_is_refused(tmp_path: Path) -> None:
    path, log = write_model(tmp_path / "colours.onnx"), tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-c", SLOW, str(path)], stdout=output, stderr=output, text=True)
    try:
        first, server = version_of(path), Running(process, wait_for_url(process, log), log)
        write_model(tmp_path / "new", name="slow").replace(path)
        wait_until(lambda: "refused" in server.get("/readyz").json())
        assert "Loading it takes more than 2 s" in server.get("/readyz").json()["refused"]
        assert server.predict(picture()).headers["Pupila-Model"] == first
    finally:
        process.terminate()
        process.wait(30)
    begun = subprocess.run([sys.executable, "-c", SLOW, str(path)], capture_output=True, text=True, timeout=25)
    assert begun.returncode and "Loading it takes more than 2 s" in begun.stderr


KILLED = """
import os, signal, sys, time
from pathlib import Path
from pupila.predictor import Predictor
from pupila.server import Settings, serve
from pupila.server.process import supervisor

supervisor.GIVE_UP = 1.0

def load(path):
    predictor = Predictor.load(path)
    if predictor.manifest.name == "deadly" and Path(sys.argv[2]).exists():
        time.sleep(2)
        signal.raise_signal(signal.SIGKILL)
    return predictor

serve(Path(sys.argv[1]), Settings(port=0, workers=1), load)
"""


def test_server_goes_back_to_the_last_good_file_where_its_only_worker_is_killed_while_it_loads(tmp_path: Path) -> None:
    """It is taken over by hot reload; successors are killed, as by a system that is short of memory."""
    path, log, deadly = write_model(tmp_path / "colours.onnx"), tmp_path / "log", tmp_path / "deadly"
    with log.open("w") as output:
        command = [sys.executable, "-c", KILLED, str(path), str(deadly)]
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
    try:
        first, server = version_of(path), Running(process, wait_for_url(process, log), log)
        write_model(tmp_path / "new", name="deadly").replace(path)
        wait_until(lambda: server.predict(picture()).headers["Pupila-Model"] == version_of(path))
        deadly.touch()
        signal_worker(server.workers()[0], signal.SIGKILL)
        wait_until(lambda: log.read_text().count("has ended with") == 3)
        wait_until(lambda: server.get("/readyz").status_code == 200)
        assert "has ended a process" in server.get("/readyz").json()["refused"]
        assert server.predict(picture()).headers["Pupila-Model"] == first
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("name", ["external data, absolute", "golden picture that is no picture", "text"])
def test_start_with_a_hostile_file_ends_with_an_error(name: str, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "hostile.onnx"
    path.write_bytes(hostile(name, good))
    process = launch(path, tmp_path / "log", '{"port": 0, "workers": 1}')
    assert process.wait(30) != 0
    assert "ModelError" in (tmp_path / "log").read_text() and "Traceback" not in (tmp_path / "log").read_text()
