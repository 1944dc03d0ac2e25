"""Losses of one-stage segmentation against one image, one object, one anchor at a time."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.seg.yolo import YOLOLossOptions
from models.seg.yolo.losses import yolo_losses
from models.seg.yolo.output import YOLOOutput
from tests.support.slow_yolo_losses import (
    BINS,
    CLASSES,
    SIZE,
    TERMS,
    anchors,
    gradients,
    one,
    outputs,
    slow_losses,
    total,
)


@pytest.fixture
def batch(scene):
    """Four images of 4, 0, 1 and 5 objects."""
    return scene([(SIZE, SIZE)] * 4, instances=[4, 0, 1, 5], seed=3)[0]


@pytest.fixture
def crowded(batch):
    """The same, with one crowd in the first and one in the last image."""
    crowd = torch.zeros(10, dtype=torch.bool)
    crowd[[1, 9]] = True
    return dataclasses.replace(batch, crowd=crowd)


@pytest.mark.parametrize(
    "chosen",
    [{"top_k": 10}, {"top_k": 3}, {"top_k": 3, "alpha": 2.0, "beta": 1.5}, {"min_side": 50.0}],
)
def test_as_one_anchor_at_a_time(crowded, chosen):
    output = outputs(4)
    options = YOLOLossOptions(**chosen)
    parts = [
        slow_losses(one(output, number), targets, **chosen)
        for number, targets in enumerate(crowded.targets())
    ]
    by_image = yolo_losses(output, crowded, CLASSES, options, "none")
    together = yolo_losses(output, crowded, CLASSES, options)
    assert by_image.keys() == together.keys() == TERMS
    expected = {}
    for name in TERMS:
        alone = torch.stack([sums[name] / max(1, counts[name]) for sums, counts in parts])
        torch.testing.assert_close(by_image[name], alone, rtol=1e-5, atol=1e-7)
        count = max(1, sum(counts[name] for _, counts in parts))
        expected[name] = sum(sums[name] for sums, _ in parts) / count
        torch.testing.assert_close(together[name], expected[name], rtol=1e-5, atol=1e-7)
    for ours, theirs in zip(
        gradients(total(together), output), gradients(total(expected), output), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_class_weights_as_one_anchor_at_a_time(crowded):
    """Positive anchors count by the class of their object, all others and S as without weights."""
    output, weights = outputs(4), torch.tensor([0.25, 1.0, 3.0])
    options = (CLASSES, YOLOLossOptions(), "none")
    plain = yolo_losses(output, crowded, *options)
    found = yolo_losses(output, crowded, *options, weights)
    for name in TERMS - {"class"}:
        assert torch.equal(found[name], plain[name])
    parts = [
        slow_losses(one(output, number), targets, weights=weights)
        for number, targets in enumerate(crowded.targets())
    ]
    alone = torch.stack([sums["class"] / max(1, counts["class"]) for sums, counts in parts])
    torch.testing.assert_close(found["class"], alone, rtol=1e-5, atol=1e-7)
    assert (alone - plain["class"]).abs().max() > 0.1
    count = max(1, sum(counts["class"] for _, counts in parts))
    expected = sum(sums["class"] for sums, _ in parts) / count
    together = yolo_losses(output, crowded, CLASSES, class_weights=weights)["class"]
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-7)
    ours, theirs = (
        torch.autograd.grad(value, output.class_logits, retain_graph=True)[0]
        for value in (together, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_unit_class_weights_change_no_bit(crowded):
    output = outputs(4)
    plain = yolo_losses(output, crowded, CLASSES)
    ones = yolo_losses(output, crowded, CLASSES, class_weights=torch.ones(CLASSES))
    for name in TERMS:
        assert torch.equal(plain[name], ones[name])
    for one_, other in zip(
        gradients(total(plain), output), gradients(total(ones), output), strict=True
    ):
        assert torch.equal(one_, other)


def test_images_alone_give_what_they_give_together(crowded):
    output = outputs(4, seed=1)
    by_image = yolo_losses(output, crowded, CLASSES, reduction="none")
    for number in range(4):
        alone = yolo_losses(one(output, number), crowded.image(number), CLASSES)
        for name in TERMS:
            torch.testing.assert_close(by_image[name][number], alone[name])


def test_masks_at_stride_1_and_4_and_no_overlap_rule(batch):
    output = outputs(4)
    cells = F.avg_pool2d(batch.masks[:, None].double(), 4)[:, 0] >= 0.5
    coarse = dataclasses.replace(batch, masks=cells, mask_stride=4)
    fine, rough = (yolo_losses(output, b, CLASSES)["mask"] for b in (batch, coarse))
    assert torch.equal(fine, rough)
    free = YOLOLossOptions(smallest_owns=False)
    assert not torch.equal(yolo_losses(output, batch, CLASSES, free)["mask"], fine)
    with pytest.raises(ValueError, match="mask_stride must divide"):
        yolo_losses(output, dataclasses.replace(
            batch, masks=batch.masks[:, :22, :22], mask_stride=3), CLASSES)  # fmt: skip


@pytest.mark.parametrize("kind", ["none", "crowds", "tiny"])
def test_nothing_to_find_gives_class_loss_and_zero_gradients(scene, kind):
    count = 0 if kind == "none" else 2
    batch, _, _ = scene([(SIZE, SIZE)] * 2, instances=count)
    if kind == "crowds":
        batch = dataclasses.replace(batch, crowd=torch.ones(4, dtype=torch.bool))
    if kind == "tiny":
        boxes = torch.tensor([[1.0, 1, 3, 3]]).expand(4, 4)
        batch = dataclasses.replace(batch, boxes=boxes)
    output = outputs(2, dtype=torch.float32)
    losses = yolo_losses(output, batch, CLASSES, YOLOLossOptions(min_side=0))
    assert [losses[name].item() for name in ("box", "dfl", "mask")] == [0.0, 0.0, 0.0]
    assert losses["class"].item() > 0
    by_class, *rest = gradients(total(losses), output)
    assert by_class.ne(0).any()
    assert all(part.eq(0).all() for part in rest)
    if kind != "crowds":
        whole = F.softplus(output.class_logits).sum()
        torch.testing.assert_close(losses["class"], whole)


def test_boxes_of_low_precision_are_read_in_float32(batch):
    low = dataclasses.replace(batch, boxes=batch.boxes.bfloat16())  # sides are exact, areas not
    output = outputs(4, dtype=torch.float32)
    expected = yolo_losses(output, batch, CLASSES)
    for name, value in yolo_losses(output, low, CLASSES).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name]), name


class Toy(nn.Module):
    """One layer for each output."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, n) for n in (CLASSES, 4 * BINS, 32))
        self.prototypes = nn.Conv2d(3, 32, 4, stride=4)
        self.register_buffer("inputs", torch.randn(84, 2))

    def forward(self, images):
        rows = [layer(self.inputs).expand(len(images), -1, -1) for layer in self.layers]
        return YOLOOutput(*rows, self.prototypes(images), *anchors())


