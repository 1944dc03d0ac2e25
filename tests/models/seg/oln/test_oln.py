"""OLN as a model: what its scores are made of, and what it shares with Mask R-CNN."""

import dataclasses
import math

import pytest
import torch

from models.backbones.timm_fpn import TimmFPN
from models.seg.mask_rcnn import BoxHeadOptions, MaskHeadOptions
from models.seg.mask_rcnn.matching import ImageBoxes
from models.seg.mask_rcnn.roi_heads import Pyramid
from models.seg.oln import OLN, OLNProposalOptions
from models.seg.oln.proposals import paired_iou
from models.seg.protocol import SegModel, UsesClassWeights
from structures import SegBatch
from tests.support.published_weights import random_weights

BOXES = {"objectness", "rpn_box", "box", "box_score"}
TERMS = {True: BOXES | {"mask", "mask_score"}, False: BOXES}
SIZES = [(64, 96), (90, 60)]
RPN = OLNProposalOptions(anchor_sizes=(12, 24, 32, 48, 64), per_level=20, sampled=64)
BOX = BoxHeadOptions(width=32, batch_size_per_image=32, sampling_ratio=1)
MASK = MaskHeadOptions(width=16, num_convs=1)
with_and_without_masks = pytest.mark.parametrize("masks", [True, False])


def build(masks=True, rpn=RPN, norm="frozen_bn", **options):
    torch.manual_seed(0)
    backbone = TimmFPN("resnet10t", fpn_width=16, norm=norm)
    options = {"max_dets": 30, **options}
    model = OLN(
        1, backbone, rpn=rpn, box=BOX, mask=MASK if masks else None, score_hidden=24, **options
    )
    with torch.no_grad():
        for name, weight in model.backbone.body.named_parameters():
            if name.endswith("bn2.weight"):  # timm starts residual branches at zero
                weight.fill_(0.5)
        model.rpn.centerness.weight.mul_(50)
        model.rpn.distances.bias.fill_(0.5)
        model.roi_heads.box_predictor.score.weight.mul_(20)
    return model


def objects(scene, *arguments, **options):
    """Return a batch of a single class."""
    batch = scene(*arguments, **options)[0]
    return dataclasses.replace(batch, labels=torch.zeros_like(batch.labels))


@with_and_without_masks
def test_terms_do_not_depend_on_mode_and_split_by_image(scene, masks):
    model = build(masks)
    assert isinstance(model, SegModel)
    batch = objects(scene, [*SIZES, (70, 70)], instances=[3, 0, 2])
    by_image = model.train().losses(batch, reduction="none", key=5)
    assert set(by_image) == TERMS[masks]
    for position in range(3):
        alone = model.eval().losses(batch.image(position), key=5)
        for name, value in by_image.items():
            torch.testing.assert_close(value[position], alone[name], rtol=1e-4, atol=1e-6)
    for name in TERMS[masks] - {"objectness"}:
        assert by_image[name][1] == 0
    assert (by_image["box_score"][[0, 2]] > 0).all()


@with_and_without_masks
def test_gradients_reach_every_parameter(scene, masks):
    model = build(masks, norm="bn").train()
    sum(model.losses(objects(scene, SIZES)).values()).backward()
    frozen = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert frozen == []
    empty = build(masks).train()
    sum(empty.losses(objects(scene, SIZES, instances=0)).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in empty.parameters())


def test_negatives_never_move_the_scores_of_regions(scene):
    """An image without objects has regions, all background, and no gradient in box and score."""
    model = build(rpn=dataclasses.replace(RPN, fill_negatives=False)).train()
    losses = model.losses(objects(scene, SIZES, instances=0))
    assert all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert not any(p.grad.any() for p in model.parameters())
    filled = build().train()
    sum(filled.losses(objects(scene, SIZES, instances=0)).values()).backward()
    moved = {n.split(".")[0] for n, p in filled.named_parameters() if p.grad.any()}
    assert "rpn" in moved
    assert not any(p.grad.any() for p in filled.roi_heads.parameters())


def test_the_score_of_a_region_is_the_iou_of_proposal_and_object(scene, monkeypatch):
    model, batch, seen = build(), objects(scene, SIZES), {}
    heads = model.roi_heads
    localise, sampler = heads._localise, heads.sampler
    monkeypatch.setattr(heads, "_localise", lambda *a: seen.setdefault("out", localise(*a)))
    monkeypatch.setattr(heads, "sampler", lambda *a: seen.setdefault("sample", sampler(*a)))
    losses = model.losses(batch)
    sample, (logits, code) = seen["sample"], seen["out"]
    regions = len(sample.labels)
    positive = sample.labels.nonzero().flatten()
    target = paired_iou(sample.regions[positive, 1:], sample.matched)
    assert (target >= 0.5).all()
    expected = (logits[positive].sigmoid() - target).abs().sum() / regions
    torch.testing.assert_close(losses["box_score"], expected)
    wanted = heads.box_coder.encode_single(sample.matched, sample.regions[positive, 1:])
    torch.testing.assert_close(losses["box"], (code[positive] - wanted).abs().sum() / regions)


