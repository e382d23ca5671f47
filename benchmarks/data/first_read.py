"""How fast a folder of small files is read the first time, against bare Pillow in as many processes.

    python benchmarks/data/first_read.py ARCHIVE [--runs 3]

ARCHIVE is a tar of class folders, unpacked to a temporary folder first. Both sides read the same files, warm in the
system's page cache, turn about. Ours lists, sizes, decodes, labels, fingerprints and caches; Pillow's side opens,
converts to RGB and drops. Prints one JSON line with the rates, then the median of their ratios and whether the bar is
met. About 20 s a run on two cores.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from verdict import verdict

from pupila.data import load_dataset

BAR = 0.8


def decode(path: Path) -> int:
    with Image.open(path) as image:
        return len(np.asarray(image.convert("RGB")))


def pillow_seconds(paths: list[Path], processes: int) -> float:
    start = time.perf_counter()
    with multiprocessing.Pool(processes) as pool:
        for _ in pool.imap_unordered(decode, paths, chunksize=500):
            pass
    return time.perf_counter() - start


def our_seconds(root: Path) -> float:
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        load_dataset(root, cache=Path(cache))
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    processes = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, tarfile.open(chosen.archive) as archive:
        archive.extractall(folder, filter="data")
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        both = [(pillow_seconds(paths, processes), our_seconds(Path(folder))) for _ in range(chosen.runs)]
    result = {
        "files": len(paths),
        "processes": processes,
        "pillow files/s": [round(len(paths) / seconds) for seconds, _ in both],
        "ours files/s": [round(len(paths) / seconds) for _, seconds in both],
    }
    print(json.dumps(result))
    print(verdict("files/s, of bare Pillow's", statistics.median(pillow / ours for pillow, ours in both), BAR))


if __name__ == "__main__":
    main()
