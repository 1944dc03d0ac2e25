"""The search for counter-examples against exhaustive comparison and closed forms."""

import math

import pytest
import torch
from torch import nn

from evaluation.mil_assumptions.adapters import adapt
from evaluation.mil_assumptions.counter_example import (
    CounterExample,
    evaluated,
    scores,
    search_counter_example,
    tolerance,
)


class OfBag(nn.Module):
    """A function of one bag, with a parameter that multiplies it by 1."""

    def __init__(self, function):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.function = function

    def forward(self, X):
        return self.scale * self.function(X)


def model_of(function):
    return adapt(OfBag(function), "bag")


def some_bags(dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    bags = [torch.randn(n, dim, generator=generator) for n in (1, 4, 2, 7)]
    return bags, 3 * torch.randn(20, dim, generator=generator)


def test_the_worst_of_all_pairs_is_returned():
    """Against a loop over bags and candidates: the mean falls by what is below it."""
    bags, candidates = some_bags()
    found = search_counter_example(model_of(lambda X: X.sum(1).mean()), bags, candidates)
    drops = {
        (b, c): (bag.sum() / len(bag) - (bag.sum() + row.sum()) / (len(bag) + 1)).item()
        for b, bag in enumerate(bags)
        for c, row in enumerate(candidates)
    }
    b, c = max(drops, key=drops.get)
    assert found.bag.equal(bags[b])
    assert found.added.equal(candidates[c])
    assert found.before - found.after == pytest.approx(drops[b, c], abs=1e-5)
    assert found.before == pytest.approx(bags[b].sum(1).mean().item(), abs=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda X: X.sum(1).amax(),
        lambda X: X.sum(1).exp().sum().log(),
        lambda X: X.amax(0).sum(),
        lambda X: (X[:, 0] > 0).sum() * 0.5,
        lambda X: X.sum() * 0.0,
    ],
    ids=["max", "log_sum_exp", "concepts", "steps", "constant"],
)
def test_nothing_is_found_where_there_is_nothing(function):
    bags, candidates = some_bags()
    assert search_counter_example(model_of(function), bags, candidates) is None


def hidden_pit(X):
    """At most 1, less a pit of depth 5 for whatever is near (8, 8, 8)."""
    distance = (X - 8.0).square().sum(1)
    return X[:, 0].amax().clamp(max=1.0) - 5 * torch.exp(-distance / 4).amax()


def test_the_gradient_finds_what_no_candidate_does():
    bags = [torch.full((3, 3), 1.5), torch.full((2, 3), 1.5)]
    # the nearer candidate is 6 sqrt(3) away, where the pit is exp(-27) deep
    candidates = torch.tensor([[2.0, 2.0, 2.0], [2.0, 2.0, 1.0]])
    found = search_counter_example(model_of(hidden_pit), bags, candidates, steps=40)
    assert found is not None
    assert (found.added - 8).norm().item() < 1.0
    assert found.before - found.after > 4.0
    by_hand = hidden_pit(torch.cat([found.bag, found.added.unsqueeze(0)])).item()
    assert found.after == pytest.approx(by_hand, abs=1e-5)
    assert search_counter_example(model_of(hidden_pit), bags, candidates, steps=0) is None


@pytest.mark.parametrize("start", [1.0, 100.0])
def test_a_step_has_a_tenth_of_the_length(start):
    """The smallest value counts up to the start; one of 1 is as long as a normal instance."""

    def lowest(X):
        return X.amin().clamp(max=start)

    bags, candidates = [torch.tensor([[2 * start]])], torch.tensor([[start]])
    assert search_counter_example(model_of(lowest), bags, candidates, steps=0) is None
    for steps in (1, 3):
        found = search_counter_example(model_of(lowest), bags, candidates, steps=steps)
        shrunk = 1 - 0.1 * steps if start == 1 else 100 * 0.9**steps
        assert found.before == start
        assert found.after == pytest.approx(shrunk, rel=1e-6)
        assert found.added.item() == pytest.approx(shrunk, rel=1e-6)


def test_the_best_of_the_way_is_kept_not_the_last():
    """A pit at 40 is stepped over: steps have a tenth of the instance's length."""

    def narrow(X):
        return X[:, 0].amax() - 3 * torch.exp(-(X[:, 1] - 40.0).square() / 40).amax()

    bags, candidates = [torch.zeros(2, 2)], torch.tensor([[-1.0, 10.0]])
    drops = []
    for steps in range(20, 50, 3):
        found = search_counter_example(model_of(narrow), bags, candidates, steps=steps)
        drops.append(found.before - found.after)
    assert drops == sorted(drops)
    assert 2.7 < drops[-1] <= 3


