"""Mask R-CNN beyond torchvision: keys, reductions, empties, crowds, many detections."""

import dataclasses

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from models.backbones.timm_fpn import TimmFPN
from models.ops.boxes.roi_align import pool_regions
from models.seg.mask_rcnn import (
    BoxHeadOptions,
    MaskHeadOptions,
    MaskRCNN,
    MaskRCNNResNet50FPNV2,
    RPNOptions,
)
from models.seg.protocol import SegModel
from structures import SegBatch
from tests.support.small_mask_rcnn import (
    BOX,
    MASK,
    RPN,
    SIZES,
    TERMS,
    assert_terms_close,
    build,
    total,
)


def test_protocol_and_terms(scene):
    model = build()
    assert isinstance(model, SegModel)
    losses = model.losses(scene(SIZES)[0])
    assert set(losses) == TERMS
    assert all(value.ndim == 0 and value > 0 for value in losses.values())


def test_losses_do_not_depend_on_the_mode(scene):
    model, (batch, _, _) = build(), scene(SIZES)
    assert_terms_close(model.train().losses(batch), model.eval().losses(batch), rtol=0, atol=0)


def test_each_image_has_the_loss_of_a_batch_of_its_own(scene):
    model, (batch, _, _) = build(), scene([*SIZES, (70, 70)], instances=[3, 0, 2])
    by_image = model.losses(batch, reduction="none", key=5)
    for position in range(3):
        alone = model.losses(batch.image(position), key=5)
        one = {name: value[position] for name, value in by_image.items()}
        assert_terms_close(one, alone, rtol=1e-4, atol=1e-6)
    assert by_image["mask"][1] == by_image["box"][1] == by_image["rpn_box"][1] == 0


def test_mean_divides_by_the_counts_of_the_batch(scene):
    """60 of 64 anchors and 31 of 32 regions may differ in number: weigh images by count."""
    box = dataclasses.replace(BOX, batch_size_per_image=100_000)
    model, (batch, _, _) = build(box=box), scene(SIZES, instances=[1, 4])
    by_image = model.losses(batch, reduction="none")
    mean = model.losses(batch)
    counts = torch.tensor([61.0, 64.0])  # 60 proposals and the instances themselves
    for name in ("classifier", "box"):
        expected = (by_image[name] * counts).sum() / counts.sum()
        torch.testing.assert_close(mean[name], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mean["objectness"], by_image["objectness"].mean())


def test_class_weights_region_by_region(scene, monkeypatch):
    """Regions count by their class, background by 1; the denominator is their number."""
    model, (batch, _, _) = build(), scene(SIZES, instances=[1, 4])
    plain = {r: model.losses(batch, reduction=r, key=2) for r in ("mean", "none")}
    heads, seen = model.roi_heads, {}
    classify, sampler = heads._classify, heads.sampler
    monkeypatch.setattr(heads, "_classify", lambda *a: seen.setdefault("out", classify(*a)))
    heads.sampler = lambda *a: seen.setdefault("sample", sampler(*a))
    weights = torch.tensor([0.5, 1.0, 4.0])
    model.set_class_weights(weights)
    found = model.losses(batch, key=2)
    sums, counts = [0.0, 0.0], [0, 0]
    for logits, label, region in zip(
        seen["out"][0], seen["sample"].labels.tolist(), seen["sample"].regions, strict=True
    ):
        weight = 1.0 if label == 0 else weights[label - 1]
        image = int(region[0])
        sums[image] = sums[image] - weight * logits.log_softmax(0)[label]
        counts[image] += 1
    expected = sum(sums) / sum(counts)
    torch.testing.assert_close(found["classifier"], expected, rtol=1e-5, atol=1e-6)
    assert abs(found["classifier"] - plain["mean"]["classifier"]) > 1e-3
    heads.sampler = sampler
    monkeypatch.undo()
    by_image = model.losses(batch, reduction="none", key=2)
    alone = torch.stack([one / count for one, count in zip(sums, counts, strict=True)])
    torch.testing.assert_close(by_image["classifier"], alone, rtol=1e-5, atol=1e-6)
    for name in TERMS - {"classifier"}:
        assert torch.equal(found[name], plain["mean"][name])
    model.set_class_weights(torch.ones(3))
    for reduction, terms in plain.items():
        ones = model.losses(batch, reduction=reduction, key=2)
        assert_terms_close(ones, terms, rtol=0, atol=0)


