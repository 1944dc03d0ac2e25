"""Every adapter against modules called by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluation.mil_assumptions.adapters import adapt
from evaluation.mil_assumptions.bag_models import PaddedModel, mask_place
from models.mil.abmil import ABMIL
from models.mil.imbalance import ClassWeightedMIL
from models.mil.pooling import InstancePooling
from structures import BagBatch, MILOutput

WIDTH = 4


def bags_of(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, WIDTH, generator=generator) for size in sizes]


class MaskedMax(nn.Module):
    """The largest score of the rows that the mask names; remembers what it was called with."""

    def __init__(self, keep_column=False):
        super().__init__()
        self.score = nn.Linear(WIDTH, 1)
        self.keep_column = keep_column

    def forward(self, X, mask):
        self.seen = (X, mask)
        scores = self.score(X).squeeze(2).masked_fill(~mask, -torch.inf).amax(1)
        return scores.unsqueeze(1) if self.keep_column else (scores, "attention")


class OneBag(nn.Module):
    """The sum of the scores of one bag, in a shape of one's choice."""

    def __init__(self, shape=()):
        super().__init__()
        self.score = nn.Linear(WIDTH, 1)
        self.shape = shape

    def forward(self, x):
        return self.score(x).sum().reshape(self.shape)


@pytest.mark.parametrize("keep_column", [False, True])
def test_batch_pads_with_zeros_and_tells_what_is_real(keep_column):
    bags, module = bags_of([2, 3, 1]), MaskedMax(keep_column)
    model = adapt(module, "batch")
    logits = model.logits(bags)
    by_hand = torch.stack([module.score(bag).max() for bag in bags])
    torch.testing.assert_close(logits, by_hand)
    assert logits.requires_grad
    X, mask = module.seen
    assert mask.tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert not X[~mask].any()
    assert X[mask].equal(torch.cat(bags))
    model.with_padding(10.0).logits(bags)
    noisy, noisy_mask = module.seen
    assert noisy_mask.equal(mask)
    assert noisy[mask].equal(torch.cat(bags))
    assert noisy[~mask].std() > 3


def test_a_tensor_is_bags_of_one_size():
    X = torch.randn(3, 5, WIDTH)
    for module, name in ((MaskedMax(), "batch"), (OneBag(), "bag")):
        model = adapt(module, name)
        torch.testing.assert_close(model.logits(X), model.logits(list(X)))
    learner = ABMIL(WIDTH, 2, "binary", hidden_sizes=(6,))
    model = adapt(learner.eval(), "packed")
    torch.testing.assert_close(model.logits(X), model.logits(list(X)))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1)])
def test_bag_takes_one_logit_of_any_shape(shape):
    bags, module = bags_of([2, 3, 1]), OneBag(shape)
    by_hand = torch.stack([module.score(bag).sum() for bag in bags])
    torch.testing.assert_close(adapt(module, "bag").logits(bags), by_hand)


@pytest.mark.parametrize(("module", "name"), [(MaskedMax(), "batch"), (OneBag(), "bag")])
def test_the_loss_of_plain_modules_is_the_mean_cross_entropy(module, name):
    bags, labels = bags_of([2, 3, 1]), torch.tensor([1, 0, 0])
    model = adapt(module, name)
    p = model.logits(bags).sigmoid()
    by_hand = -(p[0].log() + (1 - p[1]).log() + (1 - p[2]).log()) / 3
    torch.testing.assert_close(model.loss(bags, labels), by_hand)


class Writes(nn.Module):
    """Changes what it is given."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(WIDTH, 1)

    def forward(self, X, mask=None):
        return self.score(X.mul_(2.0)).amax((-2, -1))


@pytest.mark.parametrize("name", ["batch", "bag"])
def test_a_module_that_writes_into_its_bags_does_not_reach_the_data(name):
    X = torch.randn(3, 5, WIDTH)
    before, model = X.clone(), adapt(Writes(), name)
    for bags in (X, list(X)):
        model.loss(bags, torch.tensor([0, 1, 0])).backward()
        assert X.equal(before)
        assert model.logits(bags).equal(model.logits(bags))


class TwoTerms(nn.Module):
    """A packed module whose loss says what it was given."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(WIDTH, 1)

    def forward(self, bags):
        return MILOutput(torch.stack([self.score(b.features).sum(0) for b in bags.bags()]))

    def losses(self, output, bags):
        self.seen = bags
        return {"bag": output.logits.sum(), "extra": 3 * output.logits[0, 0]}


