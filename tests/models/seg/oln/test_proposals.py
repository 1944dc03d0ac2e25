"""Centerness, distances and samples of OLN's proposals by hand-computed values."""

import math

import pytest
import torch

from models.seg.mask_rcnn.matching import ImageBoxes
from models.seg.oln.proposals import (
    LocalisationProposals,
    OLNProposalOptions,
    boxes_at_distances,
    centerness,
    distances_to_sides,
    paired_iou,
)

BOX = torch.tensor([[10.0, 20.0, 50.0, 60.0]])


def square(x, y, side=10.0):
    return torch.tensor([[x - side / 2, y - side / 2, x + side / 2, y + side / 2]])


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (30, 40, 1.0),  # the centre
        (20, 40, math.sqrt(10 / 30)),
        (20, 30, 10 / 30),
        (49, 21, 1 / 39),
        (10, 40, 0.0),  # on the border
        (5, 40, 0.0),  # outside
        (5, 15, 0.0),  # outside of two sides, whose distances are both negative
        (60, 70, 0.0),
    ],
)
def test_centerness(x, y, expected):
    found = centerness(square(x, y), BOX)
    torch.testing.assert_close(found, torch.tensor([expected]), rtol=1e-5, atol=1e-6)


def test_distances_are_multiples_of_the_anchor():
    anchor = torch.tensor([[20.0, 20.0, 40.0, 60.0]])  # centre (30, 40), 20 x 40
    sides = distances_to_sides(anchor, BOX)
    torch.testing.assert_close(sides, torch.tensor([[20 / 40, 20 / 40, 20 / 20, 20 / 20]]))
    torch.testing.assert_close(boxes_at_distances(anchor, sides), BOX)
    moved = distances_to_sides(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), BOX)  # centre (2, 2)
    torch.testing.assert_close(moved, torch.tensor([[-4.5, 14.5, -2.0, 12.0]]))


def test_iou_of_pairs():
    other = torch.tensor([[30.0, 20, 70, 60], [10, 20, 50, 60], [60, 60, 70, 70], [50, 60, 10, 20]])
    found = paired_iou(BOX.expand(4, 4), other)
    torch.testing.assert_close(found, torch.tensor([800 / 2400, 1.0, 0.0, 0.0]))


def network(**options):
    torch.manual_seed(0)
    return LocalisationProposals(4, OLNProposalOptions(anchor_sizes=(16, 32), **options))


def truth(boxes, crowd=()):
    boxes = torch.tensor(boxes, dtype=torch.float).view(-1, 4)
    count = len(boxes)
    return ImageBoxes(
        boxes=boxes,
        labels=torch.ones(count, dtype=torch.int64),
        rows=torch.arange(count),
        crowd=torch.tensor(crowd, dtype=torch.float).view(-1, 4),
        index=3,
    )


def features():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(1, 4, side, side, generator=generator) for side in (16, 8)]


def run(module, *truths, key=0):
    levels = [level.expand(len(truths), -1, -1, -1) for level in features()]
    images = torch.zeros(len(truths), 3, 128, 128)
    output = module(images, levels)
    sizes = [(128, 128)] * len(truths)
    return output, module.losses(levels, output.anchors, truths, sizes, key)


def test_losses_are_those_of_the_whole_map_at_the_sampled_anchors():
    module, one = network(), truth([[30, 30, 62, 62], [70, 80, 90, 100]])
    output, losses = run(module, one)
    sample = module._sample(output.anchors, one, (128, 128), 0)
    box = boxes_at_distances(output.anchors[sample.box], output.distances[0, sample.box])
    expected = (1 - paired_iou(box, sample.boxes)).sum()
    torch.testing.assert_close(losses["rpn_box"].total[0], expected)
    scores = output.logits[0, sample.centre].sigmoid()
    torch.testing.assert_close(losses["objectness"].total[0], (scores - sample.targets).abs().sum())
    for term in losses.values():  # the anchors of the box loss, of which some reach outside
        assert term.count.tolist() == [sample.sampled] < [256]


@pytest.mark.parametrize(("fill", "centre"), [(False, 2.5), (True, 16.0)])
def test_losses_by_hand(fill, centre):
    """Anchors of 32 px every 16 px; the object is one of them, whose centre is (48, 48).

    36 of the 64 anchors are inside 128 x 128: centres 16 to 96. Four neighbours have IoU 1/3 and
    their centres on the border of the object, so centerness 0; four have IoU 1/7; 27 have less.
    """
    module = LocalisationProposals(4, OLNProposalOptions(anchor_sizes=(32,), fill_negatives=fill))
    for weight in module.parameters():
        torch.nn.init.zeros_(weight)  # every score is one half
    module.distances.bias.data.fill_(0.25)  # every box has half the side of its anchor: IoU 1/4
    levels = [torch.ones(1, 4, 8, 8)]
    output = module(torch.zeros(1, 3, 128, 128), levels)
    object_box = truth([[32, 32, 64, 64]])
    losses = module.losses(levels, output.anchors, [object_box], [(128, 128)], 0)
    # Examples of the box: the anchor itself, and those below IoU .3 that only divide.
    assert losses["rpn_box"].count.tolist() == losses["objectness"].count.tolist() == [1 + 31]
    torch.testing.assert_close(losses["rpn_box"].total, torch.tensor([0.75]))
    # |.5 - 1| of the anchor, |.5 - 0| of four neighbours and of 27 that fill the examples.
    torch.testing.assert_close(losses["objectness"].total, torch.tensor([centre]))


