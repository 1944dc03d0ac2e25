"""DSL by hand: value, bound, and which elements have a gradient."""

import pytest
import torch

from models.losses.dsl import dsl_loss


def levels(*values):
    """Levels of one row each, as leaves."""
    return [torch.tensor([[[row]]], requires_grad=True) for row in values]


def test_equal_views_have_no_loss():
    views = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 2, 3)
    loss, clamped = dsl_loss(views, views)
    assert loss == 0
    assert clamped == 0


def test_the_largest_value():
    views = [[torch.full((1, 2, 3, 4), value) for _ in range(4)] for value in (0.0, 9.0)]
    loss, clamped = dsl_loss(*views)
    torch.testing.assert_close(loss, torch.tensor(4 * 0.01 * 0.1))
    assert clamped == 1


def test_value_and_gradients_by_hand():
    clean, dark = levels([0.0, 1.0, 2.0], [5.0]), levels([0.2, 1.0, 3.0], [5.1])
    loss, clamped = dsl_loss(clean, dark)
    # squares .04, 0 and 1, of which .1 is used; .01
    torch.testing.assert_close(loss, torch.tensor(0.01 * ((0.04 + 0.1) / 3 + 0.01)))
    assert clamped == pytest.approx((1 / 3 + 0) / 2)
    loss.backward()
    expected = 0.01 * 2 * torch.tensor([0.2, 0.0, 0.0]) / 3  # none beyond the limit
    torch.testing.assert_close(dark[0].grad.flatten(), expected)
    torch.testing.assert_close(clean[0].grad, -dark[0].grad)
    torch.testing.assert_close(dark[1].grad.flatten(), torch.tensor([0.01 * 2 * 0.1]))


def test_weight_and_limit():
    loss, clamped = dsl_loss(levels([0.0]), levels([3.0]), weight=0.5, limit=10.0)
    assert (loss.item(), clamped.item()) == (4.5, 0.0)


def test_levels_of_other_shapes():
    with pytest.raises(ValueError, match="levels of the same shapes"):
        dsl_loss(levels([0.0]), levels([0.0, 1.0]))
    with pytest.raises(ValueError, match="levels of the same shapes"):
        dsl_loss([], [])
