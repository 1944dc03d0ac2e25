"""Several queries for an object: costs, denominators, and what is suppressed in prediction."""

import dataclasses

import pytest
import torch
from torchvision import ops

from models.losses.focal import focal_cost
from models.ops.boxes.sim_ota import sim_ota
from models.seg.deformable_detr.criterion import (
    MatchCosts,
    Matches,
    Objects,
    detr_losses,
    match,
)
from models.seg.deformable_detr.one_to_many import best_of_overlapping, one_to_many
from models.seg.deformable_detr.output import Decoded
from models.seg.queries.output import QueryOutput
from tests.models.seg.deformable_detr.conftest import CLASSES, QUERIES, build_ours

COSTS = MatchCosts()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_ours(assignment="sim_ota", decoder_layers=2)


def _slow_cost(logits, box, target, targets, label):
    """Return the cost of one query and one object in plain numbers."""

    def near(other):
        apart = [abs(box[axis] - other[axis]) for axis in (0, 1)]
        inside = all(d < side / 2 for d, side in zip(apart, other[2:], strict=True))
        return inside, all(d < 2.5 / 32 for d in apart)

    corners = ops.box_convert(torch.tensor([box, target]), "cxcywh", "xyxy")
    cost = float(focal_cost(logits)[label])
    cost -= 3 * float(ops.generalized_box_iou(corners[:1], corners[1:]))
    cost += 0 if all(near(target)) else 100
    return cost + (0 if any(any(near(other)) for other in targets) else 10000)


def test_the_costs_are_those_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    counts, layers, queries = [3, 0, 1], 2, 20
    logits = torch.randn((3, layers, queries, 2), generator=generator)
    boxes = torch.rand((3, layers, queries, 4), generator=generator) * 0.4 + 0.2
    targets = torch.tensor([[0.3, 0.3, 0.3, 0.1], [0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.1, 0.1]])
    targets = torch.cat([targets, torch.tensor([[0.35, 0.35, 0.2, 0.2]])])
    labels = torch.tensor([0, 1, 0, 1])
    for top in (10, 100):
        found = one_to_many(logits, boxes, Objects(targets, labels, labels, counts), COSTS, top)
        rows, objects, images = [], [], []
        for image, first in ((0, 0), (2, 3)):
            own = slice(first, first + counts[image])
            for layer in range(layers):
                near = targets[own].tolist()
                costs = [
                    [
                        _slow_cost(score, box, target, near, label)
                        for target, label in zip(near, labels[own].tolist(), strict=True)
                    ]
                    for score, box in zip(
                        logits[image, layer], boxes[image, layer].tolist(), strict=True
                    )
                ]
                corners = [
                    ops.box_convert(part, "cxcywh", "xyxy")
                    for part in (boxes[image, layer], targets[own])
                ]
                owners = sim_ota(torch.tensor(costs), ops.box_iou(*corners), top).tolist()
                start = (image * layers + layer) * queries
                rows += [start + query for query, owner in enumerate(owners) if owner >= 0]
                objects += [first + owner for owner in owners if owner >= 0]
                images += [image] * sum(owner >= 0 for owner in owners)
        assert found.rows.tolist() == rows
        assert found.objects.tolist() == objects
        assert found.images.tolist() == images
        assert found.counts == [images.count(image) for image in range(3)]
        assert len(rows) > layers * len(targets)  # several queries an object


def _both_halves(logits, boxes, objects, costs):
    """Match the first half of the queries by ``match`` and the second half alike."""
    half = logits.shape[2] // 2
    once = match(logits[:, :, :half], boxes[:, :, :half], objects, costs)
    first = once.rows // half * 2 * half + once.rows % half
    rows = torch.cat([first, first + half])
    counts = [2 * count for count in once.counts]
    return Matches(rows, once.objects.repeat(2), once.images.repeat(2), counts)


