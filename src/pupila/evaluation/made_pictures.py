"""Pictures that the program makes itself, to measure how many strange pictures a model marks as unknown.

Noise and flat colours show nothing; shuffled patches and small crops of known pictures have their colours and textures
and not their objects. All draws are seeded.
"""

from collections.abc import Callable

import numpy as np

from pupila import images
from pupila.images import Pixels

COUNT = 60
"""Of each kind."""
SIDES = (24, 64, 150, 300)
"""Pixels a side of noise before it is resized as any picture is."""
PATCHES = 4
"""Shuffled pictures are cut into so many rows and columns."""
CROP = 6
"""A crop has this part of a picture's side."""


def made_pictures(known: Pixels, size: int, count: int = COUNT) -> dict[str, Pixels]:
    """Return uint8 [count, size, size, 3] by kind; `known` are some of the model's own pictures [N, S, S, 3]."""
    draw = np.random.default_rng(0)
    chosen = known[draw.integers(len(known), size=count)]
    makers: dict[str, Callable[[int], Pixels]] = {
        "noise": lambda number: _noise(draw, number),
        "flat colours": lambda _: np.broadcast_to(draw.integers(0, 256, 3, dtype=np.uint8), (8, 8, 3)).copy(),
        "shuffled patches": lambda number: _shuffled(chosen[number], draw),
        "small crops": lambda number: _crop(chosen[number], draw),
    }
    return {
        kind: np.stack([images.resize(make(number), size) for number in range(count)]) for kind, make in makers.items()
    }


def _noise(draw: np.random.Generator, number: int) -> Pixels:
    """Uniform and Gaussian noise by turns, of several sizes."""
    side = SIDES[number // 2 % len(SIDES)]
    shape = (side, side, 3)
    if number % 2:
        return draw.integers(0, 256, shape, dtype=np.uint8)
    return np.asarray(np.clip(draw.normal(128, 50, shape), 0, 255), dtype=np.uint8)


def _shuffled(picture: Pixels, draw: np.random.Generator) -> Pixels:
    side = max(len(picture) // PATCHES, 1)
    picture = images.resize(picture, side * PATCHES)
    patches = picture.reshape(PATCHES, side, PATCHES, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    mixed = draw.permutation(patches).reshape(PATCHES, PATCHES, side, side, 3)
    return np.ascontiguousarray(mixed.swapaxes(1, 2).reshape(side * PATCHES, side * PATCHES, 3))


def _crop(picture: Pixels, draw: np.random.Generator) -> Pixels:
    side = max(len(picture) // CROP, 1)
    top, left = draw.integers(0, len(picture) - side + 1, 2)
    return np.ascontiguousarray(picture[top : top + side, left : left + side])
