"""Photos: accuracy, minutes and size of `quick` and `standard`, beside a probe and a plain fine-tuning at 224 px.

    python benchmarks/training/photos.py caltech101.tar five look-alikes all --weights bundled --minutes 2
    python benchmarks/training/photos.py flowers.tar everything --pictures 60

A tar of class folders, whatever lies above them, like Caltech-101 as published. The first pictures by name are trained
on, and the rest is held out.
The probe (probe.py) is a logistic regression on the frozen features, at the size that the way before it took. The
plain way (plain_torch.py) is the same ResNet-18 from the same weights, with the ImageNet-style transforms, in the
minutes that `standard` took in all. One JSON line for each set and way; balanced accuracy is the mean recall.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from pupila.data import load_dataset
from pupila.evaluation.evaluate import score_dataset
from pupila.predictor import Predictor

SETS: dict[str, tuple[int, tuple[str, ...]]] = {
    "five": (60, ("bonsai", "chandelier", "hawksbill", "ketch", "watch")),
    "look-alikes": (
        24,
        (
            "cougar_body", "cougar_face", "crocodile", "crocodile_head", "lobster", "crayfish", "crab", "lotus",
            "water_lilly", "flamingo", "flamingo_head", "ketch", "schooner", "ibis", "emu", "pigeon", "rooster",
            "hedgehog", "beaver", "platypus",
        ),
    ),
    "all": (30, ()),
    "everything": (60, ()),
}  # fmt: skip
"""Pictures of each class to train on, and the classes; none for all of the tar's."""
SCRIPTS = {"probe": ("probe.py", "--size", "{size}"), "plain": ("plain_torch.py", "--minutes", "{minutes}")}
"""Ways that are scripts of their own, with their options."""
LEFT_OUT = ("BACKGROUND_Google",)
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def main() -> None:
    """Print one JSON line for each set and way of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("sets", nargs="+", choices=SETS)
    parser.add_argument("--pictures", type=int, help="of each class to train on, in place of the set's number")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--minutes", type=float, default=2.0, help="of standard")
    parser.add_argument("--ways", nargs="+", default=["quick", "standard", "probe", "plain"])
    options = parser.parse_args()
    for name in options.sets:
        with tempfile.TemporaryDirectory() as folder:
            count, classes = SETS[name]
            cut(options.archive, Path(folder) / "photos", options.pictures or count, classes)
            took, size = options.minutes, 128
            for way in options.ways:
                minutes = took if way == "plain" else options.minutes  # no less than the others took
                found = run(way, Path(folder), options.weights, minutes, size)
                took, size = max(took, found["minutes"]), found["size"]
                print(json.dumps({"set": name, "way": way, **found}), flush=True)


def cut(archive: Path, folder: Path, count: int, classes: tuple[str, ...]) -> None:
    """Write the first `count` pictures of each class into train/, and the others into test/."""
    by_class: dict[str, list[str]] = defaultdict(list)
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if member.isfile() and path.suffix.lower() in ENDINGS and path.parent.name not in LEFT_OUT:
                by_class[path.parent.name].append(member.name)
        for category in classes or sorted(by_class):
            for place, name in enumerate(sorted(by_class[category])):
                target = folder / ("train" if place < count else "test") / category / PurePosixPath(name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                picture = tar.extractfile(name)
                assert picture is not None
                target.write_bytes(picture.read())


def run(way: str, folder: Path, weights: str, minutes: float, size: int) -> dict[str, Any]:
    """Train in one way and return its figures; the decoding of the pictures counts, and they are not in a cache.

    minutes: of `standard` and the plain way. size: of the probe.
    """
    begun, photos = time.monotonic(), str(folder / "photos")
    if way in SCRIPTS:
        name, *own = SCRIPTS[way]
        script = str(Path(__file__).with_name(name))
        values = [word.format(minutes=minutes, size=size) for word in own]
        command = [sys.executable, script, photos, "--weights", weights, *values]
        done: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return {**done, "minutes": round((time.monotonic() - begun) / 60, 2)}
    budget = ["--minutes", str(minutes)] if way == "standard" else []
    command = [sys.executable, "-m", "pupila", "train", photos, "--recipe", way, "--weights", weights, *budget]
    subprocess.run([*command, "--runs", str(folder), "--name", way], check=True, stdout=subprocess.DEVNULL)
    took = (time.monotonic() - begun) / 60
    predictor = Predictor.load(folder / way / "model.onnx")
    test = load_dataset(photos, predictor.manifest.input_size, framing=predictor.manifest.framing).test
    assert test is not None
    scores = score_dataset(predictor, test).scores
    return {
        "n": scores.n, "accuracy": round(scores.accuracy, 4), "balanced": round(scores.balanced_accuracy, 4),
        "size": predictor.manifest.network_size, "minutes": round(took, 2),
    }  # fmt: skip


if __name__ == "__main__":
    main()
