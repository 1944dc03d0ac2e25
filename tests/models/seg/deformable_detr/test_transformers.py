"""Equality with transformers' Deformable DETR of the same weights."""

import pytest
import torch

from formats.weights.files import load_weights
from models.backbones.timm_features import TimmFeatures
from models.seg.deformable_detr import DeformableDETR
from models.seg.deformable_detr.criterion import (
    MatchCosts,
    class_and_box_losses,
    find_objects,
    match,
    pair_costs,
)
from models.seg.queries.targets import image_objects
from tests.models.seg.deformable_detr.conftest import build_ours, build_theirs, our_options

# Valid height and width at whose borders the top left pixel of a cell, which transformers looks at,
# and its centre, which we look at, agree on every level (A560).
PADDED = (64, 96)


def copied(variant, resnet="timm", **options):
    theirs = build_theirs(variant, resnet)
    ours = build_ours(**our_options(variant), **options)
    found = ours.public_weights(theirs.state_dict()).tensors
    missing = ours.load_state_dict(found, strict=False)
    assert not missing.unexpected_keys
    assert {name.partition(".")[0] for name in missing.missing_keys} == {"mask_head"}
    return ours, theirs


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_every_layer_equals_transformers(variant, padded):
    ours, theirs = copied(variant, image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 1.0, 1.0))
    torch.manual_seed(0)
    images = torch.rand(2, 3, 128, 160)
    sizes = torch.tensor([(128, 160), PADDED if padded else (128, 160)])
    mask = torch.zeros(2, 128, 160, dtype=torch.int64)
    for one, (height, width) in zip(mask, sizes.tolist(), strict=True):
        one[:height, :width] = 1
    with torch.no_grad():
        found = ours(images, sizes if padded else None)
        expected = theirs(images * mask[:, None], pixel_mask=mask, labels=targets(2))
    layers = [*expected.auxiliary_outputs, {"logits": expected.logits}]
    layers[-1]["pred_boxes"] = expected.pred_boxes
    assert len(layers) == len(found.class_logits) == len(found.boxes)
    part = (sizes.flip(1) / torch.tensor([160, 128])).repeat(1, 2)[:, None]  # (B, 1, 4)
    for layer, logits, boxes in zip(layers, found.class_logits, found.boxes, strict=True):
        torch.testing.assert_close(logits, layer["logits"], rtol=0, atol=1e-4)
        torch.testing.assert_close(boxes, layer["pred_boxes"] * part, rtol=0, atol=1e-4)
        assert logits.std(dim=1).min() > 0.02  # not all queries are the same
        assert boxes.std(dim=1).min() > 0.01
        assert (logits[0] - logits[1]).abs().max() > 0.02  # nor are the images


def targets(images):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "class_labels": torch.randint(0, 5, (3 * image,), generator=generator),
            "boxes": torch.rand(3 * image, 4, generator=generator) * 0.4 + 0.1,
        }
        for image in range(images)
    ]


def test_matching_and_losses_equal_transformers(scene):
    hf = pytest.importorskip("transformers.loss.loss_deformable_detr")
    batch = scene([(64, 96), (128, 160), (96, 96)], instances=[3, 5, 0])[0]
    torch.manual_seed(2)
    logits, boxes = torch.randn(3, 1, 12, 4), torch.rand(3, 1, 12, 4)
    objects = find_objects(batch, image_objects(batch, 3))
    parts = zip(*(v.split([3, 5, 0]) for v in (objects.labels, objects.boxes)), strict=True)
    labels = [{"class_labels": label, "boxes": box} for label, box in parts]
    outputs = {"logits": logits[:, 0], "pred_boxes": boxes[:, 0]}
    matcher = hf.DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
    expected = matcher(outputs, labels)
    found = match(logits, boxes, objects, MatchCosts())
    assert found.counts == [3, 5, 0]
    first = [0, 3, 8]
    wanted = [
        (n * 12 + int(q), first[n] + int(o))
        for n, pair in enumerate(expected)
        for q, o in zip(*pair, strict=True)
    ]
    assert list(zip(found.rows.tolist(), found.objects.tolist(), strict=True)) == wanted
    criterion = hf.DeformableDetrImageLoss(matcher, 4, 0.25, ["labels", "boxes"])
    losses = criterion(outputs, labels)
    ours = class_and_box_losses(logits, boxes, objects, found)
    for name, other in {"class": "loss_ce", "box": "loss_bbox", "giou": "loss_giou"}.items():
        torch.testing.assert_close(ours[name].sum() / 8, losses[other], rtol=0, atol=1e-5)


