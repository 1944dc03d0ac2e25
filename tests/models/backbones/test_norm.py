"""Exchange of norms in built models: same function, same keys, activation kept."""

import pytest
import timm
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from models.backbones.norm import convert_norm, group_norm, norm_layer, num_groups
from models.backbones.resnet_fpn import ResNet50FPN
from models.backbones.timm_features import TimmFeatures
from models.backbones.timm_fpn import TimmFPN


def randomise(model):
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
def test_frozen_model_is_the_evaluated_model(name):
    model = randomise(timm.create_model(name, num_classes=5))
    image = torch.rand(2, 3, 64, 64)
    expected = model.eval()(image)
    keys = set(model.state_dict())
    frozen = convert_norm(model, "frozen_bn").train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    assert {key for key in keys if "num_batches" not in key} == set(frozen.state_dict())
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    if name == "resnet10t":  # no dropout: training mode must not matter
        torch.testing.assert_close(frozen(image), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(frozen.eval()(image), expected, rtol=1e-4, atol=1e-4)
    frozen.train()(image).sum().backward()
    assert all(torch.equal(before[key], value) for key, value in frozen.state_dict().items())
    assert not any("bn" in key for key, _ in frozen.named_parameters())


@pytest.mark.parametrize("norm", ["gn", "sync_bn", "frozen_bn"])
def test_activation_inside_a_timm_norm_survives(norm):
    layer = nn.Sequential(timm.layers.BatchNormAct2d(8, act_layer=nn.SiLU))
    randomise(layer)
    weight = layer[0].weight.detach().clone()
    new = convert_norm(layer, norm)[0]
    assert isinstance(new.act, nn.SiLU)
    assert torch.equal(new.weight, weight)
    if norm == "gn":
        x = torch.randn(2, 8, 3, 3)
        plain = nn.functional.group_norm(x, num_groups(8), new.weight, new.bias, new.eps)
        torch.testing.assert_close(new(x), nn.functional.silu(plain))


def test_plain_layers():
    bn = nn.BatchNorm2d(12, eps=1e-3, momentum=0.2)
    randomise(bn)
    x = torch.randn(3, 12, 4, 4)
    assert convert_norm(bn, "bn") is bn
    frozen = convert_norm(bn, "frozen_bn")
    assert isinstance(frozen, FrozenBatchNorm2d)
    torch.testing.assert_close(frozen(x), bn.eval()(x), rtol=1e-5, atol=1e-6)
    sync = convert_norm(bn, "sync_bn")
    assert isinstance(sync, nn.SyncBatchNorm)
    assert (sync.eps, sync.momentum) == (1e-3, 0.2)
    assert torch.equal(sync.running_mean, bn.running_mean)
    assert convert_norm(bn, "gn").num_groups == 2
    assert norm_layer(None) is None
    assert isinstance(norm_layer("gn")(64), nn.GroupNorm)


@pytest.mark.parametrize("width", [1, 3, 7, 8, 9, 16, 24, 40, 64, 112, 256, 320])
def test_groups_divide_the_width_and_hold_two_channels(width):
    groups = num_groups(width)
    assert width % groups == 0
    assert groups <= 32
    assert groups == 1 or width // groups >= 2
    assert group_norm(width)(torch.randn(2, width, 1, 1)).shape == (2, width, 1, 1)


def test_usual_widths_get_the_32_groups_of_the_paper():
    assert [num_groups(width) for width in (64, 128, 256, 512)] == [32] * 4


@pytest.mark.parametrize("prepared", [lambda m: m, lambda m: m.train(), lambda m: m.eval().train()])
@pytest.mark.parametrize(
    "build",
    [
        lambda stages: ResNet50FPN(norm="bn", fpn_width=8, trainable_stages=stages),
        lambda stages: TimmFPN("resnet10t", 8, trainable_stages=stages),
        lambda stages: TimmFeatures("resnet10t", trainable_stages=stages),
    ],
)
def test_a_frozen_backbone_keeps_its_running_statistics(build, prepared):
    """Whoever trains it: a step of a plain training loop moved a running mean by .5."""
    for stages in (0, 1):
        backbone = prepared(build(stages))
        before = {n: b.clone() for n, b in backbone.named_buffers()}
        backbone(torch.rand(2, 3, 64, 64))
        moved = {n for n, b in backbone.named_buffers() if not torch.equal(b, before[n])}
        trained = {n.rpartition(".")[0] for n, p in backbone.named_parameters() if p.requires_grad}
        assert {name.rpartition(".")[0] for name in moved} <= trained
        assert bool(moved) == (stages == 1)
