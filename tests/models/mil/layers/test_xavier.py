import math

import pytest
import torch
from torch import nn

from models.mil.layers.xavier import xavier_normal


def test_linear_layers_have_glorots_spread_and_no_bias_and_others_stay():
    torch.manual_seed(0)
    other = nn.Conv1d(3, 3, 5)
    before = other.weight.clone()
    model = nn.Sequential(nn.Linear(300, 500), nn.LayerNorm(500), nn.Linear(500, 9, bias=False))
    nn.ModuleList([model, other]).apply(xavier_normal)
    assert model[0].weight.std().item() == pytest.approx(math.sqrt(2 / 800), rel=0.02)
    assert model[0].weight.abs().max().item() > 3.5 * math.sqrt(2 / 800)  # not uniform
    assert not model[0].bias.any()
    assert model[1].weight.eq(1).all()
    assert torch.equal(other.weight, before)
