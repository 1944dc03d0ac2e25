import dataclasses

import numpy as np
import pytest
import torch

from callbacks.seg.frames import (
    display_size,
    image_in_frame,
    instances_in_frame,
    original_size,
    targets_in_frame,
)


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((300, 600), 200, (100, 200)),
        ((600, 300), 200, (200, 100)),
        ((30, 60), 200, (30, 60)),  # never enlarged
        ((1, 1000), 100, (1, 100)),
    ],
)
def test_display_size(size, limit, expected):
    assert display_size(size, limit) == expected


def test_image_loses_its_padding(stand_in):
    batch = stand_in.join([stand_in.image(0), stand_in.image(3)])
    assert original_size(batch, 1) == (48, 64)
    shown = image_in_frame(batch, 1, (24, 32))
    expected = np.full((24, 32, 3), 64)  # 0.25 * 255 = 63.75
    expected[4:12, 7:15] = expected[16:20, 20:30] = 191  # 0.75 * 255 = 191.25
    np.testing.assert_array_equal(shown, expected)


def test_enlarged_image_agrees_with_the_box_in_the_original_frame(stand_in):
    shown = image_in_frame(stand_in.image(0), 0, (48, 64))
    assert shown.shape == (48, 64, 3)
    # Halfway between 0.25 and 0.75 lies the edge: columns 8 to 24, rows 8 to 24.
    bright = shown[..., 0] > 127
    expected = np.zeros((48, 64), dtype=bool)
    expected[8:24, 8:24] = expected[32:40, 40:60] = True
    # Away from the rounded corners of bilinear interpolation the shapes are equal.
    corners = [(8, 8), (8, 23), (23, 8), (23, 23), (32, 40), (32, 59), (39, 40), (39, 59)]
    for row, column in corners:
        bright[row, column] = True
    np.testing.assert_array_equal(bright, expected)


def test_greens_of_raw_planes_are_averaged(stand_in):
    batch = stand_in.image(0)
    planes = (
        torch.tensor([0.2, 0.4, 1.0, 0.6]).view(1, 4, 1, 1).expand(1, 4, *batch.images.shape[2:])
    )
    shown = image_in_frame(dataclasses.replace(batch, images=planes), 0, (24, 32))
    assert np.unique(shown.reshape(-1, 3), axis=0).tolist() == [[51, 128, 255]]


def test_channels_stay_in_order(stand_in):
    batch = stand_in.image(0)
    images = torch.zeros_like(batch.images)
    images[0, 2, 5, 7] = 1.0
    shown = image_in_frame(dataclasses.replace(batch, images=images), 0, (24, 32))
    assert shown[5, 7].tolist() == [0, 0, 255]
    assert shown.sum() == 255


def test_targets_move_to_another_aspect_ratio(stand_in):
    batch = stand_in.join([stand_in.image(1), stand_in.image(2)])
    truth, crowd = targets_in_frame(batch, 1, (48, 96))  # rows doubled, columns tripled
    assert truth.boxes.tolist() == [[18, 8, 42, 24], [60, 32, 90, 40]]
    assert truth.labels.tolist() == [0, 1]
    assert truth.scores.tolist() == [1, 1]
    assert crowd.tolist() == [False, False]
    for mask, (x1, y1, x2, y2) in zip(
        truth.masks.decode(), truth.boxes.int().tolist(), strict=True
    ):
        expected = np.zeros((48, 96), dtype=bool)
        expected[y1:y2, x1:x2] = True
        np.testing.assert_array_equal(mask, expected)


def test_targets_on_a_coarser_grid(stand_in):
    batch = stand_in.image(0)
    coarse = batch.masks[:, 2::4, 2::4]
    strided = dataclasses.replace(batch, masks=coarse, mask_stride=4)
    truth, _ = targets_in_frame(strided, 0, (48, 64))
    dense = np.kron(coarse.numpy(), np.ones((8, 8), dtype=bool))[:, :48, :64]
    np.testing.assert_array_equal(truth.masks.decode(), dense)


def test_crowd_regions_are_told_apart(stand_in):
    batch = dataclasses.replace(stand_in.image(0), crowd=torch.tensor([False, True]))
    truth, crowd = targets_in_frame(batch, 0, (24, 32))
    assert len(truth) == 2
    assert crowd.tolist() == [False, True]


def test_image_without_instances(stand_in):
    batch = stand_in.image(0)
    empty = dataclasses.replace(
        batch,
        boxes=batch.boxes[:0],
        labels=batch.labels[:0],
        masks=batch.masks[:0],
        crowd=batch.crowd[:0],
        counts=torch.tensor([0]),
    )
    truth, crowd = targets_in_frame(empty, 0, (48, 64))
    assert len(truth) == len(truth.masks) == len(crowd) == 0
    assert truth.masks.size == (48, 64)


def test_predictions_shrink_with_their_frame(stand_in):
    small = instances_in_frame(stand_in.found(0), (24, 16))  # rows halved, columns quartered
    assert small.size == small.masks.size == (24, 16)
    assert small.boxes.tolist() == [[3, 4, 7, 12], [10, 16, 15, 20], [0, 20, 2, 24]]
    np.testing.assert_allclose(small.scores, [0.9, 0.8, 0.3])
    for mask, (x1, y1, x2, y2) in zip(
        small.masks.decode(), small.boxes.int().tolist(), strict=True
    ):
        expected = np.zeros((24, 16), dtype=bool)
        expected[y1:y2, x1:x2] = True
        np.testing.assert_array_equal(mask, expected)


def test_masks_are_read_at_pixel_centres(stand_in):
    one = stand_in.found(0).select(torch.tensor([0]))
    # 3 of 64 columns wide: centres at 10 2/3, 32 and 53 1/3; the square covers columns 12 to 28.
    assert instances_in_frame(one, (48, 3)).masks.areas().tolist() == [0]
    # 4 of 64 columns: centres at 8, 24, 40, 56.
    assert instances_in_frame(one, (48, 4)).masks.areas().tolist() == [16]


def test_predictions_in_the_same_frame_are_unchanged(stand_in):
    same = instances_in_frame(stand_in.found(0), (48, 64))
    assert same.masks.to_coco() == stand_in.found(0).masks.to_coco()
