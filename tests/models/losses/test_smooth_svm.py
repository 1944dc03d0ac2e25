import math

import pytest
import torch
import torch.nn.functional as F

from models.losses.smooth_svm import smooth_top1_svm


def by_definition(scores, label, tau, alpha):
    """The sum over labels, one by one, as the paper states it for k = 1."""
    total = sum(
        math.exp((score + (alpha if j != label else 0.0)) / tau) for j, score in enumerate(scores)
    )
    return tau * math.log(total) - scores[label]


@pytest.mark.parametrize(("tau", "alpha"), [(1.0, 1.0), (0.5, 2.0), (3.0, 0.0)])
def test_equals_the_sum_over_all_labels(tau, alpha):
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    labels = torch.tensor([0, 1, 2, 3, 0, 2])
    rows = zip(scores.tolist(), labels.tolist(), strict=True)
    expected = [by_definition(row, label, tau, alpha) for row, label in rows]
    losses = smooth_top1_svm(scores, labels, tau, alpha)
    torch.testing.assert_close(
        losses, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_two_labels_by_hand():
    # label 1: log(e^(0 + 1) + e^2) - 2 = log(1 + e^-1); label 0: log(e^0 + e^(2 + 1)) - 0
    scores = torch.tensor([0.0, 2.0])
    expected = torch.tensor([math.log(1 + math.exp(3)), math.log(1 + math.exp(-1))])
    losses = torch.stack([smooth_top1_svm(scores, torch.tensor(y)) for y in (0, 1)])
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-6)
    # one label for all rows, and the closed form softplus(alpha + other - own)
    rows = torch.tensor([[0.0, 2.0], [-1.0, 1.5], [20.0, -20.0]])
    closed = F.softplus(1 + rows[:, 0] - rows[:, 1])
    torch.testing.assert_close(smooth_top1_svm(rows, torch.tensor(1)), closed, rtol=0, atol=1e-5)


def test_a_small_temperature_gives_the_hinge():
    scores = torch.tensor([[0.3, 1.0, -2.0], [5.0, 1.0, 3.9], [5.0, 1.0, 4.5]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0])
    # max(0.3, 1 + 1, -2 + 1) - 0.3; max(5, 2, 4.9) - 5; max(5, 2, 5.5) - 5
    expected = torch.tensor([1.7, 0.0, 0.5], dtype=torch.float64)
    losses = smooth_top1_svm(scores, labels, tau=1e-3)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-9)


def test_gradient_pulls_the_label_up_and_the_others_down():
    scores = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores.requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1])
    assert torch.autograd.gradcheck(lambda s: smooth_top1_svm(s, labels, 0.7, 1.3), scores)
    smooth_top1_svm(scores, labels).sum().backward()
    wrong = F.one_hot(labels, 3) == 0
    assert (scores.grad[wrong] > 0).all()
    assert (scores.grad[~wrong] < 0).all()
    torch.testing.assert_close(scores.grad.sum(1), torch.zeros(5).double(), rtol=0, atol=1e-12)


def test_half_precision_is_widened_and_large_scores_are_finite():
    scores = torch.tensor([[300.0, -300.0]], dtype=torch.bfloat16)
    losses = smooth_top1_svm(scores, torch.tensor([1]))
    assert losses.dtype == torch.float32
    assert losses.item() == pytest.approx(601, abs=1)


def test_large_scores_keep_their_digits():
    # only differences count: log(1 + e^(1 + 0 - 1/2)); e^-39 of 1 is nothing, but not less
    loss = smooth_top1_svm(torch.tensor([1000.0, 1000.5]), torch.tensor(1))
    assert loss.item() == pytest.approx(math.log1p(math.exp(0.5)), abs=1e-6)
    rows = torch.tensor([[20.1, -20.3], [7.7, -13.3], [1e6 + 0.5, -1e6]])
    assert (smooth_top1_svm(rows, torch.tensor(0)) >= 0).all()


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="tau must be positive"):
        smooth_top1_svm(torch.zeros(1, 2), torch.tensor([0]), tau=0.0)
