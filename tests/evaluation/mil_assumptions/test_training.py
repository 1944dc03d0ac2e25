"""Training on the bags of a test: the loop written out, what models are told, what is seeded."""

import copy
import math
import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluation.mil_assumptions.adapters import adapt
from evaluation.mil_assumptions.bags import concept_bags
from evaluation.mil_assumptions.suite import run_test
from evaluation.mil_assumptions.training import (
    AssumptionSettings,
    alone,
    area_under_roc,
    draw_bags,
    train_model,
)

FEW = AssumptionSettings(tests=(1,), seeds=2, train_bags=16, test_bags=8, epochs=2, batch_size=6)


class Linear(nn.Module):
    """The mean of linear scores, dropped out at random; one bag at a time."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(16, 1)

    def forward(self, x):
        return F.dropout(self.score(x), 0.5, self.training).mean()


def build_linear(seed):
    torch.manual_seed(seed)
    return adapt(Linear(), "bag")


def test_training_is_the_loop_written_out():
    """The same, with torch's plain optimizer, explicit epochs and a limit on gradients."""
    bags = draw_bags(1, 3, FEW).train
    model = build_linear(0)
    own = copy.deepcopy(model.module)
    torch.manual_seed(5)
    train_model(model, bags, FEW, seed=9)
    torch.manual_seed(5)
    own.train()
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3, weight_decay=0.01, foreach=False)
    generator = torch.Generator().manual_seed(9)
    for _ in range(2):
        order = torch.randperm(16, generator=generator).tolist()
        for rows in (order[:6], order[6:12], order[12:]):
            logits = torch.stack([own(bags.features[row]) for row in rows])
            targets = torch.tensor([float(row % 2) for row in rows])
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, targets).backward()
            for p in own.parameters():
                p.grad = torch.where(p.grad.isnan(), torch.zeros(()), p.grad).clip(-5, 5)
            optimizer.step()
    for ours, theirs in zip(model.module.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_layers_that_take_their_width_from_the_first_bag_are_trained():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.LazyLinear(1)

        def forward(self, x):
            x = F.dropout(x, 0.01, self.training)  # would draw before the weights are
            return self.score(x).max()

    model = adapt(Lazy(), "bag")
    with alone(0):
        train_model(model, draw_bags(1, 0, FEW).train, FEW, 0)
    with alone(0):
        same = nn.Linear(16, 1)
    assert not torch.equal(model.module.score.weight, same.weight)
    torch.testing.assert_close(model.module.score.weight, same.weight, rtol=0, atol=7e-3)  # 6 steps


class Spy(nn.Module):
    """Parameters whose gradients are chosen: not a number, infinite, large, and -6."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(4))
        self.weights.register_hook(lambda _: torch.tensor([math.nan, math.inf, 7.0, -6.0]))

    def forward(self, x):
        return self.weights.sum()


def test_gradients_are_limited_and_numbers(monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def keep(self, *args, **kwargs):
        seen.append(self.param_groups[0]["params"][0].grad.tolist())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    model = adapt(Spy(), "bag")
    train_model(model, draw_bags(1, 0, FEW).train, FEW, 0)
    assert seen == [[0.0, 5.0, 5.0, -5.0]] * 6  # two epochs of three steps


class Watched(NamedTuple):
    """What a training calls, in order."""

    module: nn.Module
    calls: list
    first: object = None
    adapter: str = "bag"
    permutation_invariant: bool | None = None

    def logits(self, bags):
        self.calls.append(("logits", len(bags), self.module.training))
        return torch.stack([self.module(bag) for bag in bags])

    def loss(self, bags, labels):
        self.calls.append(("loss", labels.tolist(), self.module.training))
        return torch.stack([self.module(bag) for bag in bags]).square().mean()

    def first_stage(self):
        return self.first

    def before_training(self, labels, sizes):
        self.calls.append(("before", labels.tolist(), sizes.tolist()))

    def before_step(self, progress, numbers):
        self.calls.append(("step", progress, numbers.tolist()))

    def after_step(self):
        self.calls.append(("after",))


def test_what_a_model_is_told_and_when():
    calls = []
    first = Watched(Linear(), first_calls := [])
    model = Watched(Linear(), calls, first)
    bags = draw_bags(1, 0, FEW).train
    train_model(model, bags, FEW, 0)
    assert calls[0] == ("before", [0, 1] * 8, [45] * 16)
    assert [call[0] for call in calls[1:]] == ["step", "loss", "after"] * 6
    assert [call[1] for call in calls[1::3]] == pytest.approx([k / 6 for k in range(6)])
    for step, loss in zip(calls[1::3], calls[2::3], strict=True):
        assert loss[1:] == ([number % 2 for number in step[2]], True)
    for epoch in (calls[1:10:3], calls[10::3]):
        assert sorted(number for call in epoch for number in call[2]) == [*range(16)]
    assert len(first_calls) == len(calls)  # the first stage was trained likewise, and before
    assert area_under_roc(model, bags) in np.linspace(0, 1, 129)
    assert calls[-1] == ("logits", 16, False)


def test_area_under_roc_counts_ties_half():
    bags = concept_bags(1, "train", 8, 0)  # the largest of each bag decides; labels 0, 1, 0, 1, ...
    scores = dict(zip(map(id, bags.features), [3, 3, 1, 4, 0, 3, 5, 1], strict=True))
    model = Watched(lambda bag: torch.tensor(float(scores[id(bag)])), [])
    model = model._replace(module=_Scores(scores))
    # pairs (positive, negative): 3 against 3, 1, 0, 5 wins 2.5; 4: 3; 3: 2.5; 1: 1.5 of 16
    assert area_under_roc(model, bags) == pytest.approx((2.5 + 3 + 2.5 + 1.5) / 16)


class _Scores(nn.Module):
    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, bag):
        return torch.tensor(float(self.scores[id(bag)]))


def test_bags_are_scaled_by_the_training_instances_of_their_test():
    bags = draw_bags(2, 4, FEW)
    train, test = (concept_bags(2, split, n, 4) for split, n in (("train", 16), ("test", 8)))
    packed = torch.cat(train.features)
    for scaled, raw in ((bags.train, train), (bags.test, test)):
        expected = (torch.cat(raw.features) - packed.mean(0)) / packed.std(0, correction=0)
        torch.testing.assert_close(torch.cat(scaled.features), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(scaled.labels, raw.labels)
    back = bags.original(bags.test.features[3])
    torch.testing.assert_close(back, test.features[3], rtol=1e-4, atol=1e-4)


def streams():
    return torch.rand(1).item(), np.random.rand(), random.random()


def test_everything_random_is_seeded_and_restored():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with alone(3):
            first = streams()
            assert torch.get_num_threads() == 1
        between = streams()
        with pytest.raises(KeyError), alone(3):
            assert streams() == first
            raise KeyError
        assert torch.get_num_threads() == 2
        assert not set(streams()) & {*first, *between}  # they went on from where they were
        with alone(4):
            assert not set(streams()) & set(first)
    finally:
        torch.set_num_threads(threads)


def test_weights_that_are_drawn_from_numpy_depend_on_the_seed():
    drawn = []

    def remember(seed):
        drawn.append(np.random.rand())
        return build_linear(seed)

    for seed in (1, 2, 1):
        np.random.rand(2)
        run_test(remember, 1, seed, FEW)
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": (1, 1)}, "must be different numbers"),
        ({"tests": (4,)}, "out of 1, 2, 3"),
        ({"tests": ()}, "out of 1, 2, 3"),
        ({"seeds": 0}, "seeds must be positive"),
        ({"epochs": 0}, "epochs must be positive"),
        ({"batch_size": 0}, "batch_size must be positive"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AssumptionSettings(**change)


def test_defaults_are_those_of_the_command():
    settings = AssumptionSettings()
    assert (settings.train_bags, settings.test_bags, settings.size, settings.dim) == (
        2000,
        1000,
        45,
        16,
    )
    assert (settings.epochs, settings.batch_size, settings.seeds) == (12, 32, 3)
    assert (settings.learning_rate, settings.weight_decay, settings.largest_gradient) == (
        1e-3,
        0.01,
        5,
    )
