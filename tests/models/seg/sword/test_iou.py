"""Targets and losses of SWORD's IoU heads."""

import pytest
import torch
import torch.nn.functional as F

from models.seg.deformable_detr.criterion import Matched, MatchedMasks, Matches, Objects
from models.seg.sword.iou import IoUHeads, box_ious, mask_ious

BATCH, LAYERS, QUERIES, WIDTH = 2, 3, 4, 32


def found(rows, objects, boxes=None):
    """Return matched queries of two images with three objects, two of them in the first."""
    torch.manual_seed(0)
    sides = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.2, 0.2], [0.7, 0.6, 0.2, 0.4]])
    rows, objects = torch.tensor(rows, dtype=torch.int64), torch.tensor(objects, dtype=torch.int64)
    images = rows // (LAYERS * QUERIES)
    counts = [int((images == image).sum()) for image in range(BATCH)]
    shape = (BATCH, LAYERS, QUERIES)
    masks = [
        MatchedMasks(torch.zeros(count, 9), torch.zeros(count, 9, dtype=torch.bool), torch.ones(9))
        for count in counts
    ]
    return Matched(
        torch.randn(*shape, WIDTH, requires_grad=True),
        torch.randn(*shape, 1),
        torch.rand(*shape, 4, requires_grad=True) if boxes is None else boxes,
        Objects(sides, torch.zeros(3, dtype=torch.int64), torch.arange(3), [2, 1]),
        Matches(rows, objects, images, counts),
        masks,
    )


def test_box_ious_by_hand():
    """The exact box, one shifted by half its width (1/3), a quarter of it (1/4), and one apart."""
    boxes = torch.zeros(BATCH, LAYERS, QUERIES, 4)
    flat = boxes.view(-1, 4)
    flat[0] = torch.tensor([0.5, 0.5, 0.4, 0.4])
    flat[1] = torch.tensor([0.7, 0.5, 0.4, 0.4])
    flat[5] = torch.tensor([0.2, 0.2, 0.1, 0.1])
    flat[12] = torch.tensor([0.1, 0.1, 0.1, 0.1])
    targets = box_ious(found([0, 1, 5, 12, 13], [0, 0, 1, 2, 2], boxes))
    expected = torch.tensor([1, 1 / 3, 1 / 4, 0, 0])  # the last has no extent
    torch.testing.assert_close(targets, expected, rtol=1e-5, atol=1e-6)


def test_mask_ious_by_hand():
    logits = torch.tensor([[5.0, 0.1, -1, -1], [-1, -1, -1, -1], [1, 1, 1, 1]])
    truth = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    masks = [MatchedMasks(logits, truth, torch.ones(4)), MatchedMasks(logits[:0], truth[:0], None)]
    targets = mask_ious(found([0, 1, 5], [0, 0, 1])._replace(masks=masks))
    assert targets.tolist() == pytest.approx([1 / 3, 0, 1])


def test_the_loss_is_the_mean_over_the_pairs_of_each_layer():
    torch.manual_seed(1)
    heads = IoUHeads(WIDTH, LAYERS)
    # image 0: queries 0 and 3 of layer 0, query 1 of layer 2; image 1: query 2 of layer 0
    rows = [0, 3, 9, 14]
    given = found(rows, [0, 1, 0, 2])
    terms = heads.terms(given)["iou_box"]
    queries, targets = given.queries.flatten(0, 2), box_ious(given)
    layers = [0, 0, 2, 0]
    each = [
        F.binary_cross_entropy_with_logits(heads.box[layer](queries[row])[0], target)
        for row, layer, target in zip(rows, layers, targets, strict=True)
    ]
    assert [term.count.tolist() for term in terms] == [[2, 1], [0, 0], [1, 0]]
    expected = [[each[0] + each[1], each[3]], [0, 0], [each[2], 0]]
    for term, values in zip(terms, expected, strict=True):
        torch.testing.assert_close(term.total, torch.tensor([float(v) for v in values]))
    sum(term.total.sum() for term in terms).backward()
    assert given.boxes.grad is None  # the target has no gradient
    seen = given.queries.grad.flatten(0, 2).abs().sum(dim=1) > 0
    assert seen.nonzero().flatten().tolist() == rows  # unmatched queries have no loss
    assert all(p.grad is not None for p in heads.box.parameters())


def test_without_pairs_the_loss_is_zero_with_a_graph():
    heads = IoUHeads(WIDTH, LAYERS)
    terms = heads.terms(found([], []))
    total = sum(term.total.sum() for layers in terms.values() for term in layers)
    assert total == 0
    total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in heads.parameters())
