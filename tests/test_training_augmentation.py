"""Affine maps, flips, crops and light, picture by picture and pixel by pixel."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_kit import TINY, noise

from pupila.training.loop.batches import affine_maps, batches, flips, generator, jittered, warped
from pupila.training.loop.resnet import normalised

WILD = replace(TINY, crop_padding=0.2, crop_area=0.3, flip="random")


def pixel(picture, row, column):
    """Of a picture [C, H, W], at whole places, mirrored at its edges as often as it takes."""
    height, width = picture.shape[1:]
    row, column = row % (2 * height), column % (2 * width)
    return picture[:, min(row, 2 * height - 1 - row), min(column, 2 * width - 1 - column)]


def slow_warp(picture, affine, size):
    """One output pixel at a time: where it lies in the source, and the four pixels around that place."""
    result, side = np.zeros((3, size, size)), picture.shape[1]
    for row in range(size):
        for column in range(size):
            here = np.array([(2 * column + 1) / size - 1, (2 * row + 1) / size - 1, 1.0])
            x, y = ((affine @ here + 1) * side - 1) / 2
            left, top = int(np.floor(x)), int(np.floor(y))
            for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(y - top - down)) * (1 - abs(x - left - right))
                result[:, row, column] += weight * pixel(picture, top + down, left + right)
    return result


@pytest.mark.parametrize(("side", "size"), [(8, 12), (12, 8), (9, 9)])
def test_maps_of_all_kinds_equal_the_slow_version(side, size):
    pictures = torch.from_numpy(noise(6, side).images)
    maps = affine_maps(torch.arange(6), WILD, 0, generator(5), side=side)
    assert (maps[:, 0, 0] < 0).any() and (maps[:, 0, 0] > 0).any()
    ours = warped(pictures, maps, size)
    for picture, affine, result in zip(normalised(pictures), maps, ours, strict=True):
        slow = slow_warp(picture.double().numpy(), affine.double().numpy(), size)
        np.testing.assert_allclose(result.numpy(), slow, atol=2e-4)


def test_cropped_areas_are_spread_evenly_from_the_smallest_to_the_whole():
    maps = affine_maps(torch.arange(5000), replace(WILD, crop_padding=0.0), 0, generator(1), side=64)
    assert torch.equal(maps[:, 0, 0].abs(), maps[:, 1, 1])
    area = (maps[:, 0, 0] * maps[:, 1, 1]).abs().numpy()
    quantiles = np.linspace(0, 1, 11)
    np.testing.assert_allclose(np.quantile(area, quantiles), 0.3 + 0.7 * quantiles, atol=0.03)
    assert torch.equal(maps[:, 0, 1], torch.zeros(5000)) and torch.equal(maps[:, 1, 0], torch.zeros(5000))


@settings(deadline=None)
@given(area=st.floats(0.05, 1), side=st.integers(8, 64), seed=st.integers(0, 1000))
def test_no_crop_reads_beyond_the_picture_by_more_than_half_a_pixel(area, side, seed):
    recipe = replace(WILD, crop_padding=0.0, crop_area=area)
    maps = affine_maps(torch.arange(40), recipe, 0, generator(seed), side=side)
    for affine in maps.double().numpy():
        corners = affine @ np.array([[-1, 1, -1, 1], [-1, -1, 1, 1], [1, 1, 1, 1]])
        assert np.abs(corners).max() <= 1 + 1 / side + 1e-6


def test_flips_alternate_for_every_picture_over_many_epochs_whatever_batch_it_is_in():
    chosen = torch.randperm(500, generator=generator(0))
    shown = [flips(chosen, replace(TINY, seed=3), epoch, generator(epoch)) for epoch in range(6)]
    for before, after in itertools.pairwise(shown):
        assert torch.equal(after, ~before)
    one_by_one = torch.cat([flips(chosen[n : n + 1], replace(TINY, seed=3), 0, generator(9)) for n in range(500)])
    assert torch.equal(one_by_one, shown[0])


def test_random_flips_are_fair_and_none_are_none():
    shown = torch.stack([flips(torch.arange(400), WILD, 0, generator(n)) for n in range(50)]).double()
    assert 0.48 < shown.mean() < 0.52 and shown.mean(0).max() < 0.9 and shown.mean(0).min() > 0.1
    assert not flips(torch.arange(400), replace(TINY, flip="none"), 1, generator(0)).any()


def test_jitter_equals_a_loop_over_pictures_and_colours():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32))
    part = slice(2, 7)  # these five of a batch of nine
    ours = jittered(x.clone(), 0.4, 9, part, generator(8))
    drawn = (torch.rand(9, 5, 1, 1, generator=generator(8)) * 2 - 1).reshape(9, 5).numpy()[part]
    for picture, numbers, result in zip(x.numpy(), drawn, ours.numpy(), strict=True):
        for channel in range(3):
            light = 2 * 0.4 * numbers[1] + 0.4 * numbers[2 + channel] / 2
            expected = picture[channel] * (1 + 0.4 * numbers[0]) + light
            np.testing.assert_allclose(result[channel], expected, rtol=1e-5, atol=1e-6)


def test_no_jitter_draws_nothing_and_changes_nothing():
    draw, x = generator(1), torch.ones(2, 3, 4, 4)
    assert jittered(x, 0.0, 2, slice(0, 2), draw) is x
    assert torch.equal(torch.rand(3, generator=draw), torch.rand(3, generator=generator(1)))


def test_everything_at_once_is_drawn_by_seed_epoch_and_batch_alone():
    data = noise(20, 16)
    tensors, recipe = (torch.from_numpy(data.images), torch.from_numpy(data.labels)), replace(WILD, batch_size=7)
    recipe = replace(recipe, color_jitter=0.3, seed=4)

    def pictures(epoch, start=0, **changes):
        found = batches(*tensors, replace(recipe, **changes), size=16, epoch=epoch, start=start)
        return [batch.pictures for batch in found]

    torch.manual_seed(1)  # nothing is drawn from torch's own generator
    first = pictures(2)
    torch.manual_seed(2)
    assert all(torch.equal(one, other) for one, other in zip(first, pictures(2), strict=True))
    assert torch.equal(pictures(2, start=2)[0], first[2])
    assert not torch.equal(pictures(3)[0], first[0]) and not torch.equal(pictures(2, seed=5)[0], first[0])
