"""Joining of patches, against the union by counting points and against rings drawn by hand."""

import numpy as np
import pytest

from evaluation.wsi.regions import join_patches
from formats.slides.geojson import inside


def corners(text, step=10):
    """Return the corners of the cells marked with x in rows of text."""
    rows = text.split()
    return np.array(
        [(c * step, r * step) for r, row in enumerate(rows) for c, x in enumerate(row) if x == "x"]
    )


def area(ring):
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def test_a_block_is_one_ring_of_its_four_corners():
    (region,) = join_patches(corners("xxx xxx"), 10)
    (ring,) = region.polygon
    assert sorted(map(tuple, ring.tolist())) == [(0, 0), (0, 20), (30, 0), (30, 20)]
    assert region.patches.tolist() == [0, 1, 2, 3, 4, 5]


def test_corners_do_not_join():
    found = join_patches(corners("x. .x"), 10)
    assert [region.patches.tolist() for region in found] == [[0], [1]]
    assert [len(region.polygon[0]) for region in found] == [4, 4]


def test_a_hole_is_a_ring_of_its_own():
    (region,) = join_patches(corners("xxx x.x xxx"), 10)
    outline, hole = region.polygon
    assert (area(outline), area(hole)) == (900, -100)


@pytest.mark.parametrize(
    ("text", "areas"),
    [
        ("xxxx x.xx xx.x xxxx", [1600, -100, -100]),  # two holes that meet in a corner
        ("xxx. x.x. xx.. xxxx", [1200, -100]),  # a hole that meets the outside in a corner
        ("xxxxx x...x x.x.x x...x xxxxx", [2500, -900]),  # an island in the hole is another region
    ],
)
def test_rings_neither_cross_nor_touch_themselves(text, areas):
    region = join_patches(corners(text), 10)[0]
    assert sorted(map(area, region.polygon), reverse=True) == sorted(areas, reverse=True)
    for ring in region.polygon:
        assert len(np.unique(ring, axis=0)) == len(ring)


@pytest.mark.parametrize("step", [10.0, 453.3, 224.6, 4.0])
@pytest.mark.parametrize("overlap", [1.0, 0.5])
def test_the_union_of_patches_at_rounded_places(step, overlap):
    rng, corner = np.random.default_rng(int(step)), np.array([1000, 50])
    cells = np.argwhere(rng.random((25, 25)) < 0.55)
    coords = np.rint(cells * step * overlap).astype(int) + corner
    found = join_patches(coords, step)
    assert sorted(n for region in found for n in region.patches) == list(range(len(coords)))
    points = rng.uniform(-step, 26 * step, (4000, 2)) + corner
    away = points[:, None] - coords  # not within two pixels of an edge, which rounding moves
    near = np.minimum(np.abs(away), np.abs(away - step)).min(axis=(1, 2)) < min(2, step / 4)
    truth = ((away >= 0) & (away < step)).all(axis=2).any(axis=1)
    got = inside([region.polygon for region in found], points)
    np.testing.assert_array_equal(got[~near], truth[~near])
    total = sum(area(ring) for region in found for ring in region.polygon)
    if overlap == 1:
        assert total == pytest.approx(len(coords) * step**2, rel=0.01 if step > 9 else 1e-9)


def test_regions_far_apart_need_no_memory_between_them():
    coords = np.random.default_rng(0).integers(0, 10**7, (20_000, 2))
    assert len(join_patches(coords, 100)) > 19_000


def test_nothing_and_nonsense():
    assert join_patches(np.zeros((0, 2)), 10) == []
    with pytest.raises(ValueError, match="positive"):
        join_patches(np.zeros((1, 2)), 0)
