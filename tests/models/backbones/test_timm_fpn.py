"""Any timm model as a pyramid: strides, norms, frozen stages."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from models.backbones.timm_fpn import TimmFPN

IMAGE = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "mambaout_femto"])
def test_levels_and_gradients_of_every_parameter(name):
    model = TimmFPN(name, fpn_width=8).eval()
    levels = model(IMAGE)
    assert list(levels) == ["0", "1", "2", "3", "pool"]
    sizes = [tuple(level.shape) for level in levels.values()]
    assert sizes == [(2, 8, -(-96 // s), -(-64 // s)) for s in (4, 8, 16, 32, 64)]
    assert torch.equal(levels["pool"], levels["3"][:, :, ::2, ::2])
    sum(level.square().sum() for level in levels.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
def test_fewer_levels_leave_no_parameter_without_gradient(name):
    model = TimmFPN(name, fpn_width=8, strides=(8, 16)).eval()
    levels = model(IMAGE)
    assert [tuple(level.shape[2:]) for level in levels.values()] == [(12, 8), (6, 4), (3, 2)]
    sum(level.square().sum() for level in levels.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_top_down_path_by_hand():
    model = TimmFPN("resnet10t", fpn_width=4, strides=(16, 32)).eval()
    fine, coarse = model.body(IMAGE)
    inner, outer = model.fpn.inner_blocks, model.fpn.layer_blocks
    up = inner[1](coarse).repeat_interleave(2, 2).repeat_interleave(2, 3)
    levels = model(IMAGE)
    torch.testing.assert_close(levels["0"], outer[0](inner[0](fine) + up))
    torch.testing.assert_close(levels["1"], outer[1](inner[1](coarse)))


def trained_modules(model):
    return {name.split(".")[0] for name, p in model.body.named_parameters() if p.requires_grad}


def test_trainable_stages():
    assert trained_modules(TimmFPN("resnet10t", 8, trainable_stages=2)) == {"layer3", "layer4"}
    stages = {"layer1", "layer2", "layer3", "layer4"}
    assert trained_modules(TimmFPN("resnet10t", 8, trainable_stages=4)) == stages
    assert trained_modules(TimmFPN("resnet10t", 8)) == stages | {"conv1", "bn1"}
    nothing = TimmFPN("resnet10t", 8, trainable_stages=0)
    assert trained_modules(nothing) == set()
    assert all(parameter.requires_grad for parameter in nothing.fpn.parameters())
    model = TimmFPN("tf_efficientnet_lite0", 8, trainable_stages=2)
    blocks = {n.split(".")[1] for n, p in model.body.named_parameters() if p.requires_grad}
    assert blocks == {"3", "4", "5", "6"}  # timm's stages end at blocks 0, 1, 2, 4 and 6


def test_norms():
    frozen = TimmFPN("resnet10t", 8, norm="frozen_bn", fpn_norm="gn")
    kinds = [type(m) for m in frozen.body.modules() if "Norm" in type(m).__name__]
    assert set(kinds) == {FrozenBatchNorm2d}
    assert sum(isinstance(m, nn.GroupNorm) for m in frozen.fpn.modules()) == 8
    group = TimmFPN("resnet10t", 8, norm="gn")
    assert not any(isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d) for m in group.modules())
    one, both = group(IMAGE[:1]), group(IMAGE)
    torch.testing.assert_close(one["0"], both["0"][:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strides", [(4, 64), (8, 4), (4, 4), (4, 16), ()])
def test_strides_that_do_not_exist_or_are_out_of_order(strides):
    with pytest.raises(ValueError, match=r"among \[2, 4, 8, 16, 32\]"):
        TimmFPN("resnet10t", strides=strides)


def test_too_many_stages():
    with pytest.raises(ValueError, match=r"in 0\.\.5, got 6"):
        TimmFPN("resnet10t", trainable_stages=6)


def test_stochastic_depth_rises_to_the_last_block():
    with torch.device("meta"):
        model = TimmFPN("convnext_atto", 8, drop_path=0.4)
        plain = TimmFPN("convnext_atto", 8)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert rates == pytest.approx([0.4 * k / 11 for k in range(12)][12 - len(rates) :])
    assert rates[-1] == pytest.approx(0.4)
    assert not [m for m in plain.modules() if type(m).__name__ == "DropPath"]
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        TimmFPN("convnext_atto", 8, drop_path=1.0)
    with pytest.raises(ValueError, match="vgg11 has no stochastic depth"):
        TimmFPN("vgg11", 8, drop_path=0.1)
