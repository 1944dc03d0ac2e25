"""Learning rates that fall with the depth of a parameter in a vision transformer."""

import pytest
import torch
from torch import nn

from lightning_modules.base import TrainedModule
from lightning_modules.parameter_groups import check_layer_decay, parameter_groups
from models.backbones.timm_vit import TimmViT

DEPTH = 6
BASE = 0.5


def make_module(**options):
    arguments = {"loss_weights": None, "init_from": None, "backbone_lr_mult": 0.5} | options
    return TrainedModule(Net(), lambda g: torch.optim.AdamW(g, lr=BASE), None, **arguments)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = TimmViT("test_vit", 32)
        self.head = nn.Linear(64, 2)


def published(name, decay):
    """Return the factor of EoMT's own rule: blocks by depth, embeddings as the first block."""
    parts = name.split(".")
    if parts[0] != "backbone" or parts[2] == "norm":
        return 1.0
    block = int(parts[3]) if parts[2] == "blocks" else 0
    return decay ** (DEPTH - 1 - block)


def test_rates_follow_the_published_rule():
    module = make_module(layer_decay=0.8)
    names = {id(parameter): name for name, parameter in module.model.named_parameters()}
    groups = module.build_optimizer().param_groups
    found = {names[id(p)]: g["lr"] / BASE for g in groups for p in g["params"]}
    assert found.keys() == set(names.values())
    for name, rate in found.items():
        mult = 0.5 if name.startswith("backbone.") else 1.0
        assert rate == pytest.approx(mult * published(name, 0.8)), name


def test_groups_say_their_depth_and_one_without_decay_is_as_before():
    net = Net()
    names = [group["name"] for group in parameter_groups(net, layer_decay=0.8)]
    assert "backbone_below5" in names
    assert "backbone_below2_no_decay" in names
    assert "backbone_no_decay" in names  # the last block and the norm
    assert len(names) == len(set(names))
    plain = [group["name"] for group in parameter_groups(net)]
    assert plain == ["head_no_decay", "head", "backbone_no_decay", "backbone"]


def test_a_factor_by_name_replaces_the_depth():
    factors = {"backbone.body.blocks.0.*": 3.0}
    module = make_module(layer_decay=0.8, lr_mult=factors)
    rates = {g["name"]: g["lr"] / BASE for g in module.build_optimizer().param_groups}
    assert rates["backbone_x3"] == pytest.approx(3.0)
    assert rates["backbone_below4"] == pytest.approx(0.5 * 0.8**4)


@pytest.mark.parametrize("factor", [0.0, 1.5, float("nan")])
def test_a_factor_out_of_range_is_refused(factor):
    with pytest.raises(ValueError, match=r"layer_decay must be in \(0, 1\]"):
        check_layer_decay(Net(), factor)


def test_a_backbone_without_blocks_is_refused():
    net = nn.Module()
    net.backbone = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="needs a backbone of equal blocks such as TimmViT"):
        check_layer_decay(net, 0.8)
