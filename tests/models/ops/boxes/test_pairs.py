"""Pairs of overlapping boxes against a comparison of all with all."""

import numpy as np
import pytest

from models.ops.boxes.pairs import overlapping_pairs


def all_pairs(boxes, labels):
    return [
        [i, j]
        for i in range(len(boxes))
        for j in range(i + 1, len(boxes))
        if labels[i] == labels[j]
        and (np.minimum(boxes[i, 2:], boxes[j, 2:]) > np.maximum(boxes[i, :2], boxes[j, :2])).all()
        and (boxes[[i, j], 2:] > boxes[[i, j], :2]).all()
    ]


@pytest.mark.parametrize("seed", range(12))
def test_as_all_with_all(seed):
    random = np.random.default_rng(seed)
    count = [60, 0, 1, 40][seed % 4]
    sides = random.choice([0, 0.3, 1, 2, 4, 5, 16, 33, 64, 100], (count, 2))
    low = random.integers(-20, 120, (count, 2)) / random.choice([1, 3])
    boxes = np.concatenate((low, low + sides), axis=1)
    labels = random.integers(0, 3, count)
    assert overlapping_pairs(boxes, labels).tolist() == all_pairs(boxes, labels)


def test_touching_boxes_do_not_overlap_and_equal_ones_do():
    boxes = np.array([[0, 0, 8, 8], [8, 0, 16, 8], [8, 0, 16, 8], [8, 7, 9, 9]], dtype=float)
    assert overlapping_pairs(boxes, np.zeros(4, int)).tolist() == [[1, 2], [1, 3], [2, 3]]


def test_cells_are_compared_and_not_all_boxes(monkeypatch):
    """A row of a thousand boxes of which neighbours overlap: a few candidates a box."""
    low = np.stack([np.arange(1000) * 10.0, np.zeros(1000)], axis=1)
    boxes = np.concatenate((low, low + 12), axis=1)
    seen = []
    import models.ops.boxes.pairs as module

    joined = module._joined

    def counted(*arguments):
        found = joined(*arguments)
        seen.append(len(found[0]))
        return found

    monkeypatch.setattr(module, "_joined", counted)
    assert len(overlapping_pairs(boxes, np.zeros(1000, int))) == 999
    assert sum(seen) < 10_000


def test_specks_far_apart_are_found():
    """Cells have at least a pixel: numbers of smaller ones would not fit into 64 bits."""
    random = np.random.default_rng(0)
    low = random.uniform(0, 1e5, (40, 2)).repeat(2, axis=0)
    boxes = np.concatenate((low, low + 1e-9), axis=1)
    labels = random.integers(0, 3, 40).repeat(2)
    assert overlapping_pairs(boxes, labels).tolist() == all_pairs(boxes, labels)
    assert len(all_pairs(boxes, labels)) == 40
