import numpy as np
import pytest

from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.transforms.affine import (
    apply,
    draw_affine,
    is_upright,
    letterbox,
    magnification,
    mirror,
    shift,
)
from datamodules.transforms.mosaic import mosaic_layout


class Fixed:
    """Gives chosen numbers where a generator would draw them."""

    def __init__(self, *values):
        self.values = np.array(values, dtype=float)

    def uniform(self, low, high, count):
        assert (low, high, count) == (-1, 1, 9)
        return np.concatenate([self.values, np.zeros(9 - self.values.size)])


FAR = MosaicOptions(degrees=90, scale=0.5, shear=45, translate=0.1, perspective=0.0004)


@pytest.mark.parametrize(
    ("drawn", "points"),
    [
        # of the square's centre and of a point 10 px to its right, 200 px to 100 px
        ([0, 0, 0, 0], [(50, 50), (60, 50)]),
        ([0, 0, 1, 0], [(50, 50), (50, 60)]),  # 90 degrees, from x towards y
        ([0, 0, 0, 1], [(50, 50), (65, 50)]),
        ([0, 0, 0, -1], [(50, 50), (55, 50)]),
        ([0, 0, 0, 0, 1], [(50, 50), (60, 50)]),  # the x axis is not sheared along x
        ([0, 0, 0, 0, 0, 1], [(50, 50), (60, 60)]),
        ([0, 0, 0, 0, 0, 0, 1, -0.5], [(60, 45), (70, 45)]),
        ([1, 0], [(50, 50), (50 + 10 / 1.004, 50)]),
    ],
)
def test_each_change_by_hand(drawn, points):
    matrix = draw_affine(Fixed(*drawn), FAR, 200, 100)
    moved = apply(matrix, np.array([[100.0, 100.0], [110.0, 100.0]]))
    assert np.allclose(moved, points)


def test_rotation_comes_before_shear():
    matrix = draw_affine(Fixed(0, 0, 1, 0, 1), FAR, 200, 100)
    # right becomes down, which the shear of x by y moves to the right as well
    assert np.allclose(apply(matrix, np.array([[110.0, 100.0]])), [[60, 60]])


def test_perspective_comes_before_rotation():
    matrix = draw_affine(Fixed(1, 0, 1), FAR, 200, 100)
    # 10 px to the right is nearer by 0.4 %, then becomes down
    assert np.allclose(apply(matrix, np.array([[110.0, 100.0]])), [[50, 50 + 10 / 1.004]])


def test_ranges_are_kept_and_reached():
    options = MosaicOptions(degrees=30, translate=0.2, scale=0.5)
    rng = np.random.default_rng(0)
    made = [draw_affine(rng, options, 200, 100) for _ in range(400)]
    factors = [np.sqrt(np.linalg.det(m)) for m in made]
    assert 0.5 <= min(factors) < 0.52
    assert 1.48 < max(factors) <= 1.5
    angles = np.degrees([np.arctan2(m[1, 0], m[0, 0]) for m in made])
    assert -30 <= angles.min() < -29
    assert 29 < angles.max() <= 30
    centres = np.concatenate([apply(m, np.array([[100.0, 100.0]])) for m in made])
    assert np.all(centres.min(axis=0) < 31) and np.all(centres.min(axis=0) >= 30)
    assert np.all(centres.max(axis=0) > 69) and np.all(centres.max(axis=0) <= 70)


def test_mirror_and_letterbox():
    points = np.array([[0.0, 0.0], [3.0, 1.0]])
    assert apply(mirror(10, True, False), points).tolist() == [[10, 0], [7, 1]]
    assert apply(mirror(10, False, True), points).tolist() == [[0, 10], [3, 9]]
    assert apply(mirror(10, False, False), points).tolist() == points.tolist()
    corners = np.array([[0.0, 0.0], [20.0, 10.0]])  # an image 10 high and 20 wide
    assert apply(letterbox((10, 20), 40), corners).tolist() == [[0, 10], [40, 30]]
    assert apply(letterbox((10, 20), 10), corners).tolist() == [[0, 2.5], [10, 7.5]]


def test_magnification_is_that_of_small_squares():
    rng = np.random.default_rng(1)
    matrix = draw_affine(rng, FAR, 200, 100) @ shift(3, 4)
    points = rng.uniform(20, 180, (5, 2))
    small = 0.01
    for point, factor in zip(points, magnification(matrix, points), strict=True):
        corners = apply(matrix, point + small * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2)
        x, y = corners.T
        area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
        assert factor == pytest.approx(area / small**2, rel=1e-3)


def test_a_mirrored_area_is_no_negative_one():
    points = np.array([[3.0, 4.0]])
    assert magnification(mirror(9, True, False) @ np.diag([2, 3, 1]), points) == pytest.approx(6)


def test_only_scale_shift_and_mirroring_are_upright():
    assert is_upright(mirror(9, True, False) @ letterbox((3, 4), 9))
    for number in (0, 1, 2, 4, 5):
        drawn = np.zeros(9)
        drawn[number] = 0.5
        assert not is_upright(draw_affine(Fixed(*drawn), FAR, 20, 20))
    for place in ((0, 1), (1, 0), (2, 0), (2, 1)):
        matrix = np.eye(3)
        matrix[place] = 1e-6
        assert not is_upright(matrix), place


def test_four_images_touch_one_point():
    rng = np.random.default_rng(2)
    sizes = [(10, 20), (30, 15), (8, 8), (100, 200)]
    points = []
    for _ in range(200):
        layout = mosaic_layout(rng, sizes, 40)
        corners = []
        for (height, width), matrix in zip(sizes, layout, strict=True):
            (x1, y1), (x2, y2) = apply(matrix, np.array([[0.0, 0.0], [width, height]]))
            assert max(x2 - x1, y2 - y1) == pytest.approx(40)
            assert (x2 - x1) / (y2 - y1) == pytest.approx(width / height)
            corners.append((x1, y1, x2, y2))
        first, second, third, fourth = corners
        point = first[2:]
        assert np.allclose([second[0], second[3]], point)
        assert np.allclose([third[2], third[1]], point)
        assert np.allclose(fourth[:2], point)
        points.append(point)
    assert 20 <= np.min(points) < 21
    assert 59 < np.max(points) <= 60
