"""Box and mask heads: one class's mask equals that class's channel; detections by hand."""

import pytest
import torch

from models.seg.mask_rcnn import BoxHeadOptions, MaskHeadOptions, roi_heads
from models.seg.mask_rcnn.roi_heads import Detections, Pyramid, RoIHeads


def heads(**options):
    torch.manual_seed(0)
    box = BoxHeadOptions(width=8, **options)
    return RoIHeads(4, 3, box, MaskHeadOptions(width=8, num_convs=1)).eval()


def test_the_mask_of_a_class_is_its_channel():
    model = heads()
    pyramid = Pyramid([torch.randn(2, 4, 16, 16), torch.randn(2, 4, 8, 8)], 4)
    boxes = torch.tensor([[3.0, 4, 40, 30], [0, 0, 60, 60], [10, 20, 15, 50]])
    labels = torch.tensor([3, 1, 2])
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    found = [none, Detections(boxes, torch.ones(3), labels)]
    empty, soft = model.predict_masks(pyramid, found)
    rois = torch.cat([torch.ones(3, 1), boxes], dim=1)
    with torch.no_grad():
        every = model.mask_predictor(model.mask_head(model._pool(pyramid, rois, model.mask)))
    torch.testing.assert_close(soft, every[torch.arange(3), labels].sigmoid())
    assert empty.shape == (0, 28, 28)


def detect(logits, deltas, proposals, **limits):
    model = heads()
    model._classify = lambda pyramid, rois: (logits, deltas)
    limits = {"score_thresh": 0.1, "nms_thresh": 0.5, "max_dets": 10} | limits
    return model.detect(None, [proposals], [(100, 100)], **limits)[0]


def test_detections_by_hand():
    proposals = torch.tensor([[0.0, 0, 20, 20], [1, 0, 21, 20], [90, 50, 110, 70]])
    probabilities = torch.tensor(
        [[0.05, 0.6, 0.35, 0.0], [0.3, 0.7, 0.0, 0.0], [0.05, 0.0, 0.05, 0.9]]
    )
    deltas = torch.zeros(3, 4, 4)
    deltas[2, 3] = torch.tensor([0.0, 5.0, 0.0, 0.0])  # y moves by 5 / 10 of the height
    deltas[2, 1] = 99.0  # another class's code
    found = detect(probabilities.clamp(min=1e-9).log(), deltas, proposals)
    # the second proposal suppresses the first in class 1; class 2 of the first stays
    assert found.labels.tolist() == [3, 1, 2]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7, 0.35]))
    expected = torch.tensor([[90.0, 60, 100, 80], [1, 0, 21, 20], [0, 0, 20, 20]])
    torch.testing.assert_close(found.boxes, expected)
    assert len(detect(probabilities.log(), deltas, proposals, max_dets=2).scores) == 2
    assert len(detect(probabilities.log(), deltas, proposals, score_thresh=0.5).scores) == 2
    assert len(detect(probabilities.log(), deltas, proposals, nms_thresh=0.95).scores) == 4


@pytest.mark.parametrize("max_dets", [3, 40, 100_000])
def test_looking_at_the_best_candidates_alone_changes_nothing(max_dets, monkeypatch):
    """Boxes that overlap much: most are suppressed, so that more have to be looked at."""
    torch.manual_seed(4)
    corner = torch.rand(150, 2) * 30
    proposals = torch.cat([corner, corner + 25 + torch.rand(150, 2) * 10], dim=1)
    proposals[::5, 2:] = proposals[::5, :2]  # without extent
    logits, deltas = torch.randn(150, 4) * 3, torch.randn(150, 4, 4) * 0.1
    limits = {"score_thresh": 0.0, "max_dets": max_dets}
    whole = detect(logits, deltas, proposals, **limits)
    monkeypatch.setattr(roi_heads, "_FIRST_LOOK", 1)
    part = detect(logits, deltas, proposals, **limits)
    assert 0 < len(whole.scores) <= min(max_dets, 60)
    for a, b in zip(whole, part, strict=True):
        torch.testing.assert_close(a, b)


def test_no_proposals():
    nothing = detect(torch.zeros(0, 4), torch.zeros(0, 4, 4), torch.zeros(0, 4))
    assert nothing.boxes.shape == (0, 4)
