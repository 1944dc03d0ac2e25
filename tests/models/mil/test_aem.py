import functools
import math

import pytest
import torch
from torch import nn

from lightning_modules.mil import MILModule
from models.mil.abmil import ABMIL
from models.mil.acmil import ACMIL
from models.mil.aem import AEM, negative_entropy
from models.mil.dsmil import DSMIL
from models.mil.dtfd import DTFD
from models.mil.mha import MHA
from models.mil.protocol import ScheduledLosses, TwoPartModel, UsesTrainingBags
from models.ops.bags.ragged import segment_mean
from structures import BagBatch, MILOutput

CLOSE = {"rtol": 0, "atol": 1e-6}


def bag_batch(sizes, width=5, labels=None):
    return BagBatch(
        features=torch.randn(sum(sizes), width, generator=torch.Generator().manual_seed(0)),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2 if labels is None else labels,
        index=torch.arange(len(sizes)),
    )


def aem_around(learner, task="binary", classes=2, annealing="cosine", **arguments):
    torch.manual_seed(1)
    factory = functools.partial(learner, **arguments)
    return AEM(5, classes, task, learner=factory, annealing=annealing)


def gated_abmil(**arguments):
    settings = {"hidden_sizes": (8,), "attention_dim": 4, "gated": True}
    return aem_around(ABMIL, **(settings | arguments))


def test_entropy_by_hand():
    # uniform over 4, one instance alone, all on one, and (1/2, 1/4, 1/4): -3/2 log 2
    logits = [0.0] * 4 + [7.0] + [0.0, 800.0] + [math.log(2), 0.0, 0.0]
    found = negative_entropy(torch.tensor(logits), torch.tensor([0, 4, 5, 7, 10]))
    expected = torch.tensor([-math.log(4), 0.0, 0.0, -1.5 * math.log(2)])
    torch.testing.assert_close(found, expected, **CLOSE)
    assert found[1:3].tolist() == [0, 0]


def test_several_maps_are_averaged():
    maps = torch.tensor([[1.0, 1.0, 2.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]).log().clamp(min=-1e9)
    # uniform, all on one, (1/2, 1/4, 1/4)
    expected = -(math.log(3) + 1.5 * math.log(2)) / 3
    found = negative_entropy(maps, torch.tensor([0, 3]))
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 200_000])
def test_uniform_attention_gives_minus_log_n(size):
    found = negative_entropy(torch.full((size,), 3.0), torch.tensor([0, size]))
    assert found.item() == pytest.approx(-math.log(size), rel=1e-6)


@pytest.mark.parametrize("sizes", [[200_000], [100_000, 100_000]], ids=["one", "two"])
def test_single_precision_suffices_for_200_000_instances(sizes):
    random = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    logits = (5 * torch.randn(sum(sizes), generator=random)).requires_grad_()
    precise = logits.detach().double().requires_grad_()
    found, expected = (negative_entropy(values, offsets) for values in (logits, precise))
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=0)
    found.sum().backward()
    expected.sum().backward()
    largest = precise.grad.abs().max().item()
    torch.testing.assert_close(logits.grad.double(), precise.grad, rtol=0, atol=2e-6 * largest)


def test_gradient_by_hand_also_where_attention_vanishes():
    # d/ds_n sum a log a = a_n (log a_n - sum a log a)
    logits = torch.tensor([0.0, math.log(3), -1e9]).requires_grad_()
    negative_entropy(logits, torch.tensor([0, 3])).sum().backward()
    total = 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    gradient = [0.25 * (math.log(0.25) - total), 0.75 * (math.log(0.75) - total), 0.0]
    torch.testing.assert_close(logits.grad, torch.tensor(gradient), **CLOSE)