def test_every_parameter_gets_a_gradient_without_an_object(scene):
    batch, _, _ = scene([(SIZE, SIZE)] * 2, instances=0)
    model = Toy()
    total(yolo_losses(model(batch.images), batch, CLASSES)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.prototypes.weight.grad.eq(0).all()


def test_crowds_are_ignored_not_negatives(scene):
    """One crowd over the left half: class loss and gradients of the right half alone."""
    batch, _, _ = scene([(SIZE, SIZE)], instances=1)
    half = torch.tensor([[0.0, 0, 32, 64]])
    batch = dataclasses.replace(batch, boxes=half, crowd=torch.ones(1, dtype=torch.bool))
    output = outputs(1)
    loss = yolo_losses(output, batch, CLASSES)["class"]
    right = output.points[:, 0] >= 32
    torch.testing.assert_close(loss, F.softplus(output.class_logits[0, right]).sum())
    by_class = torch.autograd.grad(loss, output.class_logits)[0][0]
    assert by_class[~right].eq(0).all()
    assert by_class[right].ne(0).all()


def test_order_of_instances_changes_nothing(batch):
    order = torch.tensor([2, 0, 3, 1, 4, 9, 6, 5, 8, 7])
    shuffled = dataclasses.replace(
        batch, boxes=batch.boxes[order], labels=batch.labels[order], masks=batch.masks[order]
    )
    output = outputs(4, seed=2)
    first, second = (yolo_losses(output, b, CLASSES, reduction="none") for b in (batch, shuffled))
    for name in TERMS:
        torch.testing.assert_close(first[name], second[name])
    for one_, other in zip(
        gradients(total(first), output), gradients(total(second), output), strict=True
    ):
        torch.testing.assert_close(one_, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_and_autocast(batch, dtype):
    half = outputs(4, dtype=dtype)
    wide = half._replace(
        **{n: getattr(half, n).detach().float().requires_grad_() for n in half._fields[:4]}
    )
    expected = yolo_losses(wide, batch, CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        found = yolo_losses(half, batch, CLASSES)
    for name in TERMS:
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], expected[name])
    for one_, other in zip(
        gradients(total(found), half), gradients(total(expected), wide), strict=True
    ):
        torch.testing.assert_close(one_, other.to(dtype), rtol=0.02, atol=1e-4)


def test_perfect_outputs_have_no_loss(scene):
    """An object of 32 x 32 on the grid, predicted exactly and surely."""
    batch, _, _ = scene([(SIZE, SIZE)], instances=1)
    masks = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    masks[0, 16:48, 16:48] = True
    box = torch.tensor([16.0, 16, 48, 48])
    batch = dataclasses.replace(
        batch, boxes=box.unsqueeze(0), masks=masks, labels=torch.tensor([1])
    )
    points, strides = anchors()
    inside = ((points > 16) & (points < 48)).all(dim=1)
    distances = torch.cat([points - 16, 48 - points], dim=1) / strides[:, None]
    low = distances.clamp(0, 14).floor()
    bins = torch.arange(BINS)
    share = (1 - (distances.clamp(0, 14.99)[..., None] - bins).abs()).clamp(min=0)
    logits = torch.full((1, len(points), CLASSES), -40.0)
    chosen = inside & (strides == 8)
    chosen = chosen | (inside & (strides == 16))  # 16 + 4 anchors; ten of them, all equally good
    output = YOLOOutput(
        class_logits=logits.masked_fill(chosen[:, None] & torch.tensor([False, True, False]), 40.0),
        box_logits=share.clamp(min=1e-30).log().flatten(1).unsqueeze(0),
        coefficients=torch.ones(1, len(points), 32),
        prototypes=torch.full((1, 32, 16, 16), 2.0),
        points=points,
        strides=strides,
    )
    losses = yolo_losses(output, batch, CLASSES, YOLOLossOptions(top_k=20))
    assert losses["box"].item() == pytest.approx(0, abs=1e-5)
    assert losses["class"].item() == pytest.approx(0, abs=1e-4)
    assert losses["mask"].item() == pytest.approx(0, abs=1e-6)
    # what is left is the entropy of distances between two bins: halves everywhere
    assert low.min() >= 0
    assert losses["dfl"].item() == pytest.approx(math.log(2), rel=1e-4)


def test_wrong_targets_outputs_and_options_are_refused(batch):
    output = outputs(4)
    with pytest.raises(ValueError, match="4 images and 3 classes, but the targets have 4 and 5"):
        yolo_losses(output, batch, 5)
    with pytest.raises(ValueError, match="have 3 images"):
        yolo_losses(output._replace(class_logits=output.class_logits[:3]), batch, CLASSES)
    labels = batch.labels.clone()
    labels[4] = CLASSES
    with pytest.raises(ValueError, match="image 102 has label 3"):
        yolo_losses(output, dataclasses.replace(batch, labels=labels), CLASSES)
    boxes = batch.boxes.clone()
    boxes[0, 2] = boxes[0, 0]
    with pytest.raises(ValueError, match="image 100 has an empty or non-finite box"):
        yolo_losses(output, dataclasses.replace(batch, boxes=boxes), CLASSES)
    for top_k in (0, -1, -10):
        with pytest.raises(ValueError, match=f"top_k must be at least 1, got {top_k}"):
            YOLOLossOptions(top_k=top_k)
    for name in ("alpha", "beta", "min_side"):
        with pytest.raises(ValueError, match=f"{name} must be finite and not negative, got"):
            YOLOLossOptions(**{name: -1})
        with pytest.raises(ValueError, match=f"{name} must be finite"):
            YOLOLossOptions(**{name: math.nan})
