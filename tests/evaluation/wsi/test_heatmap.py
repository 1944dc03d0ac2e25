"""Maps lie where the slide is bright, whatever the thumbnail, the resolution and the bounds."""

import numpy as np
import pytest

from evaluation.wsi.heatmap import Place, place_patches, ranks

SQUARE = 700  # pixels of level 0


def brightness(coords, side, square):
    """Return the share of each patch that a bright square covers."""
    low = np.maximum(coords, square)
    high = np.minimum(coords + side, np.asarray(square) + SQUARE)
    return np.maximum(high - low, 0).prod(axis=1) / side**2


@pytest.mark.parametrize("size", [1024, 500, 73])
@pytest.mark.parametrize("mpp", [0.5, 0.2527])
@pytest.mark.parametrize("stride", [1.0, 0.5])
@pytest.mark.parametrize("origin", [(0, 0), (4321, 987)])
def test_the_peak_lies_on_a_bright_square(size, mpp, stride, origin):
    side = 0.5 / mpp * 224
    extent = np.array([8_000, 5_600])
    axes = [np.rint(np.arange(n / (side * stride)) * side * stride) for n in extent]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2) + origin
    downsample = extent.max() / size
    place = Place(tuple(np.round(extent[::-1] / downsample).astype(int)), downsample, origin)
    for corner in ([3000, 2000], [6777, 4345], [0, 4900]):
        square = np.array(corner) + origin
        found = place_patches(brightness(grid, side, square), grid, side, place).values
        peak = np.argwhere(found >= found.max() - 1e-9)[:, ::-1] + 0.5
        places = peak * downsample + origin
        # Every pixel of the peak lies on the square, up to half a patch (and half a pixel).
        slack = side / 2 + downsample / 2
        assert (places >= square - slack).all()
        assert (places <= square + SQUARE + slack).all()
        assert (abs(places.mean(axis=0) - (square + SQUARE / 2)) <= slack).all()


def test_pixels_at_the_border_of_a_patch_by_hand():
    # The patch covers 1.5 to 3.5 pixels across and 0.25 to 2.25 down.
    found = place_patches(np.array([6.0]), np.array([[15, 2.5]]), 20, Place((3, 5), 10))
    across, down = np.array([0, 0.5, 1, 0.5, 0]), np.array([0.75, 1, 0.25])
    np.testing.assert_allclose(found.cover, np.outer(down, across), atol=1e-12)
    np.testing.assert_allclose(found.values, 6.0 * (np.outer(down, across) > 0), atol=1e-12)


def test_overlaps_are_averaged_and_weighted_by_their_shares():
    coords = np.array([[0, 0], [10, 0]])
    found = place_patches(np.array([1.0, 4.0]), coords, 20, Place((2, 3), 10))
    np.testing.assert_allclose(found.values, [[1, 2.5, 4]] * 2)
    np.testing.assert_allclose(found.cover, np.ones((2, 3)))
    half = place_patches(np.array([1.0, 4.0]), np.array([[0, 0], [5, 0]]), 5, Place((1, 1), 10))
    np.testing.assert_allclose(half.values, [[2.5]])
    np.testing.assert_allclose(half.cover, [[0.5]])


def test_patches_beyond_the_map_are_cut():
    coords = np.array([[-10, -10], [25, 25], [500, 500]])
    found = place_patches(np.array([1.0, 2.0, 3.0]), coords, 20, Place((3, 3), 10))
    assert found.values[0, 0] == 1
    assert found.values[2, 2] == 2
    assert found.values.max() == 2


def test_many_patches_are_placed_in_parts():
    rng = np.random.default_rng(0)
    coords, scores = rng.integers(0, 3000, (3000, 2)), rng.random(3000)
    found = place_patches(scores, coords, 400, Place((340, 340), 10))
    again = place_patches(scores[::-1], coords[::-1], 400, Place((340, 340), 10))
    np.testing.assert_allclose(found.values, again.values, atol=1e-9)


def test_ranks():
    np.testing.assert_allclose(ranks(np.array([5.0, 5, 5])), 0.5)
    assert ranks(np.array([7.0])).tolist() == [0.5]
    assert ranks(np.array([0.0, 9, 3])).tolist() == [0, 1, 0.5]


def test_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\), \(2, 2\)"):
        place_patches(np.zeros(3), np.zeros((2, 2)), 10, Place((5, 5), 2))
