import numpy as np
import pytest

from formats.coco.store import encode_segmentation
from formats.yolo.contours import join, trace
from structures.rle import decode, encode, from_bytes


def filled(path, size):
    """Fill one path as the COCO tools do."""
    counts = encode_segmentation([path.reshape(-1).tolist()], *size)
    return decode(from_bytes(counts), size)


def area(path):
    """Shoelace formula, positive or negative by the sense of rotation."""
    x, y = path.T
    return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2


def test_one_pixel():
    (path,) = trace(np.array([[0, 0, 0], [0, 1, 0]]))
    assert sorted(map(tuple, path.tolist())) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert abs(area(path)) == 1


def test_straight_borders_have_no_points_between_their_corners():
    (path,) = trace(np.ones((7, 9)))
    assert sorted(map(tuple, path.tolist())) == [(0, 0), (0, 7), (9, 0), (9, 7)]


def test_a_ring_has_two_borders():
    mask = np.ones((5, 5), dtype=bool)
    mask[2, 2] = False
    paths = trace(mask)
    assert sorted(abs(area(p)) for p in paths) == [1, 25]
    joined = join(paths)
    # 4 + 4 corners, the first corner of the hole once more, and the corner where the bridge starts
    assert len(joined) == 10
    assert np.array_equal(filled(joined, (5, 5)), mask)


def test_pixels_that_touch_at_a_corner():
    for mask in (np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1]):
        paths = trace(mask)
        assert sum(map(len, paths)) == 8
        assert np.array_equal(filled(join(paths), (2, 2)), mask)


def test_no_pixel_no_border():
    assert trace(np.zeros((3, 4))) == []


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_noise_comes_back_exactly(density):
    """Hundreds of parts, holes and touching corners in one path."""
    rng = np.random.default_rng(int(density * 10))
    for _ in range(5):
        mask = rng.random((31, 23)) < density
        path = join(trace(mask))
        assert np.array_equal(filled(path, mask.shape), mask)


def test_bridged_polygons_fill_what_the_parts_fill():
    parts = [
        np.array([[1.3, 1.2], [6.7, 2.1], [4.4, 7.9]]),
        np.array([[9.2, 9.9], [15.1, 8.8], [14.0, 14.6], [9.9, 13.3]]),
        np.array([[2.0, 11.0], [5.0, 11.5], [3.5, 15.0]]),
    ]
    together = encode_segmentation([p.reshape(-1).tolist() for p in parts], 16, 18)
    assert np.array_equal(filled(join(parts), (16, 18)), decode(from_bytes(together), (16, 18)))
    assert encode(filled(join(parts), (16, 18))).size > 3


def test_a_bridge_starts_at_the_nearest_corner():
    square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    far = np.array([[6.0, 5], [8, 5], [8, 8]])
    assert join([square, far]).tolist() == [
        *[[0, 0], [4, 0], [4, 4]],
        *[[6, 5], [8, 5], [8, 8], [6, 5]],
        *[[4, 4], [0, 4]],
    ]
