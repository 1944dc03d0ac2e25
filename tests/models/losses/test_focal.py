"""Focal loss and its cost against torchvision and transformers."""

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss as theirs

from models.losses.focal import focal_cost, sigmoid_focal_loss


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0), (-1.0, 2.0), (0.25, 0.0)])
def test_it_is_that_of_torchvision(alpha, gamma):
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(40, generator=generator)).requires_grad_()
    targets = torch.rand(40, generator=generator).round()
    found = sigmoid_focal_loss(logits, targets, alpha, gamma)
    expected = theirs(logits, targets, alpha, gamma)
    torch.testing.assert_close(found, expected)
    one, other = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (found, expected))
    torch.testing.assert_close(one, other)


def test_the_cost_is_what_the_loss_would_change():
    logits = torch.linspace(-4, 4, 9)
    change = sigmoid_focal_loss(logits, torch.ones(9)) - sigmoid_focal_loss(logits, torch.zeros(9))
    torch.testing.assert_close(focal_cost(logits), change, rtol=1e-5, atol=1e-6)
    assert bool(focal_cost(torch.tensor([-200.0, 200.0])).isfinite().all())


def test_half_precision_is_computed_in_float32():
    logits = torch.tensor([3.0, -3.0]).bfloat16()
    assert sigmoid_focal_loss(logits, torch.ones(2)).dtype == torch.float32
    assert focal_cost(logits).dtype == torch.float32
