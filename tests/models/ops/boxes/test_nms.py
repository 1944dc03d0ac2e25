"""Suppression over the batch equals a loop over images and classes."""

import pytest
import torch
from torchvision.ops import nms

from models.ops.boxes import nms as module
from models.ops.boxes.nms import class_nms


def by_loop(boxes, scores, labels, images, iou_thresh, max_dets):
    """Return positions: torchvision's function for each image and class, then the best."""
    kept = []
    for image in sorted(set(images.tolist())):
        found = []
        for label in sorted(set(labels.tolist())):
            where = ((images == image) & (labels == label)).nonzero().flatten()
            if len(where):
                found += where[nms(boxes[where], scores[where], iou_thresh)].tolist()
        kept += sorted(found, key=lambda k: (-float(scores[k]), k))[:max_dets]
    return torch.tensor(kept, dtype=torch.int64)


def crowded(count, classes, images, extent, seed=0, grid=None):
    random = torch.Generator().manual_seed(seed)
    centre = torch.randint(0, 12, (count, 2), generator=random) * extent / 12
    centre = centre + torch.rand(count, 2, generator=random) * 12
    side = 20 + torch.rand(count, 2, generator=random) * 8
    boxes = torch.cat([centre - side / 2, centre + side / 2], dim=1).clamp(min=0)
    if grid:
        boxes = (boxes / grid).round() * grid
    return (
        boxes,
        torch.rand(count, generator=random),
        torch.randint(0, classes, (count,), generator=random),
        torch.randint(0, images, (count,), generator=random),
    )


@pytest.mark.parametrize("max_dets", [1, 7, 1000])
@pytest.mark.parametrize(
    ("classes", "images", "extent"), [(80, 16, 100), (1, 1, 60), (3, 2, 8000), (1203, 3, 1000)]
)
def test_as_a_loop(classes, images, extent, max_dets):
    inputs = crowded(3000 if classes == 80 else 900, classes, images, extent)
    found = class_nms(*inputs, iou_thresh=0.5, max_dets=max_dets)
    assert torch.equal(found, by_loop(*inputs, 0.5, max_dets))
    if classes < 80 and max_dets == 1000:
        assert len(found) < len(inputs[0])  # something was suppressed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_far_groups_in_other_precisions(dtype):
    """Boxes on a grid have IoUs of exactly the threshold, that any rounding would move."""
    boxes, scores, labels, images = crowded(2500, 80, 16, 250, grid=2)
    labels[:1200] = 79
    inputs = boxes.to(dtype), scores.to(dtype), labels, images  # 16-bit scores tie
    expected = by_loop(inputs[0].double(), inputs[1].double(), labels, images, 0.5, 300)
    assert torch.equal(class_nms(*inputs, iou_thresh=0.5, max_dets=300), expected)


def test_iou_of_exactly_the_threshold_stays_wherever_the_group_is():
    """IoU 7 / 10 in thirds of a pixel far out; float32 offsets would decide at random."""
    one = torch.tensor([1000.1, 0.3, 1010.1, 10.3])
    other = one.clone()
    other[2] = one[0] + (one[2] - one[0]) * 0.7
    for label in (0, 7, 79, 1202):
        for gap, expected in ((1e-4, 2), (-1e-4, 1)):
            boxes = torch.stack([one, other - torch.tensor([0, 0, gap, 0])])
            found = class_nms(
                boxes,
                torch.tensor([0.5, 0.4]),
                torch.full((2,), label),
                torch.full((2,), 15),
                iou_thresh=0.7,
                max_dets=9,
            )
            assert len(found) == expected


def test_more_candidates_are_looked_at_where_the_first_do_not_suffice():
    """5 copies of each of 60 boxes, the best 200 of one place: 4 x 10 looks are not enough."""
    places = torch.cat([torch.zeros(200), torch.arange(1, 21).repeat_interleave(5)]) * 50
    boxes = torch.stack([places, places, places + 30, places + 30], dim=1)
    scores = torch.linspace(0.9, 0.1, len(boxes))
    zeros = torch.zeros(len(boxes), dtype=torch.int64)
    easy = torch.ones(3, dtype=torch.int64)  # a second image that is done at once
    inputs = (
        torch.cat([boxes[[0, 200, 205]], boxes]),
        torch.cat([torch.tensor([0.2, 0.6, 0.4]), scores]),
        torch.cat([easy, zeros]),
        torch.cat([easy, zeros]),
    )
    found = class_nms(*inputs, iou_thresh=0.5, max_dets=10)
    assert torch.equal(found, by_loop(*inputs, 0.5, 10))
    assert len(found) == 10 + 3


