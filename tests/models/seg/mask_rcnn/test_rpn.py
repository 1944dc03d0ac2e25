"""Proposals and their losses, by hand."""

import math

import torch

from models.seg.mask_rcnn import RPNOptions
from models.seg.mask_rcnn.matching import ImageBoxes
from models.seg.mask_rcnn.rpn import RegionProposalNetwork, RPNOutput


def network(**options):
    return RegionProposalNetwork(4, RPNOptions(anchor_sizes=(16, 32), **options))


def test_outputs_lie_in_the_order_of_the_anchors():
    """One logit per anchor is raised on the map; the anchor at its place must be the right one."""
    rpn = network(anchor_ratios=(1.0, 4.0))
    with torch.no_grad():
        for layer in (rpn.head.conv[0][0], rpn.head.cls_logits, rpn.head.bbox_pred):
            layer.weight.zero_()
            layer.bias.zero_()
        rpn.head.conv[0][0].weight[0, 0, 1, 1] = 1.0
        rpn.head.cls_logits.weight[1, 0] = 1.0  # anchors of ratio 4
        rpn.head.bbox_pred.weight[4:8, 0, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    features = [torch.zeros(2, 4, 8, 6), torch.zeros(2, 4, 4, 3)]
    features[0][1, 0, 5, 2] = 7.0
    out = rpn(torch.zeros(2, 3, 64, 48), features)
    assert out.level_sizes == [8 * 6 * 2, 4 * 3 * 2]
    assert out.objectness[0].eq(0).all()
    (place,) = out.objectness[1].nonzero()[:, 0].tolist()
    assert out.objectness[1, place] == 7
    assert out.deltas[1, place].tolist() == [7, 14, 21, 28]
    # column 2, row 5 at stride 8; size 16, height : width = 4 : 1
    assert out.anchors[place].tolist() == [16 - 4, 40 - 16, 16 + 4, 40 + 16]


def output(objectness, anchors, level_sizes, deltas=None):
    objectness, anchors = torch.tensor([objectness]), torch.tensor(anchors).float()
    deltas = torch.zeros(1, len(anchors), 4) if deltas is None else torch.tensor([deltas])
    return RPNOutput(objectness, deltas, anchors, level_sizes)


ANCHORS = [[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 70, 50], [0, 0, 10, 9], [60, 0, 80, 30]]


def test_proposals_by_hand():
    out = output([1.0, 3.0, 2.0, 5.0, 4.0], ANCHORS, [3, 2])

    def boxes(size=(100, 100), losses=True, **limits):
        return network(**limits).proposals(out, [size], for_losses=losses)[0].tolist()

    order = [3, 4, 1, 2, 0]  # by score; suppression keeps to a level, so 3 leaves 0 alone
    assert boxes() == [ANCHORS[k] for k in order]
    assert boxes(pre_nms_train=2) == [ANCHORS[k] for k in (3, 4, 1, 2)]
    assert boxes(pre_nms_train=2, losses=False) == [ANCHORS[k] for k in order]
    assert boxes(post_nms_test=2, losses=False) == [ANCHORS[k] for k in order[:2]]
    # height 45, width 55: one box cut, one outside and gone
    assert boxes((45, 55)) == [ANCHORS[3], ANCHORS[1], [40, 40, 55, 45], ANCHORS[0]]


def test_suppression_within_a_level():
    out = output([1.0, 3.0, 2.0, 5.0, 4.0], ANCHORS, [5])
    kept = network(nms_thresh=0.85).proposals(out, [(100, 100)], for_losses=True)[0]
    assert kept.tolist() == [ANCHORS[k] for k in (3, 4, 1, 2)]  # IoU of 0 and 3 is 0.9
    kept = network(nms_thresh=0.95).proposals(out, [(100, 100)], for_losses=True)[0]
    assert len(kept) == 5


def test_losses_by_hand(monkeypatch):
    logits, deltas = torch.tensor([1.0, 3.0, 2.0, -5.0, 4.0]), torch.zeros(len(ANCHORS), 4)
    deltas[1] = torch.tensor([0.5, 0.0, 0.1, 0.0])
    monkeypatch.setattr(
        "models.seg.mask_rcnn.rpn.head_at_anchors",
        lambda head, features, image, anchor: (logits[anchor], deltas[anchor]),
    )
    # the instance is anchor 1 moved by 1 px to the right: dx = 0.1, IoU 9 / 11
    truth = ImageBoxes(
        boxes=torch.tensor([[21.0, 20, 31, 30]]),
        labels=torch.tensor([2]),
        rows=torch.tensor([0]),
        crowd=torch.zeros(0, 4),
        index=0,
    )
    terms = network().losses([], torch.tensor(ANCHORS).float(), [truth], key=0)
    softplus = [math.log1p(math.exp(x)) for x in (1.0, -3.0, 2.0, -5.0, 4.0)]
    torch.testing.assert_close(terms["objectness"].total, torch.tensor([sum(softplus)]))
    assert terms["objectness"].count.tolist() == terms["rpn_box"].count.tolist() == [5]
    # errors 0.4 and 0.1 with beta 1 / 9: 0.4 - 1 / 18, and 0.1 ** 2 * 9 / 2
    expected = 0.4 - 1 / 18 + 0.045
    torch.testing.assert_close(terms["rpn_box"].total, torch.tensor([expected]))
