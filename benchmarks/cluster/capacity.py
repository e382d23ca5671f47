"""How many machines for how many pictures: the tables of docs/capacity.md, calculated from what one machine does.

    python benchmarks/cluster/capacity.py              prints the tables
    python benchmarks/cluster/capacity.py --measure    measures one and two processes, which the calculation rests on

Every measured figure stands in MEASURED with its source; everything else is an assumption and stands in ASSUMED.
"""

import argparse
import io
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MEASURED: dict[str, Any] = {
    "serving": 659
    / 2,  # requests/s a core: docs/experiments-serving.md, 64 connections, two cores that others used too
    "request": 2.42,  # processor ms a request in the same run
    "decoding": {"32 x 32 JPEG": 0.108, "photo of 1600 x 1200": 3.65},  # processor ms: --measure
    "training_64": 270 / 2,  # images/s a core: docs/experiments.md, bfloat16, channels last, 64 px
    "parameters": 11_689_512,  # of ResNet-18, four bytes each
}
ASSUMED: dict[str, Any] = {
    "cores": 2,  # of a node: what the manifests in deploy/ ask for
    "fullness": 0.65,  # of what a node can do, at which the autoscaler adds another
    "spare": 1,  # nodes that may be missing
    "network": 1.25e9,  # bytes a second between training nodes: 10 Gbit/s
    "batch": 64,  # pictures of a training node in one step
}
BYTES = {"32 x 32 JPEG": 852 + 500, "photo of 1600 x 1200": 321_823 + 500}
"""Of a request: the pictures that --measure makes, and a few headers."""
RATES = (1_000, 10_000, 100_000)
IMAGENET, EPOCHS = 1_281_167, 90
NODES = (1, 8, 64)
MORE_WORK_AT_224 = (224 / 64) ** 2
"""A convolution's work grows with the area."""


def serving_nodes(rate: float, kind: str) -> int:
    """Return the nodes for so many pictures of a kind a second, one a request."""
    decoding = MEASURED["decoding"]
    work = 1 + (decoding[kind] - decoding["32 x 32 JPEG"]) / MEASURED["request"]
    node = MEASURED["serving"] / work * ASSUMED["cores"] * ASSUMED["fullness"]
    return math.ceil(rate / node) + ASSUMED["spare"]


def gigabits(rate: float, size: float) -> float:
    """Return the network that so many pictures of so many bytes take."""
    return rate * size * 8 / 1e9


def efficiency(nodes: int, images_per_second: float) -> float:
    """Return the share of time spent computing, if nothing is sent meanwhile; a ring sends 2 (N - 1) / N of all."""
    if nodes == 1:
        return 1.0
    computing = ASSUMED["batch"] / images_per_second
    sending = 2 * (nodes - 1) / nodes * MEASURED["parameters"] * 4 / ASSUMED["network"]
    return computing / (computing + sending)


def training_days(nodes: int, images_per_second: float) -> float:
    """Return the days that ImageNet takes."""
    rate = images_per_second * nodes * efficiency(nodes, images_per_second)
    return IMAGENET * EPOCHS / rate / 86_400


def report() -> str:
    """Return the tables, in Markdown."""
    lines = ["| pictures/s | " + " | ".join(f"{kind}: nodes, network" for kind in BYTES) + " |"]
    lines.append("|---|" + "---|" * len(BYTES))
    for rate in RATES:
        cells = [f"{serving_nodes(rate, kind):,}, {gigabits(rate, size):,.3g} Gbit/s" for kind, size in BYTES.items()]
        lines.append(f"| {rate:,} | {' | '.join(cells)} |")
    small = MEASURED["training_64"] * ASSUMED["cores"]
    sizes = {"64 px": small, "224 px": small / MORE_WORK_AT_224}
    lines += ["", "| nodes | " + " | ".join(f"{name}: days (efficiency)" for name in sizes) + " |"]
    lines.append("|---|" + "---|" * len(sizes))
    for nodes in NODES:
        cells = [f"{training_days(nodes, rate):,.3g} ({efficiency(nodes, rate):.2f})" for rate in sizes.values()]
        lines.append(f"| {nodes} | {' | '.join(cells)} |")
    return "\n".join(lines)


# The measurement


def one_process(model: Path, folder: Path, seconds: float) -> None:
    """Predict the same files again and again; print pictures, seconds, and processor seconds."""
    from pupila.batch.worker import predict
    from pupila.predictor import Predictor

    predictor = Predictor.from_bytes(model.read_bytes())
    paths = [str(path) for path in sorted(folder.iterdir())]
    predict(predictor, paths, 1)
    done, begun, used = 0, time.perf_counter(), processor_seconds()
    while time.perf_counter() - begun < seconds:
        done += len(predict(predictor, paths, 1))
    print(json.dumps([done, time.perf_counter() - begun, processor_seconds() - used]))


def processor_seconds() -> float:
    """Return what this process has used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(model: Path, seconds: float, rounds: int) -> None:
    """Print pictures a second, and a processor second, of one process and of two at once, in alternating rounds."""
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(64):
            Path(folder, f"{index:02d}.jpg").write_bytes(jpeg(32, 32, index))
        command = [sys.executable, __file__, "--process", str(model), folder, "--seconds", str(seconds)]
        for _ in range(rounds):
            for count, seen in found.items():
                running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
                results = [json.loads(process.communicate()[0]) for process in running]
                rate = sum(done / wall for done, wall, _ in results)
                seen.append((rate, sum(r[0] for r in results) / sum(r[2] for r in results)))
    for count, seen in found.items():
        rate, processor = (statistics.median(column) for column in zip(*seen, strict=True))
        print(f"{count} process{'es' * (count > 1)}: {rate:6.0f} pictures/s, {processor:6.0f} a processor second")


def measure_decoding() -> None:
    """Print the processor milliseconds that decoding a picture of each kind takes."""
    from pupila import images

    for width, height, times in ((32, 32, 200), (1600, 1200, 10)):
        data, found = jpeg(width, height, 0), []
        for _ in range(7):
            begun = processor_seconds()
            for _ in range(times):
                images.decode(data, 32)
            found.append((processor_seconds() - begun) / times)
        print(f"{width} x {height}, {len(data):,} bytes: {1000 * statistics.median(found):.3f} processor ms to decode")


def jpeg(width: int, height: int, seed: int) -> bytes:
    """Return a picture with smooth colours and a little noise, about as large as a photo of that size."""
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(seed)
    small = chance.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    pixels = np.clip(smooth + chance.integers(-6, 7, (height, width, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def main() -> None:
    """Print the tables, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--process", nargs=2, type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.process:
        one_process(*chosen.process, chosen.seconds)
    elif chosen.measure:
        from pupila.models import bundled_model

        measure(bundled_model(), chosen.seconds, chosen.rounds)
        measure_decoding()
    else:
        print(report())


if __name__ == "__main__":
    main()
