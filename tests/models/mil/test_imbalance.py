"""The wrappers hand on what they should; their formulas are tested in tests/models/losses."""

import pytest
import torch

from models.losses.bag_classification import bag_classification_loss
from models.losses.imbalance import (
    focal_loss,
    inverse_frequency_weights,
    logit_adjusted_loss,
    weighted_loss,
)
from models.mil.abmil import ABMIL
from models.mil.imbalance import ClassWeightedMIL, FocalMIL, LogitAdjustedMIL
from models.mil.protocol import MILModel, UsesTrainingBags
from structures import BagBatch, MILOutput

CLOSE = {"rtol": 0, "atol": 1e-6}


def small(in_features, num_classes, task):
    return ABMIL(in_features, num_classes, task, hidden_sizes=(6,), attention_dim=3)


class Curious(torch.nn.Module):
    """A model with a second term that asks for the training bags and does not bear reordering."""

    permutation_invariant = False
    joint_terms = ("second",)

    def __init__(self, in_features, num_classes, task):
        super().__init__()
        self.task, self.line, self.told = task, torch.nn.Linear(in_features, 1), None

    def set_training_bags(self, numbers, labels, sizes):
        self.told = numbers, labels, sizes

    def loss_factors(self, progress):
        return {"second": progress}

    def forward(self, bags):
        return MILOutput(self.line(bags.features[bags.offsets[:-1]]))

    def losses(self, output, bags, reduction="mean"):
        second = output.logits.square().sum(1)
        both = {"bag": second * 100, "second": second}
        return both if reduction == "none" else {n: t.mean() for n, t in both.items()}


def bag_batch(sizes, labels, width=4):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(sum(sizes), width, generator=generator)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return BagBatch(features, offsets, torch.tensor(labels), torch.arange(len(sizes)))


def told(model, labels):
    labels = torch.tensor(labels)
    count = torch.arange(labels.shape[0])
    model.set_training_bags(count, labels, count + 1)
    return model


TASKS = {
    "binary": (2, [0, 1, 0], [0, 0, 0, 1]),
    "multiclass": (3, [0, 2, 1], [0, 0, 0, 1, 2, 2]),
    "multilabel": (2, [[0, 1], [1, 1], [0, 0]], [[0, 1], [1, 0], [0, 0], [0, 1]]),
}
COUNTS = {"binary": [3, 1], "multiclass": [3, 1, 2], "multilabel": [[3, 1], [2, 2]]}


@pytest.mark.parametrize("task", TASKS)
def test_the_classification_loss_is_that_of_the_training_bags(task):
    classes, labels, training = TASKS[task]
    bags, counts = bag_batch([3, 1, 2], labels), torch.tensor(COUNTS[task])
    alpha = None if task == "multiclass" else 0.7
    models = [
        FocalMIL(4, classes, task, learner=small, gamma=1.5, alpha=alpha),
        ClassWeightedMIL(4, classes, task, learner=small),
        ClassWeightedMIL(4, classes, task, learner=small, beta=0.9),
        LogitAdjustedMIL(4, classes, task, learner=small, tau=0.8),
    ]
    logits = models[0](bags).logits
    expected = [
        focal_loss(logits, bags.labels, task, 1.5, alpha),
        weighted_loss(logits, bags.labels, task, inverse_frequency_weights(counts)),
        weighted_loss(logits, bags.labels, task, inverse_frequency_weights(counts, 0.9)),
        logit_adjusted_loss(logits, bags.labels, task, counts, 0.8),
    ]
    for model, wanted in zip(models, expected, strict=True):
        assert isinstance(model, MILModel)
        assert isinstance(model, UsesTrainingBags)
        told(model, training)
        assert torch.equal(model.counts, counts)
        output = MILOutput(logits)
        each = model.losses(output, bags, "none")
        assert set(each) == {"bag"}
        torch.testing.assert_close(each["bag"], wanted, **CLOSE)
        torch.testing.assert_close(model.losses(output, bags)["bag"], wanted.mean(), **CLOSE)


@pytest.mark.parametrize("wrapper", [FocalMIL, ClassWeightedMIL, LogitAdjustedMIL])
def test_all_else_is_the_models(wrapper):
    torch.manual_seed(0)
    model = wrapper(4, 2, "binary", learner=Curious)
    bags = bag_batch([3, 1], [0, 1])
    told(model, [0, 0, 1])
    numbers, labels, sizes = model.learner.told
    assert (numbers.tolist(), labels.tolist(), sizes.tolist()) == ([0, 1, 2], [0, 0, 1], [1, 2, 3])
    assert not model.permutation_invariant
    assert model.joint_terms == ("second",)
    assert model.loss_factors(0.25) == {"second": 0.25}
    output = model(bags)
    assert torch.equal(output.logits, model.learner(bags).logits)
    terms, own = model.losses(output, bags), model.learner.losses(output, bags)
    assert set(terms) == {"bag", "second"}
    assert terms["second"] == own["second"]
    assert terms["bag"] < own["bag"]
    plain = wrapper(4, 2, "binary", learner=small)
    assert plain.permutation_invariant
    assert plain.joint_terms == ()
    assert plain.loss_factors(0.25) == {}


def test_counts_travel_with_the_weights_and_no_bags_mean_equal_classes():
    told_model = told(LogitAdjustedMIL(4, 2, "binary", learner=small), [0, 0, 0, 1])
    fresh = LogitAdjustedMIL(4, 2, "binary", learner=small)
    bags = bag_batch([3, 1], [0, 1])
    for model in (fresh, ClassWeightedMIL(4, 2, "binary", learner=small)):
        output = model(bags)
        plain = bag_classification_loss(output.logits, bags.labels, "binary")
        torch.testing.assert_close(model.losses(output, bags, "none")["bag"], plain, **CLOSE)
    fresh.load_state_dict(told_model.state_dict())
    assert fresh.counts.tolist() == [3, 1]
    told(fresh, [0, 1, 1, 1, 1])  # told again, it forgets
    assert fresh.counts.tolist() == [1, 4]


def test_defaults_are_those_of_the_papers():
    assert FocalMIL(4, 2, "binary", learner=small).gamma == 2
    assert FocalMIL(4, 2, "binary", learner=small).alpha is None
    assert ClassWeightedMIL(4, 2, "binary", learner=small).beta is None
    assert LogitAdjustedMIL(4, 2, "binary", learner=small).tau == 1


@pytest.mark.parametrize(
    ("wrapper", "arguments", "message"),
    [
        (FocalMIL, {"gamma": -0.1}, "gamma is at least 0"),
        (FocalMIL, {"alpha": 1.0}, r"alpha in \(0, 1\)"),
        (FocalMIL, {"alpha": 0.0}, r"alpha in \(0, 1\)"),
        (FocalMIL, {"task": "multiclass", "alpha": 0.3}, "omit it for multiclass"),
        (ClassWeightedMIL, {"beta": 1.0}, r"beta lies in \(0, 1\)"),
        (ClassWeightedMIL, {"beta": 0.0}, r"beta lies in \(0, 1\)"),
        (LogitAdjustedMIL, {"tau": -1.0}, "tau is at least 0"),
    ],
)
def test_values_out_of_range(wrapper, arguments, message):
    arguments = {"task": "binary", "learner": small} | arguments
    with pytest.raises(ValueError, match=message):
        wrapper(4, 2, **arguments)
