"""Padding of images: which cells are valid, and what a network receives."""

import dataclasses

import pytest
import torch

from models.seg.queries.padding import check_images, normalise, prepare, valid_cells

MEAN, STD = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)


def test_a_cell_is_valid_if_its_centre_is_in_the_image():
    valid = valid_cells(torch.tensor([[64, 40], [17, 64], [1, 16]]), (64, 64), (2, 2))
    assert valid[0].tolist() == [[True, False], [True, False]]  # centres at 16 and 48
    assert valid[1].tolist() == [[True, True], [False, False]]
    assert valid[2].tolist() == [[True, False], [False, False]]  # never without a cell


@pytest.mark.parametrize("level", [(24, 20), (6, 5), (3, 3), (1, 1)])
def test_without_padding_all_cells_are_valid(level):
    assert bool(valid_cells(torch.tensor([[96, 80]]), (96, 80), level).all())


def test_padding_is_zero_after_normalisation(scene):
    batch, *_ = scene([(40, 60), (50, 33)], instances=1)
    images, sizes = prepare(batch, MEAN, STD)
    assert images.shape == (2, 3, 64, 64)
    assert torch.equal(sizes, batch.sizes)
    for image, given, (h, w) in zip(images, batch.images, sizes.tolist(), strict=True):
        torch.testing.assert_close(image[:, :h, :w], given[:, :h, :w] * 4 - 2)
        assert not image[:, h:].any()
        assert not image[:, :, w:].any()
    assert torch.equal(normalise(batch.images, None, MEAN, STD), (batch.images - MEAN) / STD)


def test_the_images_of_a_batch_stay_what_they_are(scene):
    batch, *_ = scene([(64, 64)], instances=1)
    before = dataclasses.replace(batch, images=batch.images.clone())
    prepare(batch, MEAN, STD)
    assert torch.equal(batch.images, before.images)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 32, 32), r"images must be \(B, 3, H, W\), got \(1, 4, 32, 32\)"),
        ((1, 3, 40, 32), r"multiples of 32, got 40 x 32; .* to 64 x 32"),
        ((1, 3, 0, 32), r"multiples of 32, got 0 x 32; .* to 32 x 32"),
    ],
)
def test_images_of_other_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        check_images(torch.zeros(shape), 3)
    check_images(torch.zeros(1, 4, 32, 64), 4)
