"""Loads the server with pictures of all sizes for a long time and watches its memory.

    python benchmarks/serving/soak.py MODEL.onnx [--minutes 10] [--clients 4]

Prints once a minute the resident memory of the largest worker, and at the end its slope over the second half, the peak
that any worker has had, and what is held at rest after each half: what grows there is lost. Loopback only;
ends by itself.
"""

import argparse
import io
import random
import statistics
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from harness import descendants, resident, running
from PIL import Image

from pupila.client import Client, ServerError


def pictures() -> list[bytes]:
    """Return JPEG, PNG and WebP files from 32 x 32 to 4 megapixels, and some that are broken."""
    rng, made = np.random.default_rng(0), []
    for width, height in ((32, 32), (64, 48), (320, 240), (1000, 1000), (1920, 1080), (2000, 2000)):
        coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        for kind in ("JPEG", "PNG", "WEBP"):
            buffer = io.BytesIO()
            image.save(buffer, kind)
            made.append(buffer.getvalue())
    return [*made, b"", b"text", made[3][:200]]


def client(port: int, until: float, seed: int, files: list[bytes], codes: Counter[str]) -> None:
    """Ask until the time is over: mostly single pictures, sometimes many, sometimes a new connection."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        with Client(f"http://127.0.0.1:{port}", retries=0) as one:
            for _ in range(rng.randint(1, 200)):
                count = rng.choice((1, 1, 1, 1, 3, 32))
                try:
                    one.predict([rng.choice(files[:6] if count == 32 else files) for _ in range(count)])
                    codes["200"] += 1
                except ServerError as error:
                    codes[str(error.status)] += 1
                except OSError as error:
                    codes[type(error).__name__] += 1
                if time.monotonic() > until:
                    break


def largest_worker(pid: int) -> float:
    """Return the resident MiB of the worker that has most."""
    return max((resident(one) for one in descendants(pid)), default=0.0)


def slope_of(samples: list[tuple[float, float]]) -> str:
    """Return the slope of memory over minutes, with twice its standard error, in words."""
    if len(samples) < 3:
        return "too short for a slope"
    slope, start = statistics.linear_regression([x for x, _ in samples], [y for _, y in samples])
    middle = statistics.mean(x for x, _ in samples)
    left = sum((y - start - slope * x) ** 2 for x, y in samples) / (len(samples) - 2)
    error = (left / sum((x - middle) ** 2 for x, _ in samples)) ** 0.5
    return f"slope {slope:+.2f} MiB/min, give or take {2 * error:.2f}"


def main() -> None:
    """Parse, load, watch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    files, codes, samples = pictures(), Counter[str](), list[tuple[float, float]]()
    with running("ours", options.model.resolve()) as (process, port):
        started = time.monotonic()
        rests = []
        for part in range(2):
            until = time.monotonic() + 30 * options.minutes
            threads = [
                threading.Thread(target=client, args=(port, until, 2 * seed + part, files, codes))
                for seed in range(options.clients)
            ]
            [thread.start() for thread in threads]
            while time.monotonic() < until:
                time.sleep(min(5, max(0.1, until - time.monotonic())))
                samples.append(((time.monotonic() - started) / 60, largest_worker(process.pid)))
                if len(samples) % 12 == 0:
                    print(f"{samples[-1][0]:5.1f} min: {samples[-1][1]:.0f} MiB, {dict(codes)}", file=sys.stderr)
            [thread.join() for thread in threads]
            time.sleep(2)
            rests.append(largest_worker(process.pid))
    half = samples[len(samples) // 2 :]
    middle, most = statistics.median(y for _, y in half), max(y for _, y in samples)
    print(f"{sum(codes.values()):,} answers {dict(codes)}; the largest worker {middle:.0f} MiB (median), {most:.0f} at")
    print(
        f"most; at rest {rests[0]:.0f} MiB after the first half and {rests[1]:.0f} after the second; {slope_of(half)}"
    )
    sys.exit(bool({code for code in codes if code not in ("200", "400", "413", "415", "422")}))


if __name__ == "__main__":
    main()
