"""Distribution Focal Loss against cross-entropies written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from models.losses.distribution_focal import distribution_focal_loss


def test_as_two_cross_entropies_a_side():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, 16, generator=generator, dtype=torch.float64)
    distances = torch.rand(5, 4, generator=generator, dtype=torch.float64) * 15
    distances = distances.clamp(max=14.9)
    expected = torch.zeros(5, dtype=torch.float64)
    for n in range(5):
        for side in range(4):
            y = distances[n, side].item()
            low = math.floor(y)
            for bin_, weight in ((low, low + 1 - y), (low + 1, y - low)):
                one = F.cross_entropy(logits[n, side].unsqueeze(0), torch.tensor([bin_]))
                expected[n] += weight * one / 4
    torch.testing.assert_close(distribution_focal_loss(logits.flatten(1), distances), expected)


def test_distances_beyond_the_bins():
    """15 and more are 14.99: 0.01 of bin 14 and 0.99 of bin 15; below 0 is bin 0."""
    log_probs = torch.linspace(-3, 3, 16).log_softmax(0)
    found = distribution_focal_loss(torch.linspace(-3, 3, 16).view(1, 16), torch.tensor([[40.0]]))
    torch.testing.assert_close(found[0], -(0.01 * log_probs[14] + 0.99 * log_probs[15]))
    found = distribution_focal_loss(torch.linspace(-3, 3, 16).view(1, 16), torch.tensor([[-2.0]]))
    torch.testing.assert_close(found[0], -log_probs[0])


def test_smallest_where_the_expectation_is_the_distance():
    logits = torch.full((1, 16), -30.0, dtype=torch.float64)
    logits[0, 3], logits[0, 4] = math.log(0.25), math.log(0.75)
    logits.requires_grad_()
    loss = distribution_focal_loss(logits, torch.tensor([[3.75]], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.abs().max() < 1e-12
    assert loss.item() == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))


def test_gradient():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 20, generator=generator, dtype=torch.float64, requires_grad=True)
    distances = torch.rand(3, 4, generator=generator, dtype=torch.float64) * 5
    assert torch.autograd.gradcheck(distribution_focal_loss, (logits, distances))


def test_half_precision_no_rows_and_wrong_widths():
    assert (
        distribution_focal_loss(torch.zeros(2, 64).half(), torch.ones(2, 4)).dtype == torch.float32
    )
    assert distribution_focal_loss(torch.zeros(0, 64), torch.zeros(0, 4)).shape == (0,)
    with pytest.raises(ValueError, match="66 logits are not 4 x bins"):
        distribution_focal_loss(torch.zeros(2, 66), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="at least 2 bins"):
        distribution_focal_loss(torch.zeros(2, 4), torch.zeros(2, 4))
