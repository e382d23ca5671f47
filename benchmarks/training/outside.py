"""Tiny ImageNet's classes that are none of CIFAR-10's ten, and half of their training pictures as a folder of outliers.

    python benchmarks/training/outside.py tiny-imagenet-64.tar.xz FOLDER

Every second class goes into FOLDER, for `pupila train --outliers FOLDER`; the others are kept back, so that what a
network has learned of doubt can be measured on classes that it was never told of (unknown.py).
"""

import argparse
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

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
    with tarfile.open(options.archive) as archive:
        members = [member for member in archive if member.isfile() and in_training(member.name)]
        taught = taught_classes({class_of(member.name) for member in members})
        chosen = [member for member in members if class_of(member.name) in taught]
        archive.extractall(options.folder, chosen, filter="data")
    print(f"{options.folder}: {len(chosen):,} pictures of {len(taught)} classes")


def outside(classes: Iterable[str]) -> list[str]:
    """Return the classes that are none of the ten, sorted."""
    inside = {name for names in AMONG_THE_TEN.values() for name in names}
    return sorted(set(classes) - inside)


def taught_classes(classes: Iterable[str]) -> set[str]:
    """Return every second class that is none of the ten: what may be shown as outliers."""
    return set(outside(classes)[::2])


def in_training(name: str) -> bool:
    """True for a file of the training split."""
    return PurePosixPath(name).parts[1:2] == ("train",)


def class_of(name: str) -> str:
    """Return the folder that a file is in."""
    return PurePosixPath(name).parent.name


if __name__ == "__main__":
    main()
