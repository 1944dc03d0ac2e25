"""The loss against sums written out, and what it must not depend on."""

import math

import pytest
import torch

from models.losses.supervised_contrastive import supervised_contrastive_loss

# Four unit vectors in the plane; products of pairs: 12: .6, 13: 0, 14: -.8, 23: .8, 24: 0, 34: .6.
ROWS = torch.tensor([[1, 0], [0.6, 0.8], [0, 1], [-0.8, 0.6]], dtype=torch.float64)


def plain(rows, labels, temperature):
    """The formula as sums over indices."""
    total, anchors = 0.0, 0
    for i in range(len(rows)):
        others = [a for a in range(len(rows)) if a != i]
        shares = {a: math.exp(float(rows[i] @ rows[a]) / temperature) for a in others}
        partners = [a for a in others if labels[a] == labels[i]]
        if partners:
            logs = [math.log(shares[p] / sum(shares.values())) for p in partners]
            total, anchors = total - sum(logs) / len(partners), anchors + 1
    return total / max(anchors, 1)


def test_four_vectors_by_hand():
    # t = 1/2 doubles the products. Labels 0 0 1 2: anchors 1 and 2, each the other's partner.
    #   anchor 1: log(e^1.2 + e^0 + e^-1.6) - 1.2
    #   anchor 2: log(e^1.2 + e^1.6 + e^0) - 1.2
    first = math.log(math.exp(1.2) + 1 + math.exp(-1.6)) - 1.2
    second = math.log(math.exp(1.2) + math.exp(1.6) + 1) - 1.2
    loss = supervised_contrastive_loss(ROWS, torch.tensor([0, 0, 1, 2]), 0.5)
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-12)
    # Labels 0 0 0 1 at t = 1: anchors 1, 2, 3 with two partners each, averaged inside the mean.
    one = math.log(math.exp(0.6) + 1 + math.exp(-0.8)) - (0.6 + 0) / 2
    two = math.log(math.exp(0.6) + math.exp(0.8) + 1) - (0.6 + 0.8) / 2
    three = math.log(1 + math.exp(0.8) + math.exp(0.6)) - (0 + 0.8) / 2
    loss = supervised_contrastive_loss(ROWS, torch.tensor([0, 0, 0, 1]), 1.0)
    assert loss.item() == pytest.approx((one + two + three) / 3, abs=1e-12)


def test_the_default_temperature_is_a_tenth():
    # Two pairs at right angles: log(1 + 2 e^(-1/t)), with t = 0.1 about 9e-5.
    rows = torch.eye(2, dtype=torch.float64).repeat(2, 1)
    loss = supervised_contrastive_loss(rows, torch.tensor([0, 1, 0, 1]))
    assert loss.item() == pytest.approx(math.log1p(2 * math.exp(-10)), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_formula_as_sums(seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    rows = rows / rows.norm(dim=1, keepdim=True)
    labels = torch.randint(0, 4, (9,), generator=generator)
    expected = plain(rows, labels, 0.3)
    assert supervised_contrastive_loss(rows, labels, 0.3).item() == pytest.approx(expected, 1e-12)
    order = torch.randperm(9, generator=generator)
    moved = supervised_contrastive_loss(rows[order], labels[order], 0.3)
    assert moved.item() == pytest.approx(expected, 1e-12)


def test_gradients():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 2, 1, 1])
    assert torch.autograd.gradcheck(lambda r: supervised_contrastive_loss(r, labels, 0.7), rows)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5]])
def test_without_partners_it_is_exactly_0_and_connected(labels):
    rows = ROWS[: len(labels)].clone().requires_grad_()
    loss = supervised_contrastive_loss(rows, torch.tensor(labels), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(rows.grad, torch.zeros_like(rows))


def test_bags_with_several_labels_are_partners_where_all_agree():
    labels = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 1]])
    loss = supervised_contrastive_loss(ROWS, labels, 0.5)
    expected = supervised_contrastive_loss(ROWS, torch.tensor([0, 0, 1, 2]), 0.5)
    assert loss.item() == expected.item()


def test_half_precision_is_widened():
    rows = ROWS.to(torch.bfloat16)
    labels = torch.tensor([0, 0, 1, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = supervised_contrastive_loss(rows, labels, 0.07)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain(rows.double(), labels, 0.07), rel=1e-5)
