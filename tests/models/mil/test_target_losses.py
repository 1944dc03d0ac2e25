"""The wrappers hand on what they should; formulas are tested in tests/models/losses."""

import math

import pytest
import torch

from models.losses.survival import cox_shares, discrete_time_loss, regression_loss
from models.mil.abmil import ABMIL
from models.mil.aem import AEM
from models.mil.dsmil import DSMIL
from models.mil.protocol import MILModel
from models.mil.target_losses import (
    BreslowCox,
    CensoringWeighted,
    HuberRegression,
    risks_of_terms,
    ties_of,
)
from structures import BagBatch, MILOutput
from tests.models.mil.test_imbalance import Curious

CLOSE = {"rtol": 0, "atol": 1e-6}
TIMES = torch.tensor([[2.0, 1], [1, 1], [2, 1], [3, 0]]).double()
VALUES = torch.tensor([[0.0, 5.0], [1.0, math.nan], [math.nan, math.nan], [0.0, 0.0]]).double()


def small(in_features, num_classes, task):
    return ABMIL(in_features, num_classes, task, hidden_sizes=(6,), attention_dim=3)


def streams(in_features, num_classes, task):
    return DSMIL(in_features, num_classes, task, attention_dim=3, average=True)


def bag_batch(labels):
    features = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    return BagBatch(features, torch.tensor([0, 3, 4, 8, 10]), labels, torch.arange(4))


def cases():
    bins = torch.tensor([[1.0, 1], [0, 0], [1, 0], [2, 1]]).double()
    yield (
        BreslowCox(4, 1, "cox", learner=small), TIMES,
        lambda x: cox_shares(x[:, 0], TIMES[:, 0], TIMES[:, 1] == 1, "breslow"), 3,
    )  # fmt: skip
    yield (
        CensoringWeighted(4, 3, "discrete_time", learner=small, alpha=0.15), bins,
        lambda x: discrete_time_loss(x, bins) * torch.tensor([1, 0.85, 0.85, 1]), 4,
    )  # fmt: skip
    yield (
        HuberRegression(4, 2, "regression", learner=small, delta=0.5), VALUES,
        lambda x: regression_loss(x, VALUES, 0.5), 3,
    )  # fmt: skip


@pytest.mark.parametrize("number", range(3))
def test_the_loss_is_replaced(number):
    model, labels, formula, counted = list(cases())[number]
    assert isinstance(model, MILModel)
    bags = bag_batch(labels)
    output = model(bags)
    assert torch.equal(output.logits, model.learner(bags).logits)
    each, wanted = model.losses(output, bags, "none"), formula(output.logits)
    torch.testing.assert_close(each["bag"], wanted, **CLOSE)
    found = model.losses(output, bags)["bag"]
    torch.testing.assert_close(found, wanted.sum() / counted, **CLOSE)
    plain = model.learner.losses(output, bags)["bag"]
    assert abs(float(plain - found)) > 1e-3


def test_all_else_is_the_models():
    model = HuberRegression(4, 1, "regression", learner=Curious)
    bags = bag_batch(VALUES[:, :1])
    model.set_training_bags(torch.tensor([0]), VALUES[:1], torch.tensor([3]))
    assert model.learner.told is not None
    assert not model.permutation_invariant
    assert model.joint_terms == ("second",)
    assert model.loss_factors(0.25) == {"second": 0.25}
    output = model(bags)
    assert model.losses(output, bags)["second"] == model.learner.losses(output, bags)["second"]
    assert model.leave_one_out is None
    assert BreslowCox(4, 1, "cox", learner=small).leave_one_out is not None


def test_a_wrapped_term_compares_the_prediction():
    """Also for a model that trains a stream of its own by it, and inside another wrapper."""
    model = BreslowCox(4, 1, "cox", learner=streams)
    bags = bag_batch(TIMES)
    output = model(bags)
    assert not torch.equal(output.logits, output.bag_logits)
    risks = risks_of_terms(model, output)
    assert risks["bag"][0] is output.logits
    assert risks["instance"][0] is output.critical_logits
    assert risks_of_terms(model.learner, output)["bag"][0] is output.bag_logits
    outer = AEM(4, 1, "cox", learner=lambda *facts: BreslowCox(*facts, learner=small))
    assert (ties_of(outer), ties_of(small(4, 1, "cox"))) == ("breslow", "efron")
    assert set(outer.losses(outer(bags), bags)) == {"bag", "entropy"}


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match=r"alpha lies in \[0, 1\]"):
        CensoringWeighted(4, 3, "discrete_time", learner=small, alpha=alpha)


def test_delta_out_of_range():
    with pytest.raises(ValueError, match="delta is positive"):
        HuberRegression(4, 3, "regression", learner=small, delta=0.0)
    model = HuberRegression(4, 1, "regression", learner=small, delta=1e6)
    logits = torch.tensor([[3.0]])
    squares = model.bag_losses(logits, torch.tensor([[1.0]]).double())
    assert (squares.item(), MILOutput(logits).predictions("regression").item()) == (2.0, 3.0)
