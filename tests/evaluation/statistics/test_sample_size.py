"""Numbers of bags of each class, and the reasons to withhold intervals."""

import numpy as np

from evaluation.mil.collector import BagScores
from evaluation.statistics.sample_size import (
    class_members,
    too_few_bags,
    too_few_images,
    units_per_class,
)


def scores(labels, classes=1):
    labels = np.array(labels)
    shape = (len(labels),) if classes == 1 else (len(labels), classes)
    names = tuple(f"bag {n}" for n in range(len(labels)))
    return BagScores(names, np.arange(len(labels)), labels, np.full(shape, 0.5))


def test_bags_of_a_class_are_counted_or_their_patients():
    labels = np.array([1, 0, 1, 0])
    assert class_members(labels, "binary", 2).tolist() == [[False, True], [True, False]] * 2
    assert units_per_class(scores(labels), "binary") == {"class 0": 2, "class 1": 2}
    found = units_per_class(scores(labels), "binary", (), ("p", "q", "p", "r"))
    assert found == {"class 0": 2, "class 1": 1}
    found = units_per_class(scores([2, 0, 2], classes=3), "multiclass", ("x", "y", "z"))
    assert found == {"class x": 1, "class z": 2}
    found = units_per_class(scores([[1, 0], [1, 1], [1, 0]], classes=2), "multilabel", ("x", "y"))
    assert found == {"class x": 3, "class y": 1, "the rest of class y": 2}


def test_ten_bags_of_each_class_and_twenty_images_are_enough():
    assert too_few_bags(scores([0] * 10 + [1] * 10), "binary") == ""
    found = too_few_bags(scores([0] * 30 + [1] * 9), "binary")
    assert found.startswith("class 1 has 9 bags: intervals and p-values are withheld, because with")
    found = too_few_bags(scores([0] * 20 + [1] * 20), "binary", (), ["p"] * 20 + ["q"] * 20)
    assert found.startswith("class 0 has 1 patient: ")
    assert "fewer than 10 patients of each class" in found
    assert too_few_images(20) == ""
    assert "has 19 images: " in too_few_images(19)
    assert "has 1 image: " in too_few_images(1)
