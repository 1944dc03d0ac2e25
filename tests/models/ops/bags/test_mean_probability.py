import math

import pytest
import torch

from models.ops.bags.mean_probability import logits_of_mean_probability
from structures import MILOutput

CLOSE = {"rtol": 0, "atol": 1e-6}


def test_odds_of_a_mean_probability():
    logits = torch.tensor([[[math.log(3)], [-math.log(3)], [0.0], [math.log(7)]]])
    # probabilities 3/4, 1/4, 1/2, 7/8: the mean is 19/32, the odds 19/13
    mean = logits_of_mean_probability(logits, "binary")
    torch.testing.assert_close(mean.exp(), torch.tensor([[19 / 13]]), rtol=0, atol=2e-6)
    assert torch.equal(mean, logits_of_mean_probability(logits, "multilabel"))
    # far out the odds are means of the odds: (exp(200) is lost, 2 exp(-300) decides) and mirrored
    far = torch.tensor([[[-300.0], [-300.0 + math.log(3)]], [[300.0], [300.0 - math.log(3)]]])
    expected = torch.tensor([[-300 + math.log(2)], [300 - math.log(2)]])
    torch.testing.assert_close(
        logits_of_mean_probability(far, "binary"), expected, rtol=1e-6, atol=0
    )
    classes = torch.tensor([[[1.0, 2.0, 5.0], [0.0, 0.0, 0.0], [7.0, -7.0, 1.0]]])
    found = logits_of_mean_probability(classes, "multiclass")
    torch.testing.assert_close(found.exp(), classes.softmax(2).mean(1), **CLOSE)


def test_logit_of_a_mean_probability_by_hand():
    odds = torch.tensor([0.9, 0.2]).logit().view(1, 2, 1)
    assert logits_of_mean_probability(odds, "binary").sigmoid().item() == pytest.approx(0.55)
    classes = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]]]).log() + 3
    found = logits_of_mean_probability(classes, "multiclass").softmax(1)
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.2, 0.4]]), **CLOSE)
    labels = torch.tensor([[[0.5, 0.9], [0.1, 0.3]]]).logit()
    found = logits_of_mean_probability(labels, "multilabel").sigmoid()
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.6]]), **CLOSE)
    far = torch.full((1, 2, 1), 200.0)  # 1 - p is 0 in single precision
    torch.testing.assert_close(logits_of_mean_probability(far, "binary"), far[:, 0])


def test_half_precision_is_widened():
    logits = torch.tensor([[[2.0], [-1.0]]])
    found = logits_of_mean_probability(logits.bfloat16(), "binary")
    assert torch.equal(found, logits_of_mean_probability(logits, "binary"))


def several(bins=4, scale=3.0):
    random = torch.Generator().manual_seed(0)
    return scale * torch.randn(6, 5, bins, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("task", ["discrete_time", "ordinal"])
def test_mean_of_survival_and_of_grades(task):
    """Predictions of the result are the means of the predictions."""
    logits = several()
    each = [MILOutput(logits[:, k]).probabilities(task) for k in range(5)]
    found = MILOutput(logits_of_mean_probability(logits, task)).probabilities(task)
    torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=0, atol=1e-12)
    same = logits[:, :1].expand(-1, 3, -1)
    torch.testing.assert_close(logits_of_mean_probability(same, task), logits[:, 0])


def test_hazards_of_a_mean_survival_do_not_cancel():
    logits = torch.tensor([[[-30.0, 40.0], [-31.0, 50.0]]])  # float32: 1 - S_1 is 0
    found = logits_of_mean_probability(logits, "discrete_time")
    hazard = (math.exp(-30) + math.exp(-31)) / 2
    assert found[0, 0].exp().item() == pytest.approx(hazard, rel=1e-5)
    assert found.isfinite().all()


@pytest.mark.parametrize("task", ["cox", "regression"])
def test_mean_of_risks_and_of_values(task):
    logits = several()
    torch.testing.assert_close(logits_of_mean_probability(logits, task), logits.mean(1))
