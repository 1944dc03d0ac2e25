"""Each loss against values computed by hand, and against the plain loss where both must agree."""

import math

import pytest
import torch

from models.losses.bag_classification import bag_classification_loss
from models.losses.imbalance import (
    class_counts,
    focal_loss,
    inverse_frequency_weights,
    logit_adjusted_loss,
    weighted_loss,
)

CLOSE = {"rtol": 0, "atol": 1e-6}
# Logits whose probabilities are known: sigmoid(log 3) = 3/4; softmax(log 1, log 3, log 4) = k / 8.
BINARY = torch.tensor([[math.log(3)], [math.log(3)]])
MULTI = torch.tensor([[0.0, math.log(3), math.log(4)]]).repeat(3, 1)
CASES = {
    "binary": (BINARY, torch.tensor([1, 0]), [[3 / 4], [1 / 4]]),
    "multiclass": (MULTI, torch.tensor([0, 1, 2]), [[1 / 8], [3 / 8], [4 / 8]]),
    "multilabel": (
        torch.tensor([[math.log(3), 0.0], [0.0, -math.log(3)]]),
        torch.tensor([[1, 0], [1, 1]]),
        [[3 / 4, 1 / 2], [1 / 2, 1 / 4]],
    ),
}


def test_counts_of_each_task():
    assert class_counts(torch.tensor([2, 0, 0]), 4, "multiclass").tolist() == [2, 0, 1, 0]
    assert class_counts(torch.tensor([1, 0, 0]), 2, "binary").tolist() == [2, 1]
    several = torch.tensor([[1, 0], [1, 1], [1, 0]])
    assert class_counts(several, 2, "multilabel").tolist() == [[0, 3], [2, 1]]


def test_inverse_frequencies_by_hand():
    # n = 10, C = 3, w_c = n / (C n_c)
    weights = inverse_frequency_weights(torch.tensor([6, 3, 1]))
    torch.testing.assert_close(weights, torch.tensor([10 / 18, 10 / 9, 10 / 3]), **CLOSE)
    # a row a class for several labels: bags without, bags with
    rows = inverse_frequency_weights(torch.tensor([[8, 2], [5, 5]]))
    torch.testing.assert_close(rows, torch.tensor([[10 / 16, 10 / 4], [1.0, 1.0]]), **CLOSE)


def test_effective_numbers_by_hand():
    # beta = 1/2: 1 - beta^n = 3/4, 1/2 for n = 2, 1; proportional to 4/3, 2, mean over the three
    # bags (2 x 4/3 + 2) / 3 = 14/9: weights 6/7 and 9/7
    weights = inverse_frequency_weights(torch.tensor([2, 1]), 0.5)
    torch.testing.assert_close(weights, torch.tensor([6 / 7, 9 / 7]), **CLOSE)
    counts = torch.tensor([300, 40, 7])
    none, all_ = (inverse_frequency_weights(counts, beta) for beta in (1e-9, 1 - 1e-9))
    torch.testing.assert_close(none, torch.ones(3), **CLOSE)
    torch.testing.assert_close(all_, inverse_frequency_weights(counts), rtol=1e-5, atol=0)


@pytest.mark.parametrize("beta", [None, 0.9])
def test_weights_average_to_1_over_the_bags_and_rare_classes_weigh_more(beta):
    counts = torch.tensor([90, 9, 1, 0])
    weights = inverse_frequency_weights(counts, beta)
    assert (weights * counts).sum().item() == pytest.approx(100, rel=1e-6)
    assert weights[0] < weights[1] < weights[2] == weights[3]  # a class without bags as with one
    torch.testing.assert_close(
        inverse_frequency_weights(torch.zeros(2, dtype=torch.int64), beta), torch.ones(2), **CLOSE
    )


@pytest.mark.parametrize("task", CASES)
def test_weighted_loss_by_hand(task):
    logits, labels, shares = CASES[task]
    weights = torch.tensor([[2.0, 3.0], [5.0, 7.0]]) if task == "multilabel" else None
    weights = (
        torch.tensor([2.0, 3.0, 5.0][: 2 if task == "binary" else 3])
        if weights is None
        else weights
    )
    factors = {
        "binary": [[3.0], [2.0]],  # of labels 1 and 0
        "multiclass": [[2.0], [3.0], [5.0]],
        "multilabel": [[3.0, 5.0], [3.0, 7.0]],  # of (1, 0) and (1, 1), a row of weights a class
    }[task]
    expected = (-torch.tensor(shares).log() * torch.tensor(factors)).mean(dim=1)
    torch.testing.assert_close(weighted_loss(logits, labels, task, weights), expected, **CLOSE)


@pytest.mark.parametrize("task", CASES)
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_by_hand(task, gamma):
    logits, labels, shares = CASES[task]
    p = torch.tensor(shares)
    expected = (-((1 - p) ** gamma) * p.log()).mean(dim=1)
    torch.testing.assert_close(focal_loss(logits, labels, task, gamma), expected, **CLOSE)
    if task == "multiclass":
        return
    alphas = torch.where(labels.view(p.shape) == 1, 0.8, 0.2)
    expected = (-alphas * (1 - p) ** gamma * p.log()).mean(dim=1)
    torch.testing.assert_close(focal_loss(logits, labels, task, gamma, 0.8), expected, **CLOSE)