LEARNERS = {
    "abmil": (ABMIL, {"hidden_sizes": (8,)}),
    "abmil_branches": (ABMIL, {"hidden_sizes": (8,), "branches": 3}),
    "mha": (MHA, {"hidden_size": 8, "heads": 4}),
    "acmil": (ACMIL, {"hidden_size": 8}),
    "dtfd": (DTFD, {"hidden_size": 8}),
    "dsmil": (DSMIL, {}),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_any_attention_model_gets_the_term_and_is_left_as_it_is(name):
    learner, arguments = LEARNERS[name]
    labels = torch.tensor([2, 0, 1])
    bags = bag_batch([4, 1, 6], labels=labels)
    model = aem_around(learner, "multiclass", 3, **arguments).eval()
    output, plain = model(bags), model.learner(bags)
    assert type(output) is type(plain)
    torch.testing.assert_close(output.logits, plain.logits, rtol=0, atol=0)
    terms = model.losses(output, bags, "none")
    entropy = terms.pop("entropy")
    own = model.learner.losses(plain, bags, "none")
    assert terms.keys() == own.keys()
    for term, value in own.items():
        torch.testing.assert_close(terms[term], value, rtol=0, atol=0)
    maps = output.attention.view(11, -1).split([4, 1, 6])  # (n, K)
    # entr(a) = -a log a, with 0 log 0 = 0
    expected = torch.stack([-torch.special.entr(a).sum(0).mean() for a in maps])
    torch.testing.assert_close(entropy, expected, rtol=0, atol=1e-5)
    mean = model.losses(output, bags)["entropy"]
    torch.testing.assert_close(mean, entropy.mean(), **CLOSE)
    if isinstance(model.learner, TwoPartModel):
        assert torch.equal(model.pool(model.embed_bags(bags)).logits, output.logits)
    assert model.permutation_invariant is (name != "dtfd")


def test_entropy_spreads_the_attention_of_a_model():
    model, bags = gated_abmil(), bag_batch([20])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    first = model.losses(model(bags), bags)["entropy"].item()
    for _ in range(20):
        optimizer.zero_grad()
        model.losses(model(bags), bags)["entropy"].backward()
        optimizer.step()
    last = model.losses(model(bags), bags)["entropy"].item()
    assert -math.log(20) <= last < first


def module_around(model, loss_weights=None):
    optimizer = functools.partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    return MILModule(model, optimizer, loss_weights=loss_weights)


def test_without_weight_it_is_the_model_bit_for_bit():
    bags = bag_batch([5, 1, 9])
    settings = {"hidden_sizes": (8,), "attention_dim": 4, "gated": True, "dropout": 0.25}
    torch.manual_seed(1)
    plain = module_around(ABMIL(5, 2, "binary", **settings))
    wrapped = module_around(gated_abmil(dropout=0.25), {"entropy": 0.0})
    weights = []
    for module in (plain, wrapped):
        optimizer = module.build_optimizer()
        for step in range(5):
            torch.manual_seed(step)
            loss = module.weighted_sum(module.training_terms(bags))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights.append([p.detach() for p in module.model.parameters()])
    for ours, theirs in zip(*weights, strict=True):
        assert torch.equal(ours, theirs)


def test_weight_falls_along_half_a_cosine_or_stays():
    cosine, constant = gated_abmil(), gated_abmil(annealing="constant")
    for progress, factor in [(0, 1.0), (0.25, (1 + math.sqrt(0.5)) / 2), (0.5, 0.5), (1, 0.0)]:
        assert cosine.loss_factors(progress) == {"entropy": pytest.approx(factor, abs=1e-12)}
        assert constant.loss_factors(progress) == {"entropy": 1.0}
    module = module_around(cosine, {"entropy": 0.1})
    terms = {"bag": torch.tensor(2.0), "entropy": torch.tensor(-3.0)}
    module.progress = 0.25
    expected = 2 - 3 * 0.1 * (1 + math.sqrt(0.5)) / 2
    assert module.weighted_sum(terms).item() == pytest.approx(expected, abs=1e-6)


class Scheduled(nn.Module):
    """A model without attention, in one part, that schedules its own loss."""

    def __init__(self, in_features, num_classes, task):
        super().__init__()
        self.task, self.head = task, nn.Linear(in_features, 1)

    def forward(self, bags):
        return MILOutput(self.head(segment_mean(bags.features, bags.offsets)))

    def losses(self, output, bags, reduction="mean"):
        return {"bag": output.logits.mean()}

    def loss_factors(self, progress):
        return {"bag": progress}

    def set_training_bags(self, *told):
        self.told = told


def test_factors_of_the_model_are_kept():
    model = aem_around(Scheduled)
    assert isinstance(model, ScheduledLosses)
    assert model.loss_factors(0.5) == {"bag": 0.5, "entropy": pytest.approx(0.5)}


def test_the_model_is_told_of_the_training_bags_if_it_asks():
    bags = torch.arange(3), torch.tensor([0, 1, 1]), torch.tensor([2, 3, 4])
    model = aem_around(Scheduled)
    assert isinstance(model, UsesTrainingBags)
    model.set_training_bags(*bags)
    assert model.learner.told == bags
    gated_abmil().set_training_bags(*bags)  # ABMIL does not ask


def test_what_a_model_lacks_is_said():
    model, bags = aem_around(Scheduled), bag_batch([3])
    with pytest.raises(TypeError, match="attention logits, Scheduled returns none"):
        model.losses(model(bags), bags)
    with pytest.raises(TypeError, match="Scheduled does not separate"):
        model.embed_bags(bags)
    with pytest.raises(TypeError, match="Scheduled does not separate"):
        model.pool(bags)
    with pytest.raises(ValueError, match="annealing is"):
        gated_abmil(annealing="linear")


def test_the_embedding_of_abmil_can_do_without_bias():
    assert gated_abmil().learner.embed[1].bias is not None
    assert gated_abmil(embedding_bias=False).learner.embed[1].bias is None