@pytest.mark.parametrize("copies", [7, 8, 9, 31, 32, 33])
def test_the_one_after_the_last_look_is_not_forgotten(copies):
    """4 x 2 candidates are looked at first, then four times as many."""
    places = torch.tensor([0.0] * copies + [90.0])
    boxes = torch.stack([places, places, places + 30, places + 30], dim=1)
    zeros = torch.zeros(copies + 1, dtype=torch.int64)
    scores = torch.linspace(0.9, 0.1, copies + 1)
    found = class_nms(boxes, scores, zeros, zeros, iou_thresh=0.5, max_dets=2)
    assert found.tolist() == [0, copies]


def test_ties_keep_their_order_and_images_may_be_missing():
    boxes = torch.arange(6)[:, None] * 40 + torch.tensor([0, 0, 30, 30])
    images = torch.tensor([5, 2, 5, 2, 5, 5])
    zeros = torch.zeros(6, dtype=torch.int64)
    found = class_nms(
        boxes.float(), torch.full((6,), 0.5), zeros, images, iou_thresh=0.0, max_dets=3
    )
    assert found.tolist() == [1, 3, 0, 2, 4]


def test_nothing_to_choose_from():
    none = torch.zeros(0, dtype=torch.int64)
    found = class_nms(torch.zeros(0, 4), torch.zeros(0), none, none, iou_thresh=0.7, max_dets=3)
    assert found.shape == (0,)
    assert found.dtype == torch.int64


def test_too_far_apart_for_exact_arithmetic():
    boxes = torch.tensor([[0.0, 0.0, 1e6, 1.0], [0.0, 0.0, 1.0, 1.0]])
    labels = torch.tensor([0, 5000])
    with pytest.raises(ValueError, match=r"1e\+06 pixels apart of 5001 classes .* fewer images"):
        class_nms(
            boxes,
            torch.ones(2),
            labels,
            torch.zeros(2, dtype=torch.int64),
            iou_thresh=0.7,
            max_dets=3,
        )


def test_too_far_from_the_origin_for_exact_arithmetic():
    boxes = torch.tensor([[-1e10, -1e10, -1e10 + 9000, -1e10 + 9000]])
    zero = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="too many for exact arithmetic"):
        class_nms(boxes, torch.ones(1), zero, zero, iou_thresh=0.7, max_dets=3)


def test_neighbouring_groups_do_not_touch():
    boxes = torch.tensor([[90.0, 0, 100, 9], [0, 0, 10, 9], [-3, 0, 2, 9], [50.5, 0, 100, 9]])
    for labels in ([0, 1, 2, 3], [3, 2, 1, 0]):
        kept = class_nms(
            boxes,
            torch.linspace(1, 0.5, 4),
            torch.tensor(labels),
            torch.zeros(4, dtype=torch.int64),
            iou_thresh=0.0,
            max_dets=9,
        )
        assert kept.tolist() == [0, 1, 2, 3]


def test_moved_boxes_keep_every_difference(monkeypatch):
    """What is suppressed has whole steps of 2^-20 pixels and sides as in the first class."""
    given = []
    monkeypatch.setattr(module, "nms", lambda *a: given.append(a) or nms(*a))
    boxes, scores, labels, images = crowded(200, 1203, 1, 3000)
    boxes /= 700  # finer than the steps
    for classes in (labels, torch.zeros_like(labels)):
        class_nms(boxes, scores, classes, images, iou_thresh=0.5, max_dets=100)
    (far, *_), (near, *_) = given
    assert far.dtype == torch.float64
    assert torch.equal(far * 2**20, (far * 2**20).round())
    assert torch.equal(far[:, 2] - far[:, 0], near[:, 2] - near[:, 0])
    assert (near - boxes[scores.argsort(descending=True)]).abs().max() <= 2**-21


def test_calls_hold_whole_images_and_not_too_many_boxes():
    assert module._calls([3, 4, 0, 2, 12, 1], 7) == [7, 2, 12, 1]
    assert module._calls([3, 4, 2], 0) == [3, 4, 2]


@pytest.mark.parametrize(("at_once", "calls"), [(1000, 1), (400, 3), (1, 5)])
def test_what_an_accelerator_does_is_the_same_whatever_room_it_has(at_once, calls, monkeypatch):
    given = []
    monkeypatch.setattr(module, "nms", lambda *a: given.append(len(a[0])) or nms(*a))
    monkeypatch.setattr(module, "_on_host", lambda boxes: False)
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    inputs = crowded(900, 3, 5, 60)
    found = class_nms(*inputs, iou_thresh=0.5, max_dets=1000)
    assert len(given) == calls
    monkeypatch.undo()
    assert torch.equal(found, by_loop(*inputs, 0.5, 1000))
