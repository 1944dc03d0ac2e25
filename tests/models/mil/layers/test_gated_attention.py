import math

import pytest
import torch

from models.mil.layers.gated_attention import GatedAttention


@pytest.mark.parametrize("gated", [False, True])
def test_scores_by_hand(gated):
    # tanh(h log 2 / 2) = (2^h - 1) / (2^h + 1): h = 0, 1, 2 -> 0, 1/3, 3/5
    # sigmoid(h log 3) = 3^h / (3^h + 1): h = 0, 1, 2 -> 1/2, 3/4, 9/10
    model = GatedAttention(1, 1, maps=2, gated=gated)
    with torch.no_grad():
        model.value.weight.fill_(math.log(2) / 2)
        model.value.bias.zero_()
        model.score.weight.copy_(torch.tensor([[5.0], [-10.0]]))
        if gated:
            model.gate.weight.fill_(math.log(3))
            model.gate.bias.zero_()
    gates = [1 / 2, 3 / 4, 9 / 10] if gated else [1.0, 1.0, 1.0]
    hidden = [v * g for v, g in zip([0, 1 / 3, 3 / 5], gates, strict=True)]
    expected = torch.tensor([[5 * v, -10 * v] for v in hidden])
    found = model(torch.tensor([[0.0], [1.0], [2.0]]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_biases_and_leading_axes():
    torch.manual_seed(0)
    model = GatedAttention(3, 4, maps=2)
    assert model.score.bias is None
    rows = torch.randn(2, 5, 3)
    value = (rows @ model.value.weight.T + model.value.bias).tanh()
    gate = (rows @ model.gate.weight.T + model.gate.bias).sigmoid()
    expected = (value * gate) @ model.score.weight.T  # (2, 5, 2)
    torch.testing.assert_close(model(rows), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("arguments", [{"attention_dim": 0}, {"maps": 0}, {"in_features": -1}])
def test_wrong_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="positive"):
        GatedAttention(**({"in_features": 3, "attention_dim": 2} | arguments))
