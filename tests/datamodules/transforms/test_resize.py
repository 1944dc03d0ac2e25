import numpy as np
import pytest

from datamodules.transforms.label_maps import LabelMaps
from datamodules.transforms.resize import resize_image, resize_maps, target_size
from structures import RLEMasks


@pytest.mark.parametrize(
    ("size", "short", "scale", "cap", "expected"),
    [
        ((100, 200), 50, 1.0, None, (50, 100)),
        ((200, 100), 50, 1.0, None, (100, 50)),
        ((100, 200), 50, 1.0, 80, (40, 80)),
        ((100, 200), None, 1.5, None, (150, 300)),
        ((100, 200), None, 1.0, None, (100, 200)),
        ((100, 200), None, 2.0, 300, (150, 300)),
        ((100, 200), 50, 1.0, 150, (50, 100)),  # the cap does not enlarge
        ((100, 150), 33, 1.0, None, (33, 50)),  # 49.5 is rounded up
        ((150, 100), 33, 1.0, None, (50, 33)),
        ((1, 1000), None, 0.1, None, (1, 100)),  # a side never vanishes
    ],
)
def test_target_size_by_hand(size, short, scale, cap, expected):
    assert target_size(size, short, scale, cap) == expected


def test_masks_take_the_value_at_the_centre_of_the_pixel():
    dense = np.random.default_rng(0).random((4, 13, 11)) < 0.5
    maps = LabelMaps.from_rle(RLEMasks.from_dense(dense))
    for size in ((26, 22), (7, 5), (13, 33)):
        masks = resize_maps(maps, size).targets().masks
        for y in range(size[0]):
            for x in range(size[1]):
                row = int((y + 0.5) * 13 / size[0])
                column = int((x + 0.5) * 11 / size[1])
                assert np.array_equal(masks[:, y, x], dense[:, row, column])


def test_centres_between_two_pixels_go_either_way_in_turn():
    line = np.arange(12)
    dense = np.array([[line == column] for column in line])  # instance k is column k
    maps = LabelMaps.from_rle(RLEMasks.from_dense(dense))
    halved = resize_maps(maps, (1, 6)).targets()
    # centres at 1, 3, 5, ...: between columns 0 and 1, 2 and 3, 4 and 5, ...
    assert halved.keep.tolist() == [0, 3, 4, 7, 8, 11]
    assert halved.boxes[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("factor", [0.37, 0.5, 0.9, 1.3, 2.0, 3.0])
def test_image_and_mask_stay_aligned(factor):
    height, width = 90, 120
    y, x = np.mgrid[:height, :width] + 0.5
    offsets = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        cx, cy, radius = rng.uniform(45, 75), rng.uniform(40, 50), rng.uniform(15, 30)
        disc = (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
        image = np.repeat(np.where(disc, 240, 10).astype(np.uint8)[..., None], 3, axis=2)
        size = target_size((height, width), None, factor, None)
        seen = resize_image(image, size)[..., 0].astype(float)
        maps = LabelMaps.from_rle(RLEMasks.from_dense(disc[None]))
        mask = resize_maps(maps, size).targets().masks[0]
        weight = (seen - 10) / 230  # share of the pixel that is disc
        centre = [(weight * grid).sum() / weight.sum() for grid in np.mgrid[: size[0], : size[1]]]
        offsets.append(np.array([c.mean() for c in np.nonzero(mask)]) - centre)
        area = disc.sum() * size[0] * size[1] / (height * width)
        assert mask.sum() / area == pytest.approx(1, abs=0.04)
        assert ((seen > 125) != mask).sum() < 2 * np.pi * radius * factor
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.05
    assert np.abs(offsets).max() < 0.25


def test_shrinking_averages_over_the_area():
    image = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
    expected = image.reshape(4, 3, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize_image(image, (4, 4)).astype(float) - expected).max() <= 0.5


def test_enlarging_is_bilinear_between_centres():
    image = np.array([[0, 100]], dtype=np.uint8).repeat(3).reshape(1, 2, 3)
    wide = resize_image(image, (1, 4))
    assert wide[0, :, 0].tolist() == [0, 25, 75, 100]


def test_equal_size_is_untouched():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    assert resize_image(image, (5, 6)) is image