def test_losses_of_regions_by_hand():
    """With all weights 0 scores and soft masks are one half, and boxes stay where they are."""
    heads = build().roi_heads
    for weight in heads.parameters():
        torch.nn.init.zeros_(weight)
    proposals = torch.tensor([[0.0, 0, 16, 32], [0, 0, 16, 16], [40, 40, 50, 50]])
    true = ImageBoxes(
        boxes=torch.tensor([[0.0, 0, 16, 32]]),
        labels=torch.tensor([1]),
        rows=torch.tensor([0]),
        crowd=torch.zeros(0, 4),
        index=0,
    )
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, :32, :16] = True
    pyramid = Pyramid([torch.ones(1, 16, 16, 16)], 4)
    terms = heads.losses(pyramid, [proposals], [true], masks, 1, 0)
    losses = {name: float(term.total / term.count) for name, term in terms.items()}
    # Four regions, the object among them. IoU 1, 1/2, 0 and 1: |.5 - 1| + |.5 - .5| + |.5 - 1|
    assert losses["box_score"] == pytest.approx(1.0 / 4)
    # Of the second: its centre is 8 / 16 too high, times 10, and its height half, times 5.
    assert losses["box"] == pytest.approx((5 + 5 * math.log(2)) / 4)
    assert terms["mask"].count.tolist() == [3]
    assert losses["mask"] == pytest.approx(math.log(2))
    assert losses["mask_score"] == pytest.approx(0.5)  # a mask of one half covers nothing: IoU 0


def test_there_is_no_classifier():
    """The authors' class branches have weight 0, so that no gradient comes from them."""
    model = build()
    names = [name for name, _ in model.named_parameters() if not name.startswith("backbone")]
    assert not [name for name in names if "cls" in name]
    assert not isinstance(model, UsesClassWeights)
    assert model.predicts_masks
    assert not build(masks=False).predicts_masks


def test_boxes_are_localised_in_parts(scene, monkeypatch):
    model, batch = build().eval(), objects(scene, SIZES)
    whole = model.predict(batch)
    monkeypatch.setattr("models.seg.oln.heads._BOX_CHUNK", 7)
    monkeypatch.setattr("models.seg.oln.heads._MASK_CHUNK", 3)
    for one, other in zip(whole, model.predict(batch), strict=True):
        torch.testing.assert_close(one.boxes, other.boxes)
        torch.testing.assert_close(one.scores, other.scores)


def test_files_of_torchvision_give_backbone_and_layers_of_heads():
    given = random_weights("maskrcnn_v1")
    found = build().public_weights(given)
    assert "roi_heads.box_head.fc6.weight" in found.tensors
    assert build().public_weights({}) is None


def test_labels_play_no_part(scene):
    model, batch = build(), objects(scene, SIZES)
    with pytest.raises(ValueError, match="label 1, but the model has classes 0 to 0"):
        model.losses(dataclasses.replace(batch, labels=torch.ones_like(batch.labels)))
    with pytest.raises(ValueError, match="one class, the data have 3; set data.class_agnostic"):
        OLN(3, TimmFPN("resnet10t", fpn_width=16))


def test_the_final_score_is_the_root_of_all_scores(scene, monkeypatch):
    batch, boxes = objects(scene, SIZES), build(masks=False, nms_thresh=1.0, max_dets=300).eval()
    seen = {}
    heads, localise = boxes.roi_heads, boxes.roi_heads._localise
    monkeypatch.setattr(heads, "_localise", lambda *a: seen.setdefault("out", localise(*a)))
    proposals = boxes.rpn.proposals
    monkeypatch.setattr(
        boxes.rpn, "proposals", lambda *a: seen.setdefault("proposals", proposals(*a))
    )
    found = boxes.predict(batch)[0]
    first = seen["proposals"][0]
    scores = (first.centerness * seen["out"][0][: len(first.boxes)].sigmoid()).sqrt()
    torch.testing.assert_close(found.scores, scores.sort(descending=True).values[: len(found)])
    assert found.masks is None


def test_masks_make_it_a_cube_root(scene, monkeypatch):
    model, batch, seen = build(nms_thresh=1.0).eval(), objects(scene, SIZES).image(0), {}
    heads = model.roi_heads
    localise, masks = heads.localise, heads._masks
    monkeypatch.setattr(heads, "localise", lambda *a: seen.setdefault("found", localise(*a)))
    monkeypatch.setattr(heads, "_masks", lambda *a: seen.setdefault("masks", masks(*a)))
    (rooted,) = model.predict(batch)
    two, third = seen["found"][0].scores.double(), seen["masks"][1].sigmoid().double()
    expected = (two**2 * third) ** (1 / 3)
    torch.testing.assert_close(rooted.scores.double(), expected.sort(descending=True).values)
    order = expected.argsort(descending=True)
    torch.testing.assert_close(rooted.boxes, seen["found"][0].boxes[order])


def test_predictions_are_kept_up_to_the_limit_and_in_the_original_frame(scene):
    model, batch = build(nms_thresh=0.9).eval(), objects(scene, SIZES)
    doubled = dataclasses.replace(batch, original_sizes=batch.sizes * 2)
    for same, scaled, size in zip(model.predict(batch), model.predict(doubled), SIZES, strict=True):
        assert len(same) == len(same.masks) == 30
        assert same.size == size
        assert (same.scores.diff() <= 0).all()
        assert not same.labels.any()
        torch.testing.assert_close(scaled.boxes, same.boxes * 2)
    nothing = build(score_thresh=1.0).eval().predict(batch)
    assert [len(one) for one in nothing] == [0, 0]


def test_sampling_depends_on_the_key_and_the_image(scene):
    model, batch = build(), objects(scene, [(64, 64)] * 2)
    first, again = (model.losses(batch, key=3) for _ in range(2))
    other = model.losses(batch, key=4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert isinstance(batch, SegBatch)
