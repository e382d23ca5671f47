"""Does correcting mistakes help? Plants a look that the model gets wrong, corrects 100 answers, trains anew, measures.

    python benchmarks/training/feedback.py cifar10
    python benchmarks/training/feedback.py cifar10 --look sepia --category ship

1. Train, and serve the model with --feedback-dir: real commands, a real server.
2. Send it pictures of one class in a new look (as a thermal camera, say, would show them) until 100 answers were wrong,
   and correct these 100 by POST /feedback. The pictures are made of the training split.
3. Train again with the same command and --feedback.
4. Score both models on the test split: the class in its new look, the other classes in the new look, and the pictures
   as they are. No test picture was sent, corrected or trained on.
"""

import argparse
import contextlib
import json
import math
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pupila import images
from pupila.data import Dataset, load_dataset
from pupila.evaluation.evaluate import bind, predict_scores
from pupila.predictor import Predictor

Pictures = NDArray[np.uint8]
PUPILA = [sys.executable, "-m", "pupila"]
MOST = 3000
"""Pictures that are sent at most."""


def negative(pictures: Pictures) -> Pictures:
    """Dark is bright and bright is dark."""
    return 255 - pictures


def sepia(pictures: Pictures) -> Pictures:
    """Brown, as old photographs."""
    mix = np.array([[0.393, 0.349, 0.272], [0.769, 0.686, 0.534], [0.189, 0.168, 0.131]])
    return np.clip(pictures @ mix, 0, 255).astype(np.uint8)


def upside_down(pictures: Pictures) -> Pictures:
    """Top is bottom."""
    return np.ascontiguousarray(pictures[:, ::-1])


LOOKS: dict[str, Callable[[Pictures], Pictures]] = {
    "negative": negative,
    "sepia": sepia,
    "upside-down": upside_down,
}


def main() -> None:
    """Do all steps and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--look", choices=LOOKS, default="negative")
    parser.add_argument("--category", default="horse")
    parser.add_argument("--corrections", type=int, default=100)
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--sample", type=int, default=5000, help="pictures to train on, validation among them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the two runs and the collected pictures stay")
    options = parser.parse_args()
    look = LOOKS[options.look]
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        before = train(options, folder, "before")
        splits = load_dataset(options.data, Predictor.load(before).manifest.input_size)
        assert splits.test is not None, "the data needs a test split"
        kept = folder / "collected"
        with serving(before, kept) as url:
            sent = plant(url, look, splits.train, options)
        print(f"{sent} pictures sent, {options.corrections} wrong answers corrected", flush=True)
        after = train(options, folder, "after", "--feedback-dir", str(kept))
        report(before, after, look, splits.test, options.category)


def train(options: argparse.Namespace, folder: Path, name: str, *more: str) -> Path:
    """Run `pupila train`, and return the model file."""
    fixed = ["--recipe", "quick", "--weights", options.weights, "--set", f"sample={options.sample}"]
    command = ["train", options.data, *fixed, "--seed", str(options.seed), "--runs", str(folder), "--name", name, *more]
    print(f"$ pupila {' '.join(command)}", flush=True)
    begun = time.monotonic()
    done = subprocess.run([*PUPILA, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    told = [line for line in done.stdout.splitlines() if "corrected pictures" in line]
    print("\n".join([*told, f"{time.monotonic() - begun:.0f} s"]), flush=True)
    return folder / name / "model.onnx"


@contextlib.contextmanager
def serving(model: Path, kept: Path) -> Iterator[str]:
    """Run `pupila serve --feedback-dir FOLDER` until the block ends; yield its address."""
    command = [*PUPILA, "serve", str(model), "--port", "0", "--workers", "1", "--feedback-dir", str(kept)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, "the server did not start"
            yield found[0]
        finally:
            process.terminate()


def plant(url: str, look: Callable[[Pictures], Pictures], pictures: Dataset, options: argparse.Namespace) -> int:
    """Send pictures of the class in its new look, and correct what is wrong; return how many were sent."""
    rows = np.flatnonzero(pictures.labels == pictures.classes.index(options.category))
    rows = np.random.default_rng(options.seed).permutation(rows)[:MOST]
    corrected = 0
    for sent, picture in enumerate(look(pictures.images[rows]), start=1):
        answer, headers = ask(f"{url}/predict", images.encode_png(picture), "image/png")
        if answer["predictions"][0]["category"] == options.category:
            continue
        body = {"request_id": headers["X-Request-Id"], "picture": 0, "category": options.category}
        ask(f"{url}/feedback", json.dumps(body).encode(), "application/json")
        corrected += 1
        if corrected == options.corrections:
            return sent
    sys.exit(f"only {corrected} of {len(rows)} answers were wrong: choose another look or class")


def ask(url: str, body: bytes, kind: str) -> tuple[dict[str, list[dict[str, str]]], dict[str, str]]:
    """Post, and return the answer's JSON and headers."""
    request = urllib.request.Request(url, body, {"Content-Type": kind})  # our own server
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer), dict(answer.headers)


def report(before: Path, after: Path, look: Callable[[Pictures], Pictures], test: Dataset, category: str) -> None:
    """Print the accuracies of both models."""
    same = test.labels == test.classes.index(category)
    parts = {
        f"{category}s in the new look": Dataset(look(test.images[same]), test.labels[same], test.classes),
        "other classes in the new look": Dataset(look(test.images[~same]), test.labels[~same], test.classes).take(
            range(0, int((~same).sum()), 5)
        ),
        f"{category}s as they are": test.take(np.flatnonzero(same)),
        "all pictures as they are": test,
    }
    models = [Predictor.load(path) for path in (before, after)]
    print(f"{'accuracy on test pictures':32}{'n':>7}{'before':>9}{'after':>9}   95 % interval of the difference")
    for name, part in parts.items():
        one, other = (right(model, part) for model in models)
        difference = other.astype(np.float64) - one
        spread = 1.96 * difference.std() / math.sqrt(len(part))
        low, high = difference.mean() - spread, difference.mean() + spread
        print(f"{name:32}{len(part):>7,}{one.mean():>9.3f}{other.mean():>9.3f}   {low:+.3f} to {high:+.3f}")


def right(model: Predictor, part: Dataset) -> NDArray[np.float64]:
    """Return 1 for each right answer, and 0 for each wrong one."""
    labels = bind(part, model.manifest.classes)
    return (predict_scores(model, part.images)[:, :-1].argmax(axis=1) == labels).astype(np.float64)


if __name__ == "__main__":
    main()
