"""ONNX Runtime beside OpenVINO on the same model file: milliseconds a picture and answers, one thread.

    python -m venv .engines && .engines/bin/pip install openvino onnxruntime pillow
    taskset -c 0 .engines/bin/python benchmarks/serving/engines.py MODEL.onnx [TEST_FOLDER]

TEST_FOLDER has a folder of pictures for each class, of the size that the model takes and with names in the order of its
classes. Both engines run in turn in one process; medians of seven rounds. Needs nothing of this project.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
from numpy.typing import NDArray
from PIL import Image

Pictures = NDArray[np.uint8]
Engine = Callable[[Pictures], NDArray[np.float32]]


def engines(model: Path) -> dict[str, Engine]:
    """Return both, each with one thread; what they return are logits [N, K]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return {
        "ONNX Runtime": lambda pictures: session.run(None, {name: pictures})[0],
        "OpenVINO": lambda pictures: request.infer({0: pictures})[0],
    }


def milliseconds(both: dict[str, Engine], pictures: Pictures) -> dict[str, float]:
    """Return the medians of seven rounds in turn, a picture."""
    found: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(7):
        for name, engine in both.items():
            engine(pictures)
            begun = time.perf_counter()
            for _ in range(30):
                engine(pictures)
            found[name].append(1000 * (time.perf_counter() - begun) / 30 / len(pictures))
    return {name: statistics.median(times) for name, times in found.items()}


def batches(folder: Path) -> Iterator[tuple[Pictures, int]]:
    """Yield the pictures of each class, a hundred at a time, and its number."""
    for label, kind in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        files = sorted(kind.iterdir())
        for start in range(0, len(files), 100):
            opened = [np.asarray(Image.open(file).convert("RGB")) for file in files[start : start + 100]]
            yield np.stack(opened), label


def main() -> None:
    """Measure, and compare the answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=32, help="pixels a side that the model takes")
    options = parser.parse_args()
    both = engines(options.model)
    for count in (1, 8):
        pictures = np.random.default_rng(0).integers(0, 256, (count, options.size, options.size, 3), dtype=np.uint8)
        times = milliseconds(both, pictures)
        print(count, {name: round(found, 2) for name, found in times.items()},
              f"{times['ONNX Runtime'] / times['OpenVINO']:.2f} times as fast")  # fmt: skip
    if options.folder is not None:
        answers = [
            (*(engine(part).argmax(1) for engine in both.values()), label) for part, label in batches(options.folder)
        ]
        first, second = (np.concatenate([row[place] for row in answers]) for place in (0, 1))
        labels = np.concatenate([np.full(len(row[0]), row[2]) for row in answers])
        right = [float((found == labels).mean()) for found in (first, second)]
        print(f"right: {right[0]:.4f} and {right[1]:.4f}; the same answer: {(first == second).mean():.4f}")


if __name__ == "__main__":
    main()