@pytest.mark.parametrize("task", CASES)
def test_each_loss_without_what_it_adds_is_the_plain_one(task):
    logits, labels, _ = CASES[task]
    plain = bag_classification_loss(logits, labels, task)
    even = torch.full((2, 2) if task == "multilabel" else (logits.shape[1] + 1,), 4)
    even = even[:2] if task == "binary" else even[: logits.shape[1]]
    for loss in (
        focal_loss(logits, labels, task, gamma=0.0),
        weighted_loss(logits, labels, task, inverse_frequency_weights(even)),
        logit_adjusted_loss(logits, labels, task, even),
        logit_adjusted_loss(logits, labels, task, even * 3 + 1, tau=0.0),
    ):
        torch.testing.assert_close(loss, plain, **CLOSE)


def test_the_default_gamma_is_2():
    logits, labels, _ = CASES["binary"]
    torch.testing.assert_close(
        focal_loss(logits, labels, "binary"), focal_loss(logits, labels, "binary", 2.0), **CLOSE
    )


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 2.0])
def test_focal_gradient_is_finite_for_certain_and_for_hopeless_bags(gamma):
    logits = torch.tensor([[200.0], [-200.0], [0.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([1, 1, 1]), "binary", gamma).sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0].item() == pytest.approx(0, abs=1e-9)
    assert logits.grad[1].item() == pytest.approx(-1, abs=1e-6)  # of -log p


def test_adjusted_logits_by_hand():
    # Classes 3 : 1. Binary logit 0 becomes log(1/3): p of class 1 is 1/4.
    counts = torch.tensor([3, 1])
    logits = torch.zeros(2, 1)
    loss = logit_adjusted_loss(logits, torch.tensor([1, 0]), "binary", counts)
    torch.testing.assert_close(loss, -torch.tensor([1 / 4, 3 / 4]).log(), **CLOSE)
    # tau = 2: odds 1 : 9
    loss = logit_adjusted_loss(logits, torch.tensor([1, 0]), "binary", counts, tau=2.0)
    torch.testing.assert_close(loss, -torch.tensor([1 / 10, 9 / 10]).log(), **CLOSE)
    # softmax(log 1, log 3, log 4) times (4, 2, 1): 4, 6, 4 of 14
    loss = logit_adjusted_loss(
        MULTI, torch.tensor([0, 1, 2]), "multiclass", torch.tensor([4, 2, 1])
    )
    torch.testing.assert_close(loss, -torch.tensor([4 / 14, 6 / 14, 4 / 14]).log(), **CLOSE)
    # Two labels: bags without and with each, 3 : 1 and 1 : 1
    counts = torch.tensor([[3, 1], [2, 2]])
    loss = logit_adjusted_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), "multilabel", counts)
    expected = -(math.log(1 / 4) + math.log(1 / 2)) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_class_without_bags_counts_as_one():
    loss = logit_adjusted_loss(torch.zeros(1, 1), torch.tensor([1]), "binary", torch.tensor([4, 0]))
    assert loss.item() == pytest.approx(-math.log(1 / 5), abs=1e-6)


@pytest.mark.parametrize("rare", [0.1, 0.02])
def test_logit_adjustment_moves_the_decision_by_the_log_prior(rare):
    """Two Gaussians N(-1, 1) and N(1, 1): the log-odds of x are 2 x + log(prior odds).

    Trained on the adjusted loss, the logit is 2 x alone and decides at 0, between the means; on
    the plain one it decides at -log(prior odds) / 2.
    """
    grid = torch.linspace(-9, 9, 721, dtype=torch.float64)
    density = [torch.exp(-((grid - m) ** 2) / 2) for m in (-1.0, 1.0)]
    mass = torch.cat([(1 - rare) * density[0], rare * density[1]])
    x, labels = grid.repeat(2), torch.arange(2).repeat_interleave(721)
    counts = torch.tensor([round(1000 * (1 - rare)), round(1000 * rare)])
    found = {}
    for name in ("plain", "adjusted"):
        line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [line],
            max_iter=40,
            tolerance_grad=1e-9,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def objective(line=line, optimizer=optimizer, name=name):
            optimizer.zero_grad()
            logits = (line[0] * x + line[1]).unsqueeze(1)
            if name == "plain":
                losses = bag_classification_loss(logits, labels, "binary")
            else:
                losses = logit_adjusted_loss(logits, labels, "binary", counts)
            loss = (losses * mass).sum() / mass.sum()
            loss.backward()
            return loss

        optimizer.step(objective)
        found[name] = line.detach()
    prior = math.log(rare / (1 - rare))
    torch.testing.assert_close(
        found["adjusted"], torch.tensor([2.0, 0.0]).double(), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        found["plain"], torch.tensor([2.0, prior]).double(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("task", CASES)
def test_half_precision_is_widened(task):
    logits, labels, _ = CASES[task]
    counts = torch.tensor([[3, 1], [1, 4]]) if task == "multilabel" else torch.tensor([3, 1, 9])
    counts = counts[:2] if task == "binary" else counts
    half = logits.bfloat16()
    for loss in (
        lambda x: focal_loss(x, labels, task),
        lambda x: weighted_loss(x, labels, task, inverse_frequency_weights(counts)),
        lambda x: logit_adjusted_loss(x, labels, task, counts),
    ):
        assert loss(half).dtype == torch.float32
        torch.testing.assert_close(loss(half), loss(half.float()), rtol=0, atol=0)
        assert loss(logits.double()).dtype == torch.float64
