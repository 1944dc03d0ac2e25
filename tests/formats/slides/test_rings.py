"""Masks as polygons, and back."""

import numpy as np
import pytest

from formats.slides.geojson import inside
from formats.slides.rings import fill_polygons, mask_polygons


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_mask_comes_back(share):
    mask = np.random.default_rng(0).random((40, 55)) < share
    polygons = mask_polygons(mask)
    np.testing.assert_array_equal(fill_polygons(polygons, mask.shape), mask)
    for polygon in polygons:
        for ring in polygon:
            assert len(np.unique(ring, axis=0)) == len(ring)


def test_no_pixel_has_no_polygon():
    assert mask_polygons(np.zeros((3, 4), bool)) == []
    assert not fill_polygons([], (3, 4)).any()


def test_pixels_count_by_their_centres():
    rng = np.random.default_rng(1)
    star = np.stack([20 + 24 * rng.random(9), 15 + 20 * rng.random(9)], axis=1)
    beyond = np.array([[-9.0, -9], [12, -5], [70, 60], [-5, 20]])
    hole = np.array([[5.2, 5.1], [9.9, 5.5], [7.5, 12.25]])
    polygons = [[star], [beyond, hole]]
    rows, columns = np.mgrid[:40, :50] + 0.5
    points = np.stack([columns.ravel(), rows.ravel()], axis=1)
    expected = inside(polygons, points).reshape(40, 50)
    np.testing.assert_array_equal(fill_polygons(polygons, (40, 50)), expected)
