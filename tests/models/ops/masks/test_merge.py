"""Predictions of tiles and views that are one object, beside loops over dense masks.

Whole images are in tests/models/seg/inference/test_tiled.py and test_views.py.
"""

import numpy as np
import pytest

from models.ops.masks.merge import tile_groups, view_clusters
from structures import RLEMasks

SIZE = (20, 30)


def rectangles_at_random(rng, count):
    """Return masks (count, H, W) of which several are about the same."""
    dense = np.zeros((count, *SIZE), dtype=bool)
    corners = np.stack([rng.integers(1, SIZE[0] - 8, 6), rng.integers(1, SIZE[1] - 8, 6)], axis=1)
    for one in dense:
        y, x = rng.choice(corners) + rng.integers(-1, 2, 2)
        one[y : y + rng.integers(4, 9), x : x + rng.integers(4, 9)] = True
    return dense


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("seed", range(20))
def test_clusters_of_views_as_a_loop(seed):
    rng = np.random.default_rng(seed)
    dense = rectangles_at_random(rng, 24)
    scores = rng.integers(0, 12, 24) / 12  # some are equal
    labels, view = rng.integers(0, 2, 24), rng.integers(0, 3, 24)
    masks = RLEMasks.from_dense(dense, SIZE)
    found = view_clusters(masks, masks.boxes().astype(float), scores, labels, view, 0.3)

    leads, members, expected = [], [], np.full(24, -1)
    for one in sorted(range(24), key=lambda k: (-scores[k], k)):
        free = [
            (-iou(dense[lead], dense[one]), lead, number)
            for number, lead in enumerate(leads)
            if labels[lead] == labels[one] and view[one] not in members[number]
        ]
        joined = min(free)[2] if free and -min(free)[0] >= 0.3 else len(leads)
        if joined == len(leads):
            leads.append(one)
            members.append(set())
        members[joined].add(view[one])
        expected[one] = joined
    assert found.tolist() == expected.tolist()
    assert len(leads) < 24  # some are joined


@pytest.mark.parametrize("seed", range(20))
def test_pairs_of_two_tiles_as_a_loop(seed):
    """Two tiles that share columns 10 to 20; objects that no border cuts off but the strip's."""
    rng = np.random.default_rng(seed)
    tiles = np.array([[0, 0, 20, 20], [10, 0, 30, 20]])
    dense = rectangles_at_random(rng, 16)
    tile = np.arange(16) % 2
    dense[tile == 0, :, 20:] = False
    dense[tile == 1, :, :10] = False
    kept = dense.any(axis=(1, 2))
    dense, tile = dense[kept], tile[kept]
    scores, labels = rng.permutation(len(dense)) / len(dense), rng.integers(0, 2, len(dense))
    masks = RLEMasks.from_dense(dense, SIZE)
    found, fragment = tile_groups(masks, scores, labels, tile, tiles, 0.5)

    pairs = []
    for a in np.flatnonzero(tile == 0):
        for b in np.flatnonzero(tile == 1):
            common = (dense[a] & dense[b]).sum()
            union = (dense[a] | dense[b])[:, 10:20].sum()
            if labels[a] == labels[b] and common and common >= 0.5 * union:
                pairs.append((-min(scores[a], scores[b]), -common / union, a, b))
    expected = []
    for *_, a, b in sorted(pairs):
        if not {a, b} & {one for pair in expected for one in pair}:
            expected.append((a, b))
    whole = ~fragment  # fragments join by another rule
    together = {
        (a, b)
        for a in np.flatnonzero((tile == 0) & whole)
        for b in np.flatnonzero((tile == 1) & whole)
        if found[a] == found[b]
    }
    assert {pair for pair in expected if whole[list(pair)].all()} <= together
    for a, _ in together - set(expected):  # by way of a fragment alone
        assert fragment[found == found[a]].any()
    assert set(found) == set(range(found.max() + 1))


def test_masks_without_a_pixel_are_compared_by_their_boxes():
    masks = RLEMasks.from_dense(np.zeros((3, *SIZE), dtype=bool), SIZE)
    boxes = np.array([[2.0, 3.0, 6.0, 5.0], [3.0, 3.0, 6.0, 5.0], [12.0, 3.0, 16.0, 5.0]])
    zeros = np.zeros(3, dtype=np.int64)
    found = view_clusters(masks, boxes, np.array([0.9, 0.8, 0.7]), zeros, np.arange(3), 0.7)
    assert found.tolist() == [0, 0, 1]  # 6 of 8
    found = view_clusters(masks, boxes, np.array([0.9, 0.8, 0.7]), zeros, np.arange(3), 0.8)
    assert found.tolist() == [0, 1, 2]


def test_nothing():
    masks = RLEMasks.from_dense(np.zeros((0, *SIZE), dtype=bool), SIZE)
    none = np.zeros(0, dtype=np.int64)
    assert view_clusters(masks, np.zeros((0, 4)), np.zeros(0), none, none, 0.5).size == 0
    groups, fragment = tile_groups(masks, np.zeros(0), none, none, np.array([[0, 0, 30, 20]]), 0.5)
    assert groups.size == fragment.size == 0
