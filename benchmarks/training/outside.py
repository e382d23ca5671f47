"""Tiny ImageNet's classes that are none of CIFAR-10's ten, and half of their training pictures as a folder of outliers.

    python benchmarks/training/outside.py tiny-imagenet-200.zip FOLDER

The archive is the published one (http://cs231n.stanford.edu/tiny-imagenet-200.zip), or a tar or zip with training
pictures in train/WORDNET_ID/ or in folders below it. Every second class goes into FOLDER, a folder for each, for
`pupila train --outliers FOLDER`; the others are kept back, so that what a network has learned of doubt can be measured
on classes that it was never told of (unknown.py). All pictures are held in memory, some 250 MB.
"""

import argparse
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

TRAINING = re.compile(r"(?:^|/)train/(n\d{8})/(?:[^/]+/)*([^/]+\.(?i:jpe?g|png|webp))$")
"""The path of a training picture: its class, a WordNet id, and its name."""
AMONG_THE_TEN = {
    "automobile": ["n02814533", "n03100240", "n03670208", "n03977966", "n04285008"],
    "bird": ["n01855672", "n02002724", "n02056570", "n02058221"],
    "cat": ["n02123045", "n02123394", "n02124075"],
    "dog": ["n02085620", "n02094433", "n02099601", "n02099712", "n02106662", "n02113799"],
    "frog": ["n01641577", "n01644900"],
    "ship": ["n03447447", "n03662601"],
    "truck": ["n03796401"],
}
"""Tiny ImageNet's classes that are one of CIFAR-10's. Lions, gazelles, buses and tractors are not, and stay in."""
CLOSE_TO_THE_TEN = {
    "airplanes", "car_side", "cougar_body", "cougar_face", "dalmatian", "elephant", "emu", "ferry", "flamingo",
    "flamingo_head", "gerenuk", "helicopter", "ibis", "kangaroo", "ketch", "Leopards", "llama", "Motorbikes", "okapi",
    "pigeon", "rooster", "schooner", "wild_cat",
}  # fmt: skip
"""Caltech-101's classes that are one of CIFAR-10's, or look much like one: cats, birds, ships, vehicles, beasts of
prey and of the hoof. The other 78 are far from all ten."""


def main() -> None:
    """Write the outliers' folder and say how many pictures it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    pictures = list(training_pictures(options.archive))
    taught = taught_classes({category for category, _, _ in pictures})
    if not taught:
        raise SystemExit(f"{options.archive}: no picture in train/WORDNET_ID/ is of a class outside the ten.")
    chosen = [picture for picture in pictures if picture[0] in taught]
    for category, name, content in chosen:
        (options.folder / category).mkdir(parents=True, exist_ok=True)
        (options.folder / category / name).write_bytes(content)
    print(f"{options.folder}: {len(chosen):,} pictures of {len(taught)} classes")


def training_pictures(archive: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield class, name and bytes of each training picture in a tar or zip."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for path in packed.namelist():
                if found := TRAINING.search(path):
                    yield found[1], found[2], packed.read(path)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if (found := TRAINING.search(member.name)) and (content := tar.extractfile(member)):
                yield found[1], found[2], content.read()


def outside(classes: Iterable[str]) -> list[str]:
    """Return the classes that are none of the ten, sorted."""
    inside = {name for names in AMONG_THE_TEN.values() for name in names}
    return sorted(set(classes) - inside)


def taught_classes(classes: Iterable[str]) -> set[str]:
    """Return every second class that is none of the ten: what may be shown as outliers."""
    return set(outside(classes)[::2])


if __name__ == "__main__":
    main()