def test_what_is_no_number_is_no_counter_example():
    def overflowing(X):
        return X[:, 0].amax() + torch.where(X.amax() > 3, torch.nan, 0.0)

    bags = [torch.zeros(2, 3)]
    candidates = torch.tensor([[9.0, 9.0, 9.0], [1.0, 0.0, 0.0]])
    assert search_counter_example(model_of(overflowing), bags, candidates) is None
    for nothing in (torch.nan, -torch.inf):  # beside a real one

        def falling(X, nothing=nothing):
            return X.mean() + torch.where(X.amax() > 3, nothing, 0.0)

        candidates = torch.tensor([[9.0, 9.0, 9.0], [-3.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
        found = search_counter_example(model_of(falling), bags, candidates)
        assert found.added.tolist() == [-3.0, 0.0, 0.0]
        assert found.after == pytest.approx(-1 / 3)
    bags = [torch.zeros(2, 3)]
    assert search_counter_example(model_of(lambda X: X.min()), bags, -candidates) is not None


def test_the_model_is_left_as_it_was():
    layer = nn.Linear(3, 1)
    module = OfBag(lambda X: layer(X).mean())
    module.layer = layer
    model, before = adapt(module, "bag"), layer.weight.detach().clone()
    bags, candidates = some_bags()
    for training in (True, False):
        module.train(training)
        found = search_counter_example(model, bags, candidates)
        assert module.training is training
        assert layer.weight.dtype == torch.float32
        assert layer.weight.equal(before)
        assert layer.weight.grad is None
        assert found.bag.dtype == found.added.dtype == torch.float32


def test_dropout_is_off_while_searching():
    drop = nn.Dropout(0.5)
    module = OfBag(lambda X: drop(X).amax())
    module.drop = drop
    bags, candidates = some_bags()
    assert search_counter_example(adapt(module.train(), "bag"), bags, candidates) is None


def test_the_search_is_in_float64_where_that_is_possible():
    dtypes = []

    def remember(X):
        dtypes.append(X.dtype)
        return X.amax()

    bag = torch.zeros(2, 3)
    model = model_of(remember)
    assert model.module.training
    with evaluated(model, bag) as dtype:
        assert dtype == torch.float64
        assert not model.module.training
    assert model.module.training
    assert set(dtypes) == {torch.float64}
    constant = torch.ones(3)  # not of the module's own, so it stays float32

    def stubborn(X):
        return X.mv(constant).amax()

    model = model_of(stubborn)
    with evaluated(model, bag) as dtype:
        assert dtype == torch.float32
        assert model.module.scale.dtype == torch.float32
    model.module.double()
    with evaluated(model_of(remember), bag), evaluated(model_of(remember), bag):
        pass
    inner = model_of(remember)
    with evaluated(inner, bag), evaluated(inner, bag) as dtype:  # a search within other tests
        assert dtype == torch.float64
    assert inner.module.scale.dtype == torch.float32


@pytest.mark.parametrize(("drop", "found"), [(5e-7, False), (2e-6, True)])
def test_rounding_is_no_counter_example(drop, found):
    def almost(X):
        return X.amax().tanh() - drop * len(X)

    bags = [torch.zeros(2, 3)]
    result = search_counter_example(model_of(almost), bags, torch.ones(1, 3) * -1, steps=0)
    assert (result is not None) is found


@pytest.mark.parametrize(("noise", "found"), [(0.001, True), (1.0, False)])
def test_noise_is_no_counter_example(noise, found):
    """The mean of a bag of zeros falls by 1/2; noise of evaluation must not be taken for that."""

    def drawing(X):
        return X.mean() + noise * torch.rand(())

    torch.manual_seed(0)
    bags, added = [torch.zeros(1, 3)] * 4, -torch.ones(1, 3)
    result = search_counter_example(model_of(drawing), bags, added, steps=0)
    assert (result is not None) is found


def test_tolerance_follows_the_logit():
    for dtype, share in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
        limits = tolerance(torch.tensor([0.1, -20.0, 300.0], dtype=dtype))
        wanted = torch.tensor([1.0, 20.0, 300.0], dtype=dtype) * share
        torch.testing.assert_close(limits, wanted)


def test_scores_keep_the_order_of_the_bags():
    bags = [torch.full((n, 2), float(n)) for n in (3000, 1, 50, 2, 1999, 7)]
    model = model_of(lambda X: X.mean())
    assert scores(model, bags).tolist() == [3000.0, 1.0, 50.0, 2.0, 1999.0, 7.0]
    assert not scores(model, bags).requires_grad


def test_an_example_can_be_read():
    bag, added = torch.zeros(1, 6), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 3.0])
    text = CounterExample(bag, added, 1.25, -0.5).describe()
    spread = math.sqrt((4 + 1 + 0 + 1 + 4 + 0) / 6)
    assert text == (
        "a bag of 1 instance has the logit 1.25; with a further instance (1, 2, 3, 4, ...; mean 3, "
        f"std {spread:.3g}) it has -0.5"
    )
    assert CounterExample(bag, added, 1.25, -0.5).record()["added"] == added.tolist()