def test_losses_are_means_over_the_pairs(network, scene):
    """Every query twice, with its object, is what every query once is."""
    batch = scene([(64, 96)], instances=[3])[0]
    decoded = network.decode(batch.images, batch.sizes)

    def losses(copies, matcher):
        parts = [decoded.queries, decoded.references, decoded.boxes]
        twice = [[part.repeat(1, copies, 1) for part in layers] for layers in parts]
        found = Decoded(*twice, decoded.mask_features, None)

        def mask_of(image, queries, points):
            return network.masks(queries[None], points[None], found, batch.sizes)[0]

        logits = network.classify(found.queries)
        return detr_losses(logits, found, mask_of, batch, COSTS, matcher=matcher)

    torch.testing.assert_close(losses(1, None), losses(2, _both_halves))


@pytest.mark.parametrize("two_stage", [False, True])
def test_losses_of_images_sum_to_those_of_the_batch(two_stage, scene):
    torch.manual_seed(0)
    network = build_ours(assignment="sim_ota", two_stage=two_stage).double()
    batch = scene([(64, 96), (64, 96)], instances=[3, 0])[0]
    batch = dataclasses.replace(batch, images=batch.images.double(), boxes=batch.boxes.double())
    each, whole = network.losses(batch, reduction="none"), network.losses(batch)
    for name in ("box", "giou", "mask", "dice"):
        torch.testing.assert_close(each[name][0], whole[name])
    sum(whole.values()).backward()
    missing = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_proposals_are_matched_one_to_one(scene):
    torch.manual_seed(0)
    network = build_ours(two_stage=True)
    batch = scene([(64, 96)], instances=[3])[0]
    decoded = network.decode(batch.images, batch.sizes)
    logits = network.classify(decoded.queries)

    def box_loss(found, matcher):
        def mask_of(image, queries, points):
            return network.masks(queries[None], points[None], found, batch.sizes)[0]

        return detr_losses(logits, found, mask_of, batch, COSTS, matcher=matcher)["box"]

    added = [
        box_loss(decoded, matcher) - box_loss(decoded._replace(proposals=None), matcher)
        for matcher in (None, one_to_many)
    ]
    torch.testing.assert_close(*added, rtol=1e-4, atol=1e-5)


def test_the_best_of_overlapping_queries_is_left():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6.9], [0, 0, 10, 8]])
    scores = torch.tensor([[0.5, 0.1], [0.9, 0.1], [0.4, 0.1], [0.1, 0.7]])  # the last: a class
    both = best_of_overlapping(scores.expand(2, 4, 2), boxes.expand(2, 4, 4))
    # IoU .8 of the first two, .69 and .86 with the third, which the second suppresses
    assert both.tolist() == [[False, True, False, True]] * 2


def test_predictions_are_those_of_all_queries_after_suppression(network, scene):
    """Masks are computed for ``max_dets`` queries; those left out must not matter."""
    batch = scene([(64, 96), (64, 96)], instances=[1, 1])[0]
    with torch.no_grad():  # queries that differ, four of which resemble others
        network.query_embed.weight.normal_()
        network.query_embed.weight[8:] = network.query_embed.weight[:4] + 0.01
        for head in [*network.class_heads, *(box.layers[-1] for box in network.box_heads)]:
            head.weight.normal_(0, 0.2)
        network.mask_head.controller.layers[-1].bias[-1] = 1e4  # masks without an empty one
        found = network(batch.images, batch.sizes)
    left = best_of_overlapping(
        found.class_logits[-1],
        ops.box_convert(found.boxes[-1] * torch.tensor([96, 64, 96, 64]), "cxcywh", "xyxy"),
    )
    assert 2 < left.sum(dim=1).min() <= left.sum(dim=1).max() < QUERIES
    whole = QueryOutput([found.class_logits[-1]], found.mask_logits, [found.boxes[-1]])
    every = network.instances(whole, batch)
    assert [len(one) for one in every] == (CLASSES * left.sum(dim=1)).tolist()
    for network.max_dets in (3, QUERIES):
        for few, whole in zip(network.predict(batch), every, strict=True):
            number = min(network.max_dets, len(whole))
            torch.testing.assert_close(few.scores, whole.scores[:number])
            torch.testing.assert_close(few.boxes, whole.boxes[:number])
