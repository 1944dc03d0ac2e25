"""Ground truth split by image; matches by hand; crowds are ignored."""

import dataclasses

import pytest
import torch
from torchvision.models.detection._utils import Matcher

from models.seg.mask_rcnn.matching import ImageBoxes, image_boxes, match_regions


def truth(boxes, labels, crowd=()):
    return ImageBoxes(
        boxes=torch.tensor(boxes).float().reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        rows=torch.arange(len(labels)),
        crowd=torch.tensor(crowd).float().reshape(-1, 4),
        index=0,
    )


REGIONS = torch.tensor(
    [
        [0.0, 0, 10, 10],  # the first instance
        [0, 0, 10, 16],  # IoU 10 / 16 with it: above both thresholds
        [0, 0, 10, 20],  # IoU 0.5: between the thresholds
        [0, 0, 10, 40],  # IoU 0.25: background
        [50, 50, 60, 60],  # background, inside the crowd
        [50, 50, 60, 90],  # background, a quarter of it inside the crowd
        [80, 0, 90, 10],  # the second instance
    ]
)


def test_labels_by_hand():
    both = truth([[0, 0, 10, 10], [80, 0, 90, 10]], [3, 1], [[45, 45, 70, 60]])
    labels, matched = match_regions(REGIONS, both, Matcher(0.6, 0.4), 0.5)
    assert labels.tolist() == [3, 3, -1, 0, -1, 0, 1]
    assert matched[[0, 1, 6]].tolist() == [0, 0, 1]
    assert match_regions(REGIONS, both, Matcher(0.6, 0.4), 0.2)[0].tolist()[5] == -1


def test_a_crowd_overlap_of_exactly_the_threshold_is_ignored():
    """A quarter of the sixth region lies in the crowd."""
    crowd, matcher = truth([], [], [[45, 45, 70, 60]]), Matcher(0.6, 0.4)
    for threshold, label in ((0.25, -1), (0.25 + 1e-6, 0), (0.25 - 1e-6, -1)):
        assert match_regions(REGIONS, crowd, matcher, threshold)[0][5] == label


def test_low_quality_match_keeps_an_instance_from_going_unmatched():
    small = truth([[0, 0, 10, 3]], [2])
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    labels, _ = match_regions(REGIONS[1:], small, matcher, 0.7)
    assert labels.tolist() == [2, 0, 0, 0, 0, 0]


def test_a_crowd_never_takes_a_positive_away():
    inside = truth([[0, 0, 10, 10]], [1], [[0, 0, 100, 100]])
    labels, _ = match_regions(REGIONS, inside, Matcher(0.6, 0.4), 0.5)
    assert labels.tolist() == [1, 1, -1, -1, -1, -1, -1]


def test_only_crowds_nothing_at_all_and_no_regions():
    crowd = truth([], [], [[45, 45, 70, 60]])
    labels, matched = match_regions(REGIONS, crowd, Matcher(0.6, 0.4), 0.5)
    assert labels.tolist() == [0, 0, 0, 0, -1, 0, 0]
    assert matched.tolist() == [0] * 7
    assert match_regions(REGIONS, truth([], []), Matcher(0.6, 0.4), 0.5)[0].tolist() == [0] * 7
    nothing = match_regions(torch.zeros(0, 4), truth([[0, 0, 1, 1]], [1]), Matcher(0.6, 0.4), 0.5)
    assert nothing[0].shape == (0,)


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param([2, 1, 3], id="boxes fewer than counts"),
        pytest.param([2, 0, 2], id="boxes more than counts"),
    ],
)
def test_counts_that_do_not_sum_to_the_boxes_are_refused(scene, counts):
    batch, _, _ = scene([(64, 64)] * 3, instances=[2, 0, 3])
    wrong = dataclasses.replace(batch, counts=torch.tensor(counts))
    with pytest.raises(ValueError, match=f"sums to {sum(counts)} but there are 5 boxes"):
        image_boxes(wrong, 3)


def test_image_boxes(scene):
    batch, _, _ = scene([(64, 64)] * 3, instances=[2, 0, 3])
    crowd = torch.tensor([False, True, False, False, True])
    first, second, third = image_boxes(dataclasses.replace(batch, crowd=crowd), 3)
    assert torch.equal(first.boxes, batch.boxes[:1])
    assert torch.equal(first.crowd, batch.boxes[1:2])
    assert second.boxes.shape == second.crowd.shape == (0, 4)
    assert third.rows.tolist() == [2, 3]
    assert torch.equal(third.labels, batch.labels[2:4] + 1)
    assert [part.index for part in (first, second, third)] == [7, 8, 9]


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ([5.0, 5, 5, 20], r"\[5\.0, 5\.0, 5\.0, 20\.0\]"),
        ([9, 5, 5, 20], "box"),
        ([1, float("nan"), 5, 20], "nan"),
        ([1, 1, float("inf"), 20], "inf"),
    ],
)
def test_a_box_that_is_no_box_is_named(scene, box, shown):
    batch, _, _ = scene([(64, 64)] * 2, instances=[2, 3])
    boxes = batch.boxes.clone()
    boxes[3] = torch.tensor(box)
    with pytest.raises(ValueError, match=f"image 101 has an empty or non-finite box .*{shown}"):
        image_boxes(dataclasses.replace(batch, boxes=boxes), 3)
    with pytest.raises(ValueError, match="image of index 8 has"):
        image_boxes(dataclasses.replace(batch, boxes=boxes, image_ids=()), 3)


def test_a_label_outside_the_classes_is_named(scene):
    batch, _, _ = scene([(64, 64)] * 2, instances=[2, 3])
    labels = torch.tensor([0, 2, 1, 0, 3])
    with pytest.raises(ValueError, match=r"image 101 has label 3, but .* classes 0 to 2"):
        image_boxes(dataclasses.replace(batch, labels=labels), 3)