def test_the_best_anchor_of_an_object_learns_its_box_from_iou_3_on():
    module = LocalisationProposals(4, OLNProposalOptions(anchor_sizes=(32,)))
    anchors = module(torch.zeros(1, 3, 128, 128), [torch.zeros(1, 4, 8, 8)]).anchors

    def learnt(*box, size=(128, 128)):
        sample = module._sample(anchors, truth([list(box)]), size, 0)
        return anchors[sample.box].tolist()

    assert learnt(40, 32, 56, 64) == [[32, 32, 64, 64]]  # IoU 1/2
    assert learnt(44, 44, 52, 52) == []  # IoU 1/16 with the best
    # The best anchor begins at (-16, -16), outside; of those inside (0, 0) is the best.
    assert learnt(0, 0, 24, 24) == [[0, 0, 32, 32]]
    # An anchor that ends with the image counts as outside: the best inside has IoU 1/3.
    assert learnt(32, 32, 64, 64, size=(64, 128)) == [[32, 16, 64, 48]]


def test_negatives_move_the_centerness_only_where_they_fill():
    """Without an object nothing is learnt, unless background fills the examples."""
    gradients = {}
    for fill in (True, False):
        module = network(fill_negatives=fill)
        _, losses = run(module, truth([]))
        sum(term.total.sum() for term in losses.values()).backward()
        gradients[fill] = bool(module.centerness.weight.grad.any())
        assert not module.distances.weight.grad.any()
    assert gradients == {True: True, False: False}


def test_examples_of_centerness():
    one = truth([[32, 32, 64, 64]])
    for fill in (True, False):
        module = network(fill_negatives=fill)
        output = module(torch.zeros(1, 3, 128, 128), features())
        sample = module._sample(output.anchors, one, (128, 128), 0)
        every = one.boxes.expand(len(sample.centre), 4)
        ious = paired_iou(output.anchors[sample.centre], every)
        learnt = ious >= 0.3
        assert (ious[~learnt] < 0.1).all()
        inside = ((output.anchors >= 0) & (output.anchors < 128)).all(dim=1)
        near = paired_iou(output.anchors, one.boxes.expand(len(output.anchors), 4)) >= 0.3
        assert int(learnt.sum()) == int((inside & near).sum())
        assert (len(sample.centre) > int(learnt.sum())) == fill
        expected = centerness(output.anchors[sample.centre], every)
        torch.testing.assert_close(sample.targets, torch.where(learnt, expected, 0.0))


def test_only_anchors_from_iou_3_on_have_a_centerness():
    """Also where an object has no such anchor: the best of it has an IoU of 1/16."""
    for fill, filled in ((True, 35), (False, 0)):
        options = OLNProposalOptions(anchor_sizes=(32,), fill_negatives=fill)
        module = LocalisationProposals(4, options)
        anchors = module(torch.zeros(1, 3, 128, 128), [torch.zeros(1, 4, 8, 8)]).anchors
        sample = module._sample(anchors, truth([[44, 44, 52, 52]]), (128, 128), 0)
        assert not sample.targets.any()
        assert len(sample.centre) == filled + fill  # 36 inside, all below IoU .1


def test_anchors_beyond_the_image_are_left_out():
    module = network()
    output = module(torch.zeros(1, 3, 128, 128), features())
    sample = module._sample(output.anchors, truth([[0, 0, 20, 20]]), (40, 128), 0)
    chosen = output.anchors[torch.cat([sample.box, sample.centre])]
    assert (chosen[:, :2] >= 0).all()
    assert (chosen[:, 3] < 40).all()
    small = module._sample(output.anchors, truth([[0, 0, 8, 8]]), (10, 10), 0)
    assert small.sampled == len(small.centre) == 0


def test_crowds_are_no_background():
    module = network()
    output = module(torch.zeros(1, 3, 128, 128), features())
    crowded = module._sample(output.anchors, truth([], [[0, 0, 128, 128]]), (128, 128), 0)
    assert crowded.sampled == len(crowded.centre) == 0


def test_proposals_are_the_best_of_each_level_without_suppression():
    module = network(per_level=5)
    module.distances.bias.data.fill_(0.5)  # every box is its anchor
    output = module(torch.zeros(1, 3, 128, 128), features())
    (found,) = module.proposals(output, [(128, 128)])
    assert len(found.boxes) == 10
    for level, start in ((0, 0), (1, 256)):
        part = output.logits[0, start : start + (256, 64)[level]]
        best = found.centerness[5 * level : 5 * level + 5]
        torch.testing.assert_close(best, part.sigmoid().topk(5).values)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= 128).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_sizes": ()}, "anchor_sizes must be positive"),
        ({"sampled": 0}, "must be at least 1"),
        ({"box_iou": 0.2}, "background_iou <= box_iou"),
        ({"centre_background_iou": 0.5}, "centre_background_iou <= centre_iou"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        OLNProposalOptions(**options)


def test_every_level_needs_a_size():
    with pytest.raises(ValueError, match="one size for each of the 1 levels"):
        network()(torch.zeros(1, 3, 128, 128), features()[:1])
