"""Bags of tiles: which tiles are witnesses, and that no tile is in both splits."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.robustness import tiles


class Region:
    """A slide of 4 x 6 tiles, each of one grey level; the last column is glass."""

    sizes = ((6 * tiles.SIDE, 4 * tiles.SIDE),)

    def __init__(self, path):
        del path

    def image(self, level, x, y, width, height):
        assert (level, x, y, width, height) == (0, 0, 0, *self.sizes[0])
        grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
        grey[:, -1] = 255
        pixels = np.kron(grey, np.ones((tiles.SIDE, tiles.SIDE), dtype=np.uint8))
        return Image.fromarray(pixels).convert("RGBA")

    def close(self):
        pass


def test_squares_of_tissue_take_turns(monkeypatch):
    monkeypatch.setattr(tiles, "OpenSlideReader", Region)
    pools = tiles.cut_tiles("slide.svs")
    levels = {split: {int(tile[0, 0, 0]) for tile in pool} for split, pool in pools.items()}
    assert levels["train"] == {0, 1, 6, 7, 4, 10, 14, 15, 20, 21}
    assert levels["test"] == {2, 3, 8, 9, 12, 13, 18, 19, 16, 22}


def test_witnesses_are_darker_and_in_positive_bags_alone():
    pool = np.full((20, tiles.SIDE, tiles.SIDE, 3), 200, dtype=np.uint8)
    bags, labels, instances = tiles.draw_bags(pool, 12, np.random.default_rng(0))
    assert labels.tolist() == [0, 1] * 6
    changed = np.stack([(bag != 200).any(axis=(1, 2, 3)) for bag in bags])
    np.testing.assert_array_equal(changed, instances.astype(bool))
    assert set(instances.sum(axis=1)[labels == 1]) <= {1, 2}
    assert not instances[labels == 0].any()
    assert max(bag.max() for bag in bags) == 200
    again, _, _ = tiles.draw_bags(pool, 12, np.random.default_rng(0))
    np.testing.assert_array_equal(np.stack(again), np.stack(bags))


def test_a_bag_has_no_tile_twice():
    pool = np.zeros((tiles.LENGTH, tiles.SIDE, tiles.SIDE, 3), dtype=np.uint8)
    pool += np.arange(tiles.LENGTH, dtype=np.uint8)[:, None, None, None]
    (bag,), _, _ = tiles.draw_bags(pool, 1, np.random.default_rng(0))
    assert sorted(bag[:, 0, 0, 0].tolist()) == list(range(tiles.LENGTH))


def test_the_slide_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="--slide"):
        tiles.tile_bags(tmp_path, None)