def test_a_pair_costs_what_it_does_in_transformers(monkeypatch):
    hf = pytest.importorskip("transformers.loss.loss_deformable_detr")
    seen = []
    monkeypatch.setattr(hf, "linear_sum_assignment", lambda cost: seen.append(cost) or ([], []))
    torch.manual_seed(4)
    logits, boxes = torch.randn(1, 6, 5), torch.rand(1, 6, 4)
    labels = {"class_labels": torch.tensor([4, 0]), "boxes": torch.rand(2, 4)}
    matcher = hf.DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
    matcher({"logits": logits, "pred_boxes": boxes}, [labels])
    found = pair_costs(logits, boxes, labels["boxes"], labels["class_labels"], MatchCosts())
    torch.testing.assert_close(found[0], seen[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("resnet", ["timm", "transformers"])
def test_what_save_pretrained_writes_loads_with_nothing_missing(variant, resnet, tmp_path):
    theirs = build_theirs(variant, resnet)
    theirs.save_pretrained(tmp_path)
    ours = build_ours(**our_options(variant))
    report = load_weights(ours, tmp_path / "model.safetensors")
    assert [name for name in report.missing if not name.startswith("mask_head.")] == []
    assert (report.unexpected, report.mismatched) == ([], [])
    in_memory = copied(variant, resnet)[0].state_dict()
    for name, value in ours.state_dict().items():
        assert name.startswith("mask_head.") or torch.equal(value, in_memory[name]), name
    images = torch.rand(1, 3, 64, 64)
    plain = build_ours(**our_options(variant), image_mean=(0.0,) * 3, image_std=(1.0,) * 3)
    plain.load_state_dict(ours.state_dict())
    with torch.no_grad():
        expected = theirs(images)
        found = plain(images)
    torch.testing.assert_close(found.class_logits[-1], expected.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes[-1], expected.pred_boxes, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"box_refine": False}, "box_refine: true"),
        ({"two_stage": True}, "two_stage: false"),
        ({"width": 96}, r"pyramid.level_embed is \(4, 64\) in the file and \(4, 96\) in the model"),
        ({"num_queries": 9}, r"query_embed.weight is \(12, 128\) in the file and \(9, 128\)"),
        (
            {"encoder_layers": 3},
            r"it lacks encoder.2.attention.sampling_offsets.weight \(128, 64\)",
        ),
        ({"encoder_layers": 1}, r"it has encoder.1.attention.\S+ \(\d+,\), which the model lacks"),
    ],
)
def test_another_size_is_refused_with_name_and_shape(options, words):
    given = build_theirs("refined").state_dict()
    with pytest.raises(ValueError, match=words):
        build_ours(**options).public_weights(given)


@pytest.mark.slow  # a ResNet-50
@pytest.mark.parametrize(("refined", "expected"), [(True, 40_729_898), (False, 40_066_838)])
def test_parameters_are_those_of_the_published_networks(refined, expected):
    network = DeformableDETR(80, TimmFeatures("resnet50", "frozen_bn"), box_refine=refined)
    named = dict(network.named_parameters())
    counted = [
        value.numel()
        for name, value in named.items()
        if not name.startswith("mask_head.")
        and (not name.startswith("class_heads.") or name.startswith("class_heads.0."))
    ]
    assert sum(counted) == expected  # frozen norms have none, as in transformers
