"""Augmented batches from pictures that lie in memory as one uint8 tensor: no worker processes, no files.

Crop, shift, flip and enlargement are one affine map a picture, applied to the whole batch by a single grid sample
(Jaderberg et al., "Spatial Transformer Networks", 2015). What is drawn depends on (seed, epoch, batch) alone, so that
a run can be taken up in the middle of an epoch with nothing but these three numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pupila.recipe import Recipe
from pupila.training.distributed.process_group import ALONE, Team
from pupila.training.loop.class_weights import EVEN, Balance
from pupila.training.loop.resnet import normalised


@dataclass(frozen=True)
class Batch:
    """Normalised float32 pictures [N, 3, S, S], channels last, and what they show."""

    pictures: Tensor
    labels: Tensor
    """int64: the classes of the first pictures. The others, outliers, show none of the classes; see outliers.py."""
    rows: Tensor
    """int64: the places of the first pictures among all that are trained on."""
    weight: float
    """What the mean loss by the labels counts for in that of the whole batch: 1, or less if workers share it."""
    count: int
    """Pictures with a class in the whole batch; more than there are here if it is shared among workers."""
    outlier_weight: float = 0.0
    """What the mean loss by them counts for in that by all of the whole batch."""


def generator(*numbers: int) -> torch.Generator:
    """Return a generator that these numbers alone determine."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % 2**63
    return torch.Generator().manual_seed(mixed)


def smallest_batch(pictures: int, batch_size: int) -> int:
    """Return the number of pictures in an epoch's smallest batch."""
    return pictures // batch_count(pictures, batch_size)


def batch_count(pictures: int, batch_size: int) -> int:
    """Batches an epoch, of at most `batch_size` pictures, but never of a single one, which batch norm cannot take.

    Every picture is used, and no batch is more than one larger than another. A small last one would end each epoch with
    a step by few pictures, and with batch norm's running statistics a tenth theirs: one to two points of accuracy with
    900 pictures in batches of 32 (docs/experiments.md).
    """
    return max(min(-(-pictures // batch_size), pictures // 2), 1)


def batches(
    pictures: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    size: int,
    epoch: int,
    start: int = 0,
    balance: Balance = EVEN,
    team: Team = ALONE,
) -> Iterator[Batch]:
    """Yield one epoch's batches from number `start` on, each picture once unless `balance` draws them by class.

    Of each batch, the part that is this worker's: what is drawn for a picture does not depend on how many share.

    pictures: uint8 [N, H, W, 3]; labels: int64 [N]; size: pixels a side of what is yielded.
    """
    order = balance.order(labels, generator(recipe.seed, epoch))
    total = batch_count(len(labels), recipe.batch_size)
    for number in range(start, total):
        first, end = (step * len(labels) // total for step in (number, number + 1))
        chosen, draw = order[first:end], generator(recipe.seed, epoch, number)
        part = team.part(len(chosen))
        x, shown = augmented(pictures, chosen, part, recipe, epoch, draw, size), labels[chosen[part]]
        yield Batch(x, shown, chosen[part], len(shown) / len(chosen), len(chosen))


def augmented(
    pictures: Tensor, chosen: Tensor, part: slice, recipe: Recipe, epoch: int, draw: torch.Generator, size: int
) -> Tensor:
    """Return one worker's part of the chosen pictures as the network gets them; what is drawn is drawn for all."""
    maps = affine_maps(chosen, recipe, epoch, draw, side=pictures.shape[1])
    x = warped(pictures[chosen[part]], maps[part], size)
    return jittered(x, recipe.color_jitter, len(chosen), part, draw)


def jittered(x: Tensor, strength: float, count: int, part: slice, draw: torch.Generator) -> Tensor:
    """Return normalised [N, 3, S, S] in other light: contrast times 1 +- `strength`, each picture's own.

    Brightness moves by up to twice that, and each of the colours by up to half of it, in standard deviations. x is the
    `part` of a batch of `count` pictures.
    """
    if not strength:
        return x
    drawn = (torch.rand(count, 5, 1, 1, generator=draw) * 2 - 1)[part].to(x.device) * strength
    contrast, brightness, colours = 1 + drawn[:, :1], 2 * drawn[:, 1:2], drawn[:, 2:] / 2
    return (x * contrast + (brightness + colours)).contiguous(memory_format=torch.channels_last)


def affine_maps(chosen: Tensor, recipe: Recipe, epoch: int, draw: torch.Generator, side: int) -> Tensor:
    """Return [N, 2, 3]: where in its source, in units of half a side from the centre, each output pixel lies.

    `side` is the source's, in pixels: shifts are whole pixels, so that a picture which is only shifted is not blurred.
    """
    count = len(chosen)
    zoom = (torch.rand(count, generator=draw) * (1 - recipe.crop_area) + recipe.crop_area).sqrt()
    reach = (1 - zoom) + 2 * recipe.crop_padding  # how far the centre of the crop may move either way
    shift = (torch.rand(count, 2, generator=draw) * 2 - 1) * reach.unsqueeze(1)
    shift = (shift * side / 2).round() / (side / 2)
    mirror = flips(chosen.cpu(), recipe, epoch, draw)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = torch.where(mirror, -zoom, zoom)
    maps[:, 1, 1] = zoom
    maps[:, :, 2] = shift
    return maps.to(chosen.device)


def flips(chosen: Tensor, recipe: Recipe, epoch: int, draw: torch.Generator) -> Tensor:
    """Return bool [N]: which pictures are mirrored.

    Alternating: after a random first epoch each picture is shown mirrored and plain by turns (K. Jordan, "94% on
    CIFAR-10 in 3.29 Seconds on a Single GPU", 2024): both views are seen every two epochs, not by luck.
    """
    if recipe.flip == "none":
        return torch.zeros(len(chosen), dtype=torch.bool)
    if recipe.flip == "random":
        return torch.rand(len(chosen), generator=draw) < 0.5
    scrambled = (chosen * 2_654_435_761 + recipe.seed * 40_503 + 12_345) >> 15  # Knuth's multiplicative hash
    return ((scrambled + epoch) % 2).bool()


def warped(pictures: Tensor, maps: Tensor, size: int) -> Tensor:
    """Apply affine maps [N, 2, 3] to uint8 [N, H, W, 3]; the identity map equals `resnet.enlarged`."""
    x = normalised(pictures).contiguous(memory_format=torch.channels_last)
    grid = functional.affine_grid(maps, [len(pictures), 3, size, size], align_corners=False)
    sampled = functional.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return sampled.contiguous(memory_format=torch.channels_last)