def test_sampling_depends_on_key_and_image_alone(scene):
    model, (batch, _, _) = build(), scene([(64, 64)] * 3)
    first = model.losses(batch.image(0), key=3)
    shuffled = SegBatch(
        images=batch.images[[2, 0]],
        sizes=batch.sizes[[2, 0]],
        boxes=torch.cat([batch.boxes[6:], batch.boxes[:3]]),
        labels=torch.cat([batch.labels[6:], batch.labels[:3]]),
        masks=torch.cat([batch.masks[6:], batch.masks[:3]]),
        counts=batch.counts[[2, 0]],
        crowd=batch.crowd[:6],
        index=batch.index[[2, 0]],
        original_sizes=batch.original_sizes[[2, 0]],
    )
    torch.rand(17)  # the global generator plays no part
    again = model.losses(shuffled, reduction="none", key=3)
    assert_terms_close({k: v[1] for k, v in again.items()}, first, rtol=1e-4)
    other = model.losses(batch.image(0), key=4)
    assert abs(other["objectness"] - first["objectness"]) > 1e-4
    assert abs(other["classifier"] - first["classifier"]) > 1e-4


@pytest.mark.parametrize("instances", [0, [2, 0]])
@pytest.mark.parametrize("norm", ["frozen_bn", "bn", "gn"])
def test_every_parameter_has_a_finite_gradient(scene, norm, instances):
    head_norm = None if norm == "frozen_bn" else norm
    model = build(
        norm,
        box=dataclasses.replace(BOX, head="conv", conv_width=16, num_convs=1, norm=head_norm),
        mask=dataclasses.replace(MASK, norm=head_norm),
        fpn_norm=head_norm,
    ).train()
    losses = model.losses(scene(SIZES, instances=instances)[0])
    total(losses).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(value.isfinite().all() for value in model.state_dict().values())
    if instances == 0:
        assert [losses[name].item() for name in ("rpn_box", "box", "mask")] == [0, 0, 0]
        assert losses["objectness"] > 0.01
        assert losses["classifier"] > 0.01


def test_gradients_of_a_usual_batch_reach_everything(scene):
    model = build("bn").train()
    total(model.losses(scene(SIZES)[0])).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def crowded(scene, rows):
    batch, _, _ = scene(SIZES, instances=2)
    crowd = batch.crowd.clone()
    crowd[rows] = True
    return dataclasses.replace(batch, crowd=crowd)


