import numpy as np
import pytest

from datamodules.transforms.label_maps import LabelMaps
from datamodules.transforms.resize import resize_image, resize_maps
from datamodules.transforms.scale_jitter import ScaleJitter, jitter
from structures import RLEMasks


def windows(options, size, count=400):
    rng = np.random.default_rng(0)
    return [options.draw(rng, size) for _ in range(count)]


def test_the_longer_side_has_the_drawn_factor_of_the_square():
    drawn = windows(ScaleJitter(64, (0.5, 2.0)), (30, 40))
    longer = np.array([window.size[1] for window in drawn])
    assert longer.min() in range(32, 35) and longer.max() in range(125, 129)
    assert abs(longer.mean() - 64 * 1.25) < 3  # factors are uniform
    assert all(abs(w.size[0] - 0.75 * w.size[1]) <= 1 for w in drawn)


def test_windows_reach_every_border_and_stay_inside():
    drawn = windows(ScaleJitter(64, (2.0, 2.0)), (40, 40))
    assert {(w.top, w.left) for w in drawn if w.size != (128, 128)} == set()
    for starts in ([w.top for w in drawn], [w.left for w in drawn]):
        assert min(starts) == 0 and max(starts) == 64
    small = windows(ScaleJitter(64, (0.1, 0.9)), (40, 40), 20)
    assert {(w.top, w.left) for w in small} == {(0, 0)}


def test_image_and_masks_are_the_window_of_the_resized_ones():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 44, 3), dtype=np.uint8)
    masks = rng.integers(0, 2, (3, 30, 44)).astype(bool)
    maps = LabelMaps.from_rle(RLEMasks.from_dense(masks))
    for seed in range(5):
        window = ScaleJitter(32, (0.5, 3.0)).draw(np.random.default_rng(seed), (30, 44))
        part, some = jitter(image, maps, window)
        whole = resize_maps(maps, window.size).targets(1).masks[:, window.rows, window.columns]
        expected = resize_image(image, window.size)[window.rows, window.columns]
        assert np.array_equal(part, expected) and part.flags.c_contiguous
        assert max(part.shape[:2]) <= 32
        assert np.array_equal(some.targets(1).masks, whole)


@pytest.mark.parametrize(
    "arguments", [{"size": 100}, {"size": 0}, {"scale": (0.0, 1.0)}, {"scale": (2.0, 1.0)}]
)
def test_values_out_of_range(arguments):
    with pytest.raises(ValueError, match=f"scale_jitter.{next(iter(arguments))}"):
        ScaleJitter(**arguments)
