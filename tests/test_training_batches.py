"""Augmentation against slow, obvious versions of itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_kit import TINY, noise

from pupila.training.loop.batches import affine_maps, batch_count, batches, flips, generator, warped
from pupila.training.loop.resnet import enlarged, normalised

PICTURES = torch.from_numpy(noise(12).images)
IDENTITY = torch.eye(2, 3).expand(12, 2, 3)
STILL = replace(TINY, crop_padding=0.0, crop_area=1.0, flip="none")


def first_labels(found):
    return found[0].labels.tolist()


def epoch(recipe, number, count=50, start=0, size=32):
    data = noise(count)
    tensors = torch.from_numpy(data.images), torch.arange(count)
    return list(batches(*tensors, recipe, size=size, epoch=number, start=start))


@pytest.mark.parametrize("size", [32, 48, 64])
def test_identity_map_is_what_the_network_sees_when_it_serves(size):
    assert torch.allclose(warped(PICTURES, IDENTITY, size), enlarged(PICTURES, size), atol=1e-5)


def test_no_augmentation_leaves_pictures_as_they_are():
    maps = affine_maps(torch.arange(12), STILL, 0, generator(1), side=32)
    assert torch.allclose(warped(PICTURES, maps, 32), normalised(PICTURES), atol=1e-5)


def test_shift_equals_cropping_a_picture_padded_by_reflection():
    recipe = replace(STILL, crop_padding=0.125)
    maps = affine_maps(torch.arange(12), recipe, 0, generator(1), side=32)
    ours = warped(PICTURES, maps, 32)
    for picture, row, result in zip(normalised(PICTURES), maps, ours, strict=True):
        right, down = (row[:, 2] * 16).round().int().tolist()
        padded = np.pad(picture.numpy(), ((0, 0), (4, 4), (4, 4)), mode="symmetric")
        slow = padded[:, 4 + down : 36 + down, 4 + right : 36 + right]
        assert np.allclose(result.numpy(), slow, atol=1e-4)


def test_shifts_reach_the_padding_and_not_beyond():
    shifts = affine_maps(torch.arange(2000), replace(STILL, crop_padding=0.125), 0, generator(3), side=32)[:, :, 2] * 16
    assert shifts.min() == -4 and shifts.max() == 4


def test_random_resized_crop_stays_inside_and_keeps_its_area():
    maps = affine_maps(torch.arange(2000), replace(STILL, crop_area=0.64), 0, generator(3), side=32)
    zoom = maps[:, 0, 0]
    assert zoom.min() >= 0.8 and zoom.max() <= 1
    assert (maps[:, :, 2].abs().amax(1) + zoom).max() <= 1 + 1 / 16  # up to half a pixel, from whole-pixel shifts


def test_flip_mirrors_left_and_right():
    maps = IDENTITY.clone()
    maps[:, 0, 0] = -1
    assert torch.allclose(warped(PICTURES, maps, 32), normalised(PICTURES).flip(3), atol=1e-5)


def test_alternating_flip_shows_both_views_in_two_epochs():
    chosen = torch.arange(1000)
    first, second = (flips(chosen, TINY, epoch, generator(0)) for epoch in (0, 1))
    assert torch.equal(first, ~second)
    assert 400 < first.sum() < 600


def test_each_epoch_shows_every_picture_once():
    for number in (0, 1):
        labels = torch.cat([batch.labels for batch in epoch(TINY, number)])
        assert sorted(labels.tolist()) == list(range(50))


def test_epochs_differ_in_order():
    assert first_labels(epoch(TINY, 0)) != first_labels(epoch(TINY, 1))


def test_epoch_taken_up_in_the_middle_goes_on_as_it_would_have():
    lit = replace(TINY, color_jitter=0.3)
    for ours, theirs in zip(epoch(lit, 1, start=2), epoch(lit, 1)[2:], strict=True):
        assert torch.equal(ours.pictures, theirs.pictures) and torch.equal(ours.labels, theirs.labels)


def test_batches_are_alike_in_size_and_at_most_what_was_asked():
    assert [len(batch.pictures) for batch in epoch(TINY, 0, count=33)] == [11, 11, 11]
    assert batch_count(900, 32) == 29  # of 31 or 32, none of the 4 that 28 full ones would leave


def test_no_picture_is_alone():
    assert [len(batch.pictures) for batch in epoch(replace(TINY, batch_size=2), 0, count=5)] == [2, 3]


def test_fewer_pictures_than_a_batch_make_one_batch():
    assert [len(batch.pictures) for batch in epoch(TINY, 0, count=3)] == [3]


def test_jitter_changes_contrast_brightness_and_colours_of_each_picture_by_no_more_than_asked():
    still, lit = (torch.cat([b.pictures for b in epoch(replace(STILL, color_jitter=j), 0, 500)]) for j in (0, 0.2))
    contrast = lit.std((2, 3)) / still.std((2, 3))  # [500, 3]
    assert torch.allclose(contrast, contrast[:, :1].expand(-1, 3), atol=1e-3)  # all of a picture's colours alike
    assert 0.8 - 1e-3 < contrast.min() < 0.82 and 1.18 < contrast.max() < 1.2 + 1e-3
    shift = lit.mean((2, 3)) - still.mean((2, 3)) * contrast
    assert shift.abs().max() <= 0.4 + 0.1 + 1e-3
    assert shift.mean(1).abs().max() > 0.35  # brightness
    assert (shift.amax(1) - shift.amin(1)).max() > 0.12  # and a tint