def test_an_image_with_crowds_alone(scene):
    model = build()
    losses = model.losses(crowded(scene, [0, 1]), reduction="none")
    assert losses["box"][0] == losses["mask"][0] == losses["rpn_box"][0] == 0
    assert losses["box"][1] > 0
    total(model.losses(crowded(scene, [0, 1, 2, 3]))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_lies_in_a_crowd_is_no_negative_example(scene):
    everything = dataclasses.replace(RPN, batch_size_per_image=100_000)
    model = build(rpn=everything, box=dataclasses.replace(BOX, batch_size_per_image=100_000))
    batch = crowded(scene, [0, 1, 2, 3])
    boxes = torch.tensor([[0.0, 0, 2000, 2000]]).repeat(4, 1)
    covered = model.losses(dataclasses.replace(batch, boxes=boxes))
    # the crowd covers every proposal (they are clipped to the image): no region is left
    assert covered["classifier"] == covered["box"] == 0
    plain = model.losses(dataclasses.replace(batch, boxes=boxes * 1e-3 + 30))
    assert plain["classifier"] > 0
    assert covered["objectness"] != plain["objectness"]


def test_the_mask_cap_limits_the_regions_of_the_mask_head(scene):
    seen = []
    for cap in (None, 2):
        model = build(mask=dataclasses.replace(MASK, max_rois_per_image=cap))
        model.roi_heads.mask_head.register_forward_hook(lambda _m, _x, out: seen.append(len(out)))
        model.losses(scene(SIZES, instances=3)[0])
    assert seen[0] >= 6
    assert seen[1] == 4


def test_normalisation(scene):
    batch, _, _ = scene(SIZES)
    model = build(image_mean=(0.5, 0.4, 0.3), image_std=(0.5, 0.25, 0.2))
    images, sizes = model._preprocess(batch)
    assert sizes == SIZES
    assert images.shape == (2, 3, 96, 96)
    torch.testing.assert_close(images[0, 1, :64], (batch.images[0, 1, :64] - 0.4) / 0.25)
    assert not images[0, :, 64:].any()
    assert not images[1, :, :, 60:].any()
    assert not any(key.startswith("_") for key in model.state_dict())


def test_regions_are_pooled_from_the_model_s_levels_alone(scene, monkeypatch):
    """The level ``pool`` serves proposals only (FPN sec. 4.2), however large a region is."""
    seen = set()

    def record(levels, rois, stride, side, ratio, canonical):
        seen.add((tuple(level.shape[-1] for level in levels), stride, canonical))
        return pool_regions(levels, rois, stride, side, ratio, canonical)

    monkeypatch.setattr("models.seg.mask_rcnn.roi_heads.pool_regions", record)
    build(box=dataclasses.replace(BOX, canonical_size=9.0)).losses(scene(SIZES)[0])
    assert seen == {((24, 12, 6, 3), 4, 9.0)}


def test_autocast(scene):
    model, (batch, _, _) = build(), scene(SIZES)
    expected = model.losses(batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(batch)
        found = model.eval().predict(batch)
    total(losses).backward()
    for name in TERMS:
        assert losses[name].dtype == torch.float32
    for name in ("objectness", "mask"):  # no sampled region hangs on a rounded score
        torch.testing.assert_close(losses[name], expected[name], rtol=0.1, atol=0.02)
    assert found[0].boxes.dtype == found[0].scores.dtype == torch.float32


def test_coarse_masks_give_nearly_the_loss_of_full_masks(scene):
    model, (batch, _, _) = build(), scene([(64, 96), (92, 60)])
    coarse = nn.functional.avg_pool2d(batch.masks.float(), 4, ceil_mode=True) >= 0.5
    other = dataclasses.replace(batch, masks=coarse, mask_stride=4)
    fine, rough = model.losses(batch), model.losses(other)
    torch.testing.assert_close(fine["mask"], rough["mask"], rtol=0.05, atol=0)
    assert fine["classifier"] == rough["classifier"]


def test_wrong_arguments(scene):
    with pytest.raises(ValueError, match=r"anchor_sizes .* 5 levels .* \[8, 16\]"):
        build(rpn=RPNOptions(anchor_sizes=(8, 16))).losses(scene(SIZES)[0])
    with pytest.raises(ValueError, match="out_channels"):
        MaskRCNN(3, nn.Identity())
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        MaskRCNN(0, TimmFPN("resnet10t", 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (lambda: RPNOptions(fg_iou_thresh=0.2), "0 <= bg_iou_thresh <= fg_iou_thresh <= 1"),
        (lambda: BoxHeadOptions(positive_fraction=1.5), r"positive_fraction <= 1, got \[1\.5\]"),
        (
            lambda: BoxHeadOptions(sampling_ratio=0),
            "BoxHeadOptions.sampling_ratio must be at least",
        ),
        (lambda: MaskHeadOptions(max_rois_per_image=0), "max_rois_per_image must be at least 1"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        options()


def test_the_norm_of_the_second_preset_is_that_of_every_layer():
    with torch.device("meta"):
        model = MaskRCNNResNet50FPNV2(2, norm="sync_bn")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) == 53 + 8 + 8


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        (
            {
                "class_path": "models.seg.mask_rcnn.MaskRCNN",
                "init_args": {
                    "num_classes": 3,
                    "backbone": {
                        "class_path": "models.backbones.timm_fpn.TimmFPN",
                        "init_args": {"name": "resnet10t", "strides": [8, 16], "norm": "gn"},
                    },
                    "rpn": {"anchor_sizes": [16, 32, 64], "conv_depth": 2},
                    "box": {"width": 64},
                    "mask": {"norm": "gn", "max_rois_per_image": 4},
                    "image_mean": [0.5, 0.5, 0.5],
                },
            },
            4,
        ),
        (
            {
                "class_path": "models.seg.mask_rcnn.MaskRCNNResNet50FPNV2",
                "init_args": {"num_classes": 4, "box": {"num_convs": 2}, "max_dets": 300},
            },
            5,
        ),
    ],
)
def test_a_config_builds_it(config, classes):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=nn.Module)
    with torch.device("meta"):
        model = parser.instantiate(parser.parse_object({"model": config})).model
    assert isinstance(model, MaskRCNN)
    assert model.roi_heads.box_predictor.cls_score.out_features == classes
    if classes == 4:
        assert model.rpn.options.anchor_sizes == (16, 32, 64)
        assert len(model.rpn.head.conv) == 2
        assert model.roi_heads.box == BoxHeadOptions(width=64)
    else:
        assert model.max_dets == 300
        assert model.roi_heads.box == BoxHeadOptions(head="conv", norm="bn", num_convs=2)


@pytest.mark.slow
def test_it_learns_one_batch(scene):
    batch, _, _ = scene([(64, 64)] * 2, instances=2)
    model = build(
        "gn",  # no gap between training and evaluation
        box=dataclasses.replace(BOX, width=64, positive_fraction=0.5),
        mask=dataclasses.replace(MASK, width=32, num_convs=2),
        fpn_width=32,
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, 120)
    for step in range(120):
        loss = total(model.losses(batch, key=step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    assert loss < 0.6
    truths = batch.targets()
    for found, truth in zip(model.eval().predict(batch), truths, strict=True):
        masks = torch.from_numpy(found.masks.decode()[found.scores > 0.5])
        labels = found.labels[found.scores > 0.5]
        for mask, label in zip(truth.masks, truth.labels, strict=True):
            overlap = (masks & mask).sum((1, 2)) / (masks | mask).sum((1, 2))
            assert overlap[labels == label].max() > 0.7
