"""SWORD: switches, gradients, queue, scores, what is refused."""

import dataclasses

import pytest
import torch

from models.backbones.timm_features import TimmFeatures
from models.seg.deformable_detr import DeformableDETR
from models.seg.protocol import TimedSegModel, UpdatesAfterStep
from models.seg.sword import SWORD
from models.seg.sword.contrast import contrast_term
from models.seg.sword.object_contrast import ObjectContrast

SMALL = {
    "num_queries": 12,
    "width": 64,
    "num_heads": 4,
    "ffn": 64,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "dropout": 0.0,
}
OFF = {"stop_gradient": False, "iou_heads": False, "contrast": False, "assignment": "hungarian"}
DETR_TERMS = ["class", "box", "giou", "mask", "dice"]
TERMS = [*DETR_TERMS, "iou_box", "iou_mask", "contrast"]


def build(**options):
    torch.manual_seed(0)
    given = {**SMALL, "queue_size": 16, **options}
    return SWORD(1, TimmFeatures("resnet10t", "frozen_bn"), **given)


@pytest.fixture(scope="module")
def batch(scene):
    found = scene([(64, 96), (60, 70), (64, 64)], instances=[3, 0, 1])[0]
    return dataclasses.replace(found, labels=torch.zeros_like(found.labels))


def with_gradient(model, term):
    """Return the parts of the network that a term reaches."""
    model.zero_grad()
    term.backward(retain_graph=True)
    return {
        n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }


def filled(model, batch):
    """Return a model with objects in its queue and queries near objects."""
    model.losses(batch)
    model.update_after_step()
    return model


