"""Files/s of `pupila predict PATH --out FILE` against the plain loop and other ways to use two cores, all in one run.

    python benchmarks/batch/throughput.py [MODEL] [--files 4000] [--side 32] [--rounds 5] [--json]

Sides, each on the same JPEG files, timed from start to end in a fresh process, imports and loading the model included:
    plain         two processes, each: decode, run its one-thread session on batches of 32, keep the answers in memory
    pupila        predict_all: listing, a process a core, journal, progress, csv
    threads       one process, two threads, each with a one-thread session
    one session   one process, two decoding threads feeding one two-thread session

Rounds of all sides alternate, so that a busy moment of the machine meets them all. Printed are each side's median,
the median of its ratios to `plain` of the same round, and its processor time, which a busy machine changes least.
"""

import argparse
import io
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

DIFFERENT = 200
"""Different pictures; the rest are links to them, which cost the file system the same."""
BATCH = 32
BAR = 0.9


def make_files(root: Path, count: int, side: int) -> None:
    """Write noisy gradients as JPEG, about as large as photos of that size."""
    chance = np.random.default_rng(0)
    for index in range(count):
        path = root / f"{index:07d}.jpg"
        if index < DIFFERENT:
            smooth = chance.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            image = Image.fromarray(smooth).resize((side, side), Image.Resampling.BICUBIC)
            noise = chance.integers(-12, 13, (side, side, 3))
            pixels = np.clip(np.asarray(image, dtype=np.int64) + noise, 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
            path.write_bytes(buffer.getvalue())
        else:
            os.link(root / f"{index % DIFFERENT:07d}.jpg", path)


def batches(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    """Cut the paths into batches."""
    return (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))


def plain_half(model: Path, folder: Path, half: int) -> None:
    """The plain loop over every second batch."""
    from pupila import images
    from pupila.predictor import Predictor

    predictor = Predictor.load(model)
    size = predictor.manifest.input_size
    answers = []
    for paths in itertools.islice(batches(sorted(folder.iterdir())), half, None, 2):
        pictures = np.stack([images.decode(path, size) for path in paths])
        answers.append(predictor.logits(pictures).argmax(axis=1))


def run_plain(model: Path, folder: Path, out: Path) -> None:
    """Two processes of the plain loop."""
    del out
    command = [sys.executable, __file__, str(model), "--folder", str(folder), "--side-run"]
    halves = [subprocess.Popen([*command, f"plain{half}"]) for half in (0, 1)]
    assert [process.wait() for process in halves] == [0, 0]


def run_pupila(model: Path, folder: Path, out: Path) -> None:
    """What `pupila predict PATH --out FILE` calls."""
    from pupila.batch import predict_all

    predict_all(model, [folder], out)


def run_threads(model: Path, folder: Path, out: Path) -> None:
    """Two threads, each with a session of its own."""
    from pupila import images
    from pupila.predictor import Predictor

    del out
    predictors = [Predictor.load(model), Predictor.load(model)]
    parts = list(batches(sorted(folder.iterdir())))

    def half(which: int) -> None:
        predictor = predictors[which]
        size = predictor.manifest.input_size
        for paths in parts[which::2]:
            predictor.logits(np.stack([images.decode(path, size) for path in paths])).argmax(axis=1)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(half, (0, 1)))


def run_one_session(model: Path, folder: Path, out: Path) -> None:
    """Two threads decode ahead of one session that uses two threads."""
    from pupila import images
    from pupila.predictor import Predictor

    del out
    predictor = Predictor.load(model, threads=2)
    size = predictor.manifest.input_size

    def decode(paths: Sequence[Path]) -> np.ndarray:
        return np.stack([images.decode(path, size) for path in paths])

    with ThreadPoolExecutor(2) as pool:
        for pictures in pool.map(decode, batches(sorted(folder.iterdir()))):
            predictor.logits(pictures).argmax(axis=1)


SIDES: dict[str, Callable[[Path, Path, Path], None]] = {
    "plain": run_plain,
    "pupila": run_pupila,
    "threads": run_threads,
    "one session": run_one_session,
}


def timed(name: str, model: Path, folder: Path, scratch: Path) -> tuple[float, float]:
    """Return the files/s of one side, and its processor milliseconds a file, in a process of its own."""
    out = scratch / "out.csv"
    command = [sys.executable, __file__, str(model), "--folder", str(folder), "--out", str(out), "--side-run", name]
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    out.unlink(missing_ok=True)
    files = len(list(folder.iterdir()))
    return files / seconds, 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / files


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="[default: the bundled model]")
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--side", type=int, default=32, help="pixels a side of the files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side-run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model is None:
        from pupila.models import bundled_model

        options.model = bundled_model()
    return options


def main() -> None:
    """Measure all sides, or be one of them."""
    options = arguments()
    if options.side_run in ("plain0", "plain1"):
        plain_half(options.model, options.folder, int(options.side_run[-1]))
        return
    if options.side_run:
        SIDES[options.side_run](options.model, options.folder, options.out)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        make_files(folder, options.files, options.side)
        rounds = [{s: timed(s, options.model, folder, Path(name)) for s in SIDES} for _ in range(options.rounds)]
    rates = {side: statistics.median(row[side][0] for row in rounds) for side in SIDES}
    ratios = {side: statistics.median(row[side][0] / row["plain"][0] for row in rounds) for side in SIDES}
    processor = {side: statistics.median(row[side][1] for row in rounds) for side in SIDES}
    if options.json:
        figures = {"rates": rates, "ratios": ratios, "processor_ms": processor}
        met = {"bar": BAR, "met": ratios["pupila"] >= BAR}
        print(json.dumps({"files": options.files, "side": options.side, **figures, **met}))
        return
    for side in SIDES:
        figures = (
            f"{rates[side]:8,.0f} files/s  {ratios[side]:5.2f} of plain  {processor[side]:6.2f} processor ms a file"
        )
        print(f"{side:12} {figures}")
    met = "met" if ratios["pupila"] >= BAR else "NOT MET"
    print(f"pupila: {ratios['pupila']:.3f} of plain, at least {BAR} asked for: {met}")


if __name__ == "__main__":
    main()
