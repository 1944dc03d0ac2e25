"""ResNet-50 FPN: what trains, and that its norm is frozen (parity is tested with the model)."""

import pytest
import torch
from torch import nn

from models.backbones.resnet_fpn import ResNet50FPN


def test_trainable_stages_are_torchvisions():
    model = ResNet50FPN(trainable_stages=3)
    trained = {name.split(".")[0] for name, p in model.body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    assert all(parameter.requires_grad for parameter in model.fpn.parameters())
    with torch.device("meta"):
        everything = ResNet50FPN(norm="bn", trainable_stages=5)
        nothing = ResNet50FPN(norm="bn", trainable_stages=0)
    assert all(parameter.requires_grad for parameter in everything.parameters())
    assert not any(parameter.requires_grad for parameter in nothing.body.parameters())
    with pytest.raises(ValueError, match=r"0\.\.5"):
        ResNet50FPN(trainable_stages=6)


def test_norm_and_width():
    with torch.device("meta"):
        model = ResNet50FPN(norm="gn", fpn_norm="gn", fpn_width=64, norm_eps=1e-3)
    assert model.out_channels == 64
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 53 + 8
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert {m.eps for m in model.body.modules() if isinstance(m, nn.GroupNorm)} == {1e-3}
