"""What the server's tests share: a tiny real model file, pictures of every kind, and real server processes."""

import base64
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import requests
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pupila import images
from pupila.manifest import METADATA_KEY, GoldenPicture, Manifest

CLASSES = ("red", "green", "blue", "white")
COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200), "white": (255, 255, 255)}
SIZE = 32


def write_model(
    path: Path,
    name: str = "colours",
    white: float = 0.0,
    spoil_golden: bool = False,
    unknown_threshold: float | None = None,
    data: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a model that names a picture's mean colour; its arithmetic is plain enough to check by hand.

    changes: other fields of the manifest, also of types that Pupila does not write.
    """
    directions = np.array([[4, -2, -2], [-2, 4, -2], [-2, -2, 4], [2, 2, 2]], np.float32)
    offset = np.array([0, 0, 0, white - 2.2], np.float32)
    golden = []
    for colour in COLOURS.values():
        picture = np.full((SIZE, SIZE, 3), colour, np.uint8)
        logits = (directions @ (np.array(colour, np.float32) / 255) + offset) * (-1 if spoil_golden else 1)
        png = base64.b64encode(images.encode_png(picture)).decode()
        golden.append(GoldenPicture(png, tuple(float(x) for x in logits)))
    manifest = Manifest(
        name,
        CLASSES,
        SIZE,
        SIZE,
        "float32",
        "none",
        {},
        data or {},
        metrics={"accuracy": 1.0},
        golden=tuple(golden),
        unknown_threshold=unknown_threshold,
    )
    model = _graph(directions, offset)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps({**json.loads(manifest.to_json()), **changes})
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(model.SerializeToString())
    temporary.replace(path)
    return path


def _graph(directions: NDArray[np.float32], offset: NDArray[np.float32]) -> onnx.ModelProto:
    constants = {
        "white": np.float32(255),
        "axes": np.array([2, 3], np.int64),
        "weight": directions,
        "weight4": directions[:, :, None, None],
        "offset": offset,
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "white"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Conv", ["pooled", "weight4"], ["cam"]),
        helper.make_node("ReduceMean", ["pooled", "axes"], ["features"], keepdims=0),
        helper.make_node("Gemm", ["features", "weight", "offset"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", *s]) for n, s in SHAPES.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


SHAPES: dict[str, list[Any]] = {"logits": [4], "features": [3], "cam": [4, "side", "side"]}


def picture(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (SIZE, SIZE), **options: Any) -> bytes:
    """Return a picture file of one colour."""
    return encode(Image.new("RGB", size, COLOURS[colour]), kind, **options)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class Running:
    """A server process and how to talk to it."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log
        self.port = int(url.rpartition(":")[2])
        self.headers: dict[str, str] = {}
        """Sent with every request."""

    def predict(self, *files: bytes, query: str = "", timeout: float = 20) -> requests.Response:
        """Post files as multipart."""
        parts = [("file", (f"{i}.png", data)) for i, data in enumerate(files)]
        return requests.post(f"{self.url}/predict{query}", files=parts, headers=self.headers, timeout=timeout)

    def get(self, path: str) -> requests.Response:
        """Get a path."""
        return requests.get(self.url + path, headers=self.headers, timeout=20)

    def workers(self) -> list[int]:
        """Return the worker processes' ids."""
        return [worker.pid for worker in psutil.Process(self.process.pid).children()]

    def memory(self) -> float:
        """Return the resident MiB of all worker processes together."""
        return sum(psutil.Process(pid).memory_info().rss for pid in self.workers()) / 2**20


def wait_until(condition: Callable[[], object], seconds: float = 30) -> float:
    """Return how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "this took too long"
        time.sleep(0.01)
    return time.monotonic() - started


def signal_worker(pid: int, number: int) -> None:
    """Send a signal to one process."""
    os.kill(pid, number)


SCRIPT = """
import json, sys
from pathlib import Path
from pupila.errors import PupilaError
from pupila.server import Settings, serve
from pupila.server.api.auth import parse_keys
values = json.loads(sys.argv[2])
values.update({name: Path(values[name]) for name in ("access_log", "feedback_dir") if name in values})
values["api_keys"] = parse_keys(values.get("api_keys", []))
try:
    serve(Path(sys.argv[1]), Settings(**values))
except PupilaError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def launch(model: Path, log: Path, settings: str) -> subprocess.Popen[str]:
    """Start a server process that writes to a log."""
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(model), settings], stdout=output, stderr=output, text=True
        )


@contextlib.contextmanager
def serving(model: Path, log: Path, settings: str = '{"port": 0, "workers": 2}') -> Iterator[Running]:
    """Run a real server on a free loopback port until the block ends; it must end cleanly."""
    process = launch(model, log, settings)
    try:
        yield Running(process, wait_for_url(process, log), log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


def wait_for_url(process: subprocess.Popen[str], log: Path, before: str = "Listening on") -> str:
    """Return the address that the server prints, after these words."""
    limit = time.monotonic() + 60  # a busy machine may take its time
    while time.monotonic() < limit and process.poll() is None:
        if found := re.search(rf"{before} (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")