def test_packed_adds_up_all_terms_and_numbers_the_bags():
    bags, labels, module = bags_of([2, 3, 1]), torch.tensor([1, 0, 0]), TwoTerms()
    model = adapt(module, "packed")
    sums = torch.stack([module.score(bag).sum() for bag in bags])
    torch.testing.assert_close(model.logits(bags), sums)
    torch.testing.assert_close(model.loss(bags, labels), sums.sum() + 3 * sums[0])
    assert module.seen.labels.equal(labels)
    assert module.seen.offsets.tolist() == [0, 2, 5, 6]
    assert module.seen.features.equal(torch.cat(bags))
    model.before_step(0.5, torch.tensor([7, 2, 9]))
    model.loss(bags, labels)
    assert module.seen.index.tolist() == [7, 2, 9]


def test_packed_without_losses_trains_by_cross_entropy():
    bags, labels, module = bags_of([2, 3]), torch.tensor([1, 0]), TwoTerms()
    module.losses = None
    model = adapt(module, "packed")
    wanted = F.binary_cross_entropy_with_logits(model.logits(bags), labels.float())
    torch.testing.assert_close(model.loss(bags, labels), wanted)


def test_packed_models_see_the_training_bags():
    learner = ClassWeightedMIL(WIDTH, 2, "binary", learner=ABMIL)
    adapt(learner, "packed").before_training(torch.tensor([0, 0, 0, 1]), torch.full((4,), 2))
    assert learner.counts.tolist() == [3, 1]


def test_scores_of_instances_are_in_the_graph_of_the_logits():
    bags = bags_of([3, 2])
    learner = InstancePooling(WIDTH, 2, "binary", pool="mean", hidden_sizes=())
    logits, scores = adapt(learner, "packed").instance_scores(bags)
    (slope,) = torch.autograd.grad(logits.sum(), scores)
    torch.testing.assert_close(slope[:, 0], torch.tensor([1 / 3] * 3 + [1 / 2] * 2))
    assert adapt(ABMIL(WIDTH, 2, "binary"), "packed").instance_scores(bags) is None
    module = TwoTerms()
    module.forward = lambda bags: MILOutput(torch.zeros(2, 1), instance_logits=torch.zeros(5, 2))
    assert adapt(module, "packed").instance_scores(bags) is None
    assert adapt(MaskedMax(), "batch").instance_scores(bags) is None


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("def forward(self, X): return X", "none"),
        ("def forward(self, X, return_att=False): return X", "none"),
        ("def forward(self, X, real_rows): return X", "second"),
        ("def forward(self, X, mask=None): return X", "keyword"),
        ("def forward(self, X, adjacency, *, mask): return X", "keyword"),
        ("def forward(self, X, mask, /): return X", "second"),
        ("def forward(self, X, mask=None, /): return X", "second"),
        ("def forward(self, *bags): return bags", "none"),
    ],
)
def test_where_the_mask_goes(source, place):
    space = {}
    exec(source, space)
    module = type("Any", (nn.Module,), {"forward": space["forward"]})()
    assert mask_place(module) == place
    if place != "none":
        assert PaddedModel(module).takes_mask


def test_the_mask_reaches_the_module_by_name_or_place():
    class ByName(MaskedMax):
        def forward(self, X, more=None, mask=None):
            assert more is None
            return super().forward(X, mask)

    class ByPlace(MaskedMax):
        def forward(self, X, rows, /):
            return super().forward(X, rows)

    class Without(nn.Module):
        def forward(self, X, attention=False):
            assert attention is False
            return X.mean((1, 2))

    bags = bags_of([2, 3])
    for kind in (ByName, ByPlace):
        module = kind()
        wanted = torch.stack([module.score(bag).max() for bag in bags])
        torch.testing.assert_close(adapt(module, "batch").logits(bags), wanted)
    model = adapt(Without(), "batch")
    assert not model.takes_mask
    assert model.logits(bags)[1].item() == pytest.approx(bags[1].mean().item())


def test_packed_batches_are_those_of_the_repository():
    bags = bags_of([2, 1])
    seen = []
    module = TwoTerms()
    module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    adapt(module, "packed").logits(bags)
    assert isinstance(seen[0], BagBatch)
    seen[0].check()
    assert seen[0].index.tolist() == [0, 0]