def test_without_its_switches_it_is_deformable_detr(batch):
    torch.manual_seed(0)
    plain = DeformableDETR(1, TimmFeatures("resnet10t", "frozen_bn"), **SMALL)
    model = build(**OFF)
    ours, theirs = model.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    found, expected = model.losses(batch), plain.losses(batch)
    assert list(found) == DETR_TERMS
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for one, other in zip(model.eval().predict(batch), plain.eval().predict(batch), strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.boxes, other.boxes)


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({}, set()),
        ({"stop_gradient": False}, set()),
        ({"iou_heads": False}, {"iou_box", "iou_mask"}),
        ({"contrast": False}, {"contrast"}),
        ({"assignment": "hungarian"}, set()),
        ({"negatives": "outside"}, set()),
        ({"negatives": "outside", "iou_heads": False}, {"iou_box", "iou_mask"}),
        ({"form": "sum"}, set()),
        ({"two_stage": True}, set()),
        ({"box_refine": False}, set()),
    ],
)
def test_every_switch_works_alone(options, gone, batch):
    model = filled(build(**options), batch)
    assert isinstance(model, TimedSegModel)
    assert isinstance(model, UpdatesAfterStep)
    terms = model.losses(batch)
    assert list(terms) == [name for name in TERMS if name not in gone]
    sum(terms.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    parts = {n.split(".")[0] for n, _ in model.named_parameters()}
    assert ("iou_heads" in parts) == ("iou_box" in terms)
    assert ("contrast" in parts) == ("contrast" in terms)
    each = model.losses(batch, reduction="none")
    for position in range(len(batch)):
        alone = model.losses(batch.image(position), key=0)
        for name, value in alone.items():
            torch.testing.assert_close(each[name][position], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("two_stage", [False, True])
def test_the_class_term_alone_stays_in_the_class_heads(two_stage, batch):
    options = {"two_stage": two_stage, "negatives": "outside"}
    model = build(**options)
    for head in model.box_heads:  # they begin with zeros
        torch.nn.init.normal_(head.layers[-1].weight, std=0.1)
    terms = filled(model, batch).losses(batch)
    assert terms["contrast"] > 0
    reached = {name: with_gradient(model, terms[name]) for name in terms}
    assert reached.pop("class") == {"class_heads"}
    assert all({"backbone", "encoder", "decoder"} <= parts for parts in reached.values())
    assert {name for name, parts in reached.items() if "class_heads" in parts} == set()
    free = build(**options, stop_gradient=False)
    assert {"backbone", "encoder", "decoder"} <= with_gradient(free, free.losses(batch)["class"])


def test_losses_read_the_queue_and_training_fills_it_in_the_order_of_the_images(batch):
    model = build()
    terms = model.losses(batch)
    assert terms["contrast"] == 0
    assert terms["contrast"].requires_grad
    assert len(model.queue) == 0
    kept = model.contrast._seen[0]
    model.update_after_step()
    assert len(model.queue) == len(kept) >= 4  # each object has a query
    torch.testing.assert_close(model.queue.rows[: len(kept)], kept)
    with torch.no_grad():
        model.losses(batch)  # validation
    before = model.queue.rows.clone()
    model.update_after_step()
    assert torch.equal(model.queue.rows, before)
    # two batches of a step, the later images first
    other = build()
    other.losses(batch.image(2))
    other.losses(batch.image(0))
    other.update_after_step()
    torch.testing.assert_close(other.queue.rows, model.queue.rows)


def test_what_is_kept_is_no_more_than_the_queue_holds(batch):
    model, whole = build(queue_size=3), build()
    for one in (model, whole):
        one.losses(batch)
        one.losses(batch.image(0))
    assert len(model.contrast._seen[0]) == 3
    for one in (model, whole):
        one.update_after_step()
    rows = whole.queue.rows[: len(whole.queue)][-3:]
    assert sorted(map(tuple, model.queue.rows.tolist())) == sorted(map(tuple, rows.tolist()))


def test_positives_and_negatives_are_those_of_the_rules(batch, monkeypatch):
    """Positives are the queries with an object; those outside are all other, at most ten each."""
    seen = []

    def note(embeddings, centre, *rest):
        seen[:] = [embeddings, *rest[:2]]
        return contrast_term(embeddings, centre, *rest)

    monkeypatch.setattr("models.seg.sword.object_contrast.contrast_term", note)
    for options in ({}, {"assignment": "hungarian"}, {"negatives": "outside", "iou_heads": False}):
        build(num_queries=40, **options).losses(batch)
        embeddings, owners, negative = seen
        torch.testing.assert_close(embeddings.norm(dim=2), torch.ones(3, 40))
        assert [set(own.tolist()) - {-1} for own in owners] == [{0, 1, 2}, set(), {3}]
        assert not bool((negative & (owners >= 0)).any())
        if "negatives" in options:
            positives = (owners >= 0).sum(dim=1)
            assert torch.equal(negative.sum(dim=1), torch.minimum(10 * positives, 40 - positives))


def test_the_ring_is_what_more_ious_would_assign(batch, monkeypatch):
    """Twelve boxes equal to an object: ten learn it, two are the ring; others are neither."""
    model = build(num_queries=14, decoder_layers=1, contrast=False)
    contrast = ObjectContrast(64, 16, "ring", "mean", 0.1)
    seen = []

    def more(found):
        box = found.objects.boxes[3]
        boxes = torch.zeros_like(found.boxes)
        boxes[2, 0, :12] = box
        seen.append(contrast.term(found._replace(boxes=boxes), None, batch.index, 0))
        return {}

    def note(embeddings, centre, owners, negative, *rest):
        seen.extend([owners, negative])
        return contrast_term(embeddings, centre, owners, negative, *rest)

    monkeypatch.setattr("models.seg.sword.object_contrast.contrast_term", note)
    model.matched_losses(batch, more=more)
    owners, negative, _ = seen
    assert int((owners[2] == 3).sum()) == 10
    assert int(negative[2].sum()) == 2
    assert not bool((negative[2, 12:] | (owners[2, 12:] >= 0)).any())


def test_queries_that_may_be_objects_are_no_negatives(batch):
    """The IoU head says that all are, or that none is."""
    for bias, some in ((9.0, False), (-9.0, True)):
        model = filled(build(negatives="outside"), batch)
        with torch.no_grad():
            model.iou_heads.box[-1].layers[-1].weight.zero_()
            model.iou_heads.box[-1].layers[-1].bias.fill_(bias)
        assert bool(model.losses(batch)["contrast"] > 0) == some


def test_scores_of_predictions(batch):
    """Scores are those of the formula, and change the order of the predictions."""
    model = build(max_dets=5, assignment="hungarian").eval()
    with torch.no_grad():
        for number, head in enumerate([*model.iou_heads.box, *model.iou_heads.mask]):
            torch.nn.init.normal_(head.layers[-1].weight, std=1 + number)
        model.mask_head.controller.layers[-1].bias[-1] = 50  # no mask is empty
    outputs = model(batch.images, batch.sizes)
    queries = outputs.decoded.queries[-1]
    p = outputs.class_logits[-1].sigmoid()
    u, v = (heads[-1](queries).sigmoid() for heads in (model.iou_heads.box, model.iou_heads.mask))
    formulas = {
        "cls": p,
        "iou": u,
        "product": p * u,
        "geometric": (p * u).sqrt(),
        "cube_root": (p * u * v) ** (1 / 3),
    }
    for score, expected in formulas.items():
        model.score = score
        for found, values in zip(model.predict(batch), expected, strict=True):
            torch.testing.assert_close(found.scores, values.flatten().topk(5).values)


def test_the_score_is_what_the_heads_allow():
    assert build().score == "geometric"
    assert build(iou_heads=False).score == "cls"
    assert build(score="cube_root").score == "cube_root"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": -0.1}, "temperature must be positive, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"queue_size": 0}, "queue_size must be at least 1, got 0"),
        ({"object_iou": 1.5}, r"object_iou must be in \[0, 1\], got 1.5"),
        ({"negatives": "far"}, "negatives must be one of ring, outside, got 'far'"),
        ({"form": "max"}, "form must be one of mean, sum"),
        ({"score": "mask"}, "score must be one of cls, iou, product"),
        ({"score": "product", "iou_heads": False}, "score: product needs iou_heads: true"),
        ({"assignment": "ota"}, "assignment must be one of hungarian, sim_ota"),
    ],
)
def test_wrong_arguments_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        build(**options)
