"""A model that gives no numbers for some picture spoils no other answer, and makes no JSON that is none."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image
from server_kit import SIZE, Running, encode, picture, serving, write_model

from pupila.batch import predict_all
from pupila.errors import ModelError
from pupila.predictor import Predictor, heat_map

BLACK = np.zeros((SIZE, SIZE, 3), np.uint8)
CORNER = np.full((SIZE, SIZE, 3), (20, 200, 20), np.uint8)
CORNER[: SIZE // 2, : SIZE // 2] = 0
SAID = "The model gives no numbers for this picture"


def write_brittle_model(path: Path) -> Path:
    """Write the model of the kit, but with x / (x / x) for x: no number for black, in the logits and in the maps."""
    model = onnx.load(write_model(path))
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            nodes += divided("pooled", "pooled2")
            node.input[0] = "pooled2"
        nodes.append(node)
        if node.op_type == "ReduceMean":
            node.output[0] = "mean"
            nodes += divided("mean", "features")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path.write_bytes(model.SerializeToString())
    return path


def divided(name: str, to: str) -> list[onnx.NodeProto]:
    """Return x / (x / x)."""
    return [helper.make_node("Div", [name, name], [f"{to}1"]), helper.make_node("Div", [name, f"{to}1"], [to])]


def png(pixels: np.ndarray) -> bytes:
    """Return a picture file."""
    return encode(Image.fromarray(pixels), "PNG")


def answer(server: Running, *files: bytes, query: str = "") -> tuple[int, str]:
    """Return the status, and the best class of the first picture or what is said."""
    response = server.predict(*files, query=query)
    document = json.loads(response.text, parse_constant=pytest.fail)
    found = document["predictions"][0]["category"] if response.ok else document["error"]["message"]
    return response.status_code, found


def test_server_says_that_the_model_gives_no_numbers(tmp_path: Path) -> None:
    """The answer held NaN, which no reader of JSON takes."""
    model = write_brittle_model(tmp_path / "colours.onnx")
    with serving(model, tmp_path / "log", '{"port": 0, "workers": 1}') as server:
        for _ in range(3):
            status, said = answer(server, png(BLACK))
            assert (status, said.startswith(SAID)) == (500, True)
        assert answer(server, png(CORNER)) == (200, "green")
        status, said = answer(server, png(CORNER), query="?explain=1")
        assert (status, said.startswith(SAID)) == (500, True)
        assert answer(server, picture("blue"), query="?explain=1") == (200, "blue")
        log = server.log.read_text()
    assert log.count("Traceback") <= 2 and SAID in log


def test_table_of_answers_names_the_picture_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in (("a", picture("red")), ("b", png(BLACK)), ("c", picture("blue"))):
        (folder / f"{name}.png").write_bytes(data)
    predict_all(write_brittle_model(tmp_path / "colours.onnx"), [folder], tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["category"], row["error_code"]) for row in rows] == [
        ("red", ""),
        ("", "image_unanswered"),
        ("blue", ""),
    ]
    assert rows[1]["error"].startswith(SAID)


def test_predictor_raises_and_scales_large_maps(tmp_path: Path) -> None:
    predictor = Predictor.load(write_brittle_model(tmp_path / "colours.onnx"))
    with pytest.raises(ModelError, match=SAID):
        predictor.predict([CORNER, BLACK])
    with pytest.raises(ModelError, match=SAID):
        predictor.predict(CORNER, explain=True)
    assert predictor.predict(CORNER).category == "green"
    assert heat_map(np.array([[-3e38, 3e38], [0, 0]], np.float32)) == ((0.0, 1.0), (0.5, 0.5))
