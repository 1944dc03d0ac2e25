"""MonotoneMax and MinMaxLattice by hand, and the assumptions that they respect by construction.

The properties (spec of the algorithmic unit tests) are tested on random weights, for the learners
that have them and for others that show that the tests would notice.
"""

import math

import pytest
import torch

from models.mil.abmil import ABMIL
from models.mil.additive import AdditiveMIL
from models.mil.mi_net import InstanceMINet, MINet
from models.mil.monotone import MinMaxLattice, MonotoneMax
from models.mil.pooling import EmbeddingPooling, InstancePooling
from structures import BagBatch

CLOSE = {"rtol": 0, "atol": 1e-6}
SMALL = {"hidden_sizes": (8, 6)}
RESPECTING = {
    "mi_net": lambda: InstanceMINet(5, 2, "binary", **SMALL),
    "top_k": lambda: InstancePooling(5, 2, "binary", pool="top_k", k=3, **SMALL),
    "noisy_or": lambda: InstancePooling(5, 2, "binary", pool="noisy_or", **SMALL),
    "lse_sum": lambda: InstancePooling(5, 2, "binary", pool="lse_sum", sharpness=2.0, **SMALL),
    "monotone_max": lambda: MonotoneMax(5, 2, "binary", **SMALL),
    "min_max_lattice": lambda: MinMaxLattice(5, 2, "binary", **SMALL),
}
OTHERS = {
    "mi_net_embedding": lambda: MINet(5, 2, "binary", **SMALL),
    "mean_embedding": lambda: EmbeddingPooling(5, 2, "binary", pool="mean", **SMALL),
    "mean_instance": lambda: InstancePooling(5, 2, "binary", pool="mean", **SMALL),
    "abmil": lambda: ABMIL(5, 2, "binary", **SMALL),
    "additive": lambda: AdditiveMIL(5, 2, "binary", **SMALL),
}
IDEMPOTENT = ("mi_net", "mi_net_embedding", "monotone_max", "min_max_lattice")


def bag_batch(features, sizes, labels=None):
    return BagBatch(
        features=features,
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2 if labels is None else labels,
        index=torch.arange(len(sizes)),
    )


def raw(weight):
    """Return what softplus turns into the weight."""
    return math.log(math.expm1(weight))


def test_monotone_max_by_hand():
    # concepts (x_1, x_2); largest (0, 1/4); tanh(1 x 0 + 2 x 1/4 + 1/2) = tanh 1; 3 tanh 1 - 1
    model = MonotoneMax(2, 2, "binary", hidden_sizes=(), num_concepts=2, head_width=1)
    with torch.no_grad():
        model.concepts.weight.copy_(torch.eye(2))
        model.concepts.bias.zero_()
        model.inner.copy_(torch.tensor([[raw(1.0)], [raw(2.0)]]))
        model.inner_bias.fill_(0.5)
        model.outer.fill_(raw(3.0))
        model.bias.fill_(-1.0)
    bags = bag_batch(torch.tensor([[0.0, -1.0], [-2.0, 0.25]]), [2])
    output = model(bags)
    logit = 3 * math.tanh(1) - 1
    assert output.logits.item() == pytest.approx(logit, abs=1e-6)
    assert output.embeddings.tolist() == [[0.0, 0.25]]
    alone = [3 * math.tanh(-1.5) - 1, 3 * math.tanh(-1) - 1]
    assert output.instance_logits[:, 0].tolist() == pytest.approx(alone, abs=1e-6)
    loss = model.losses(output, bags)["bag"].item()  # label 0
    assert loss == pytest.approx(math.log1p(math.exp(logit)), abs=1e-6)
    assert model.losses(output, bags, "none")["bag"].tolist() == [loss]


def test_min_max_lattice_by_hand():
    # two groups of two: maxima (4, 5 | 0, 9), minima 4 and 0; alone: (1, 5 | -3, 9), (4, -2 | 0, 0)
    model = MinMaxLattice(4, 2, "binary", hidden_sizes=(), num_groups=2, group_size=2)
    with torch.no_grad():
        model.concepts.weight.copy_(torch.eye(4))
        model.concepts.bias.zero_()
    bags = bag_batch(torch.tensor([[1.0, 5.0, -3.0, 9.0], [4.0, -2.0, 0.0, 0.0]]), [2])
    output = model(bags)
    assert output.logits.tolist() == [[4.0]]
    assert output.instance_logits.tolist() == [[1.0], [0.0]]
    assert output.embeddings.tolist() == [[4.0, 5.0, 0.0, 9.0]]
    # the same concepts as two classes of one group each: the minima themselves
    model = MinMaxLattice(4, 2, "multilabel", hidden_sizes=(), num_groups=1, group_size=2)
    assert model.head(output.embeddings).tolist() == [[4.0, 0.0]]
    # and as two classes of two groups of one concept: the maxima
    model = MinMaxLattice(4, 2, "multilabel", hidden_sizes=(), num_groups=2, group_size=1)
    assert model.head(output.embeddings).tolist() == [[5.0, 9.0]]


@pytest.mark.parametrize("kind", [MonotoneMax, MinMaxLattice])
def test_the_layers_of_an_instance_leak_and_drop_out(kind):
    model = kind(1, 2, "binary", hidden_sizes=(1,), dropout=0.5)
    with torch.no_grad():
        model.embed[0].weight.fill_(1.0)
        model.embed[0].bias.zero_()
    bags = bag_batch(torch.tensor([-5.0, 3.0] * 20).unsqueeze(1), [40])
    assert model.eval().embed_bags(bags).features[:2, 0].tolist() == [-1.0, 3.0]
    assert set(model.train().embed_bags(bags).features[::2, 0].tolist()) == {0.0, -2.0}
    assert [type(m).__name__ for m in kind(1, 2, "binary").embed] == [
        *("Linear", "LeakyReLU", "Dropout") * 3
    ]


def test_weights_of_the_head_start_small_and_apart():
    torch.manual_seed(0)
    model = MonotoneMax(5, 4, "multilabel", num_concepts=40, head_width=50)
    for weights in (model.inner, model.outer):
        assert weights.mean().item() == pytest.approx(-2, abs=0.03)
        assert weights.std().item() == pytest.approx(0.1, abs=0.01)
    assert not model.inner_bias.any()
    assert not model.bias.any()


@pytest.mark.parametrize("kind", [MonotoneMax, MinMaxLattice])
@pytest.mark.parametrize(("task", "classes"), [("multiclass", 3), ("multilabel", 3)])
def test_an_instance_logit_is_that_of_a_bag_of_its_own(kind, task, classes):
    torch.manual_seed(0)
    model = kind(5, classes, task).double().eval()
    features = torch.randn(30, 5, dtype=torch.float64)
    alone = model(bag_batch(features, [1] * 30)).logits
    output = model(bag_batch(features, [30]))
    torch.testing.assert_close(output.instance_logits, alone, rtol=0, atol=1e-12)
    assert (alone <= output.logits).all()


def violations(model, pairs, size, seed):
    """Count pairs of a bag and the bag with one more instance whose score is lower."""
    generator = torch.Generator().manual_seed(seed)
    bags = torch.randn(pairs, size, 5, generator=generator, dtype=torch.float64)
    more = 3 * torch.randn(pairs, 1, 5, generator=generator, dtype=torch.float64)
    larger = torch.cat([bags, more], 1)
    with torch.no_grad():
        before = model(bag_batch(bags.flatten(0, 1), [size] * pairs)).logits
        after = model(bag_batch(larger.flatten(0, 1), [size + 1] * pairs)).logits
    return int((after < before - 1e-9).sum())


def random_models(make):
    for seed in range(10):
        torch.manual_seed(seed)
        yield seed, make().double().eval()


@pytest.mark.parametrize("name", RESPECTING)
def test_another_instance_never_lowers_the_score(name):
    models = random_models(RESPECTING[name])
    assert sum(violations(model, 100, 3 + seed, seed) for seed, model in models) == 0


@pytest.mark.parametrize("name", OTHERS)
def test_another_instance_can_lower_the_score_of_other_learners(name):
    assert sum(violations(m, 100, 3 + seed, seed) for seed, m in random_models(OTHERS[name])) > 0


def test_the_mean_form_of_log_sum_exp_is_monotone_but_for_its_shift():
    torch.manual_seed(0)
    model = InstancePooling(5, 2, "binary", pool="lse", sharpness=2.0, **SMALL).double()
    assert violations(model, 200, 4, 0) > 0
    features = torch.randn(200, 4, 5, dtype=torch.float64)
    more = torch.cat([features, torch.randn(200, 1, 5, dtype=torch.float64)], 1)
    before = model(bag_batch(features.flatten(0, 1), [4] * 200)).logits
    after = model(bag_batch(more.flatten(0, 1), [5] * 200)).logits
    assert (after >= before - math.log(5 / 4) / 2 - 1e-12).all()


def test_top_k_is_monotone_only_from_k_instances_on():
    model = RESPECTING["top_k"]().double().eval()
    assert violations(model, 200, 2, 0) > 0


def change_by_copies(model):
    """Return the largest change when the first instance of each bag is there twice.

    Weights are multiples of 1/8 and features whole numbers, so that no sum is rounded.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * 8).round() / 8)
        bags = torch.randint(-4, 5, (50, 6, 5), generator=torch.Generator().manual_seed(0)).double()
        copied = torch.cat([bags[:, :1], bags], 1)
        before = model(bag_batch(bags.flatten(0, 1), [6] * 50)).logits
        after = model(bag_batch(copied.flatten(0, 1), [7] * 50)).logits
    return (after - before).abs().max().item()


@pytest.mark.parametrize("name", RESPECTING | OTHERS)
def test_a_copy_of_an_instance_changes_nothing_or_something(name):
    change = change_by_copies(next(random_models((RESPECTING | OTHERS)[name]))[1])
    assert change == 0 if name in IDEMPOTENT else change > 1e-3


@pytest.mark.parametrize("name", RESPECTING)
def test_no_instance_score_ever_counts_against_the_bag(name):
    """The derivative of the score by each concept or instance score is not negative."""
    for _, model in random_models(RESPECTING[name]):
        bags = bag_batch(torch.randn(20, 5, dtype=torch.float64), [12, 8])
        layer = model.concepts if hasattr(model, "concepts") else model.classifier
        shift = torch.zeros(20, layer.out_features, dtype=torch.float64, requires_grad=True)
        layer.register_forward_hook(lambda *call, shift=shift: call[2] + shift)
        logits = model(bags).logits
        (gradient,) = torch.autograd.grad(logits.sum(), shift)
        assert (gradient >= 0).all()
        assert gradient.any()


def reversing_bags(count, seed, train):
    """Return test 1 of Raff & Holt (NeurIPS 2023) with bags of 45: a shortcut that reverses.

    Of indicators, N(0, 3) in each of 16 features, a positive bag has 1 to 3, a negative one none.
    Of poison, N(-10, 0.1), negative bags have one in training, positive bags one in the test. The
    rest is N(0, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 45, 16, generator=generator)
    labels = torch.arange(count) % 2
    indicators = torch.randint(1, 4, (count,), generator=generator) * labels
    wide = 3 * torch.randn(count, 3, 16, generator=generator)
    there = torch.arange(3) < indicators.unsqueeze(1)
    features[:, :3] = torch.where(there.unsqueeze(2), wide, features[:, :3])
    poisoned = labels == (0 if train else 1)
    poison = -10 + 0.1 * torch.randn(count, 16, generator=generator)
    features[:, 3] = torch.where(poisoned.unsqueeze(1), poison, features[:, 3])
    return features, labels


def area_under_roc(scores, labels):
    positive, negative = scores[labels == 1], scores[labels == 0]
    above = (positive[:, None] > negative).float() + (positive[:, None] == negative) / 2
    return above.mean().item()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "respects"),
    [
        (lambda: MonotoneMax(16, 2, "binary"), True),
        (lambda: MinMaxLattice(16, 2, "binary"), True),
        (lambda: EmbeddingPooling(16, 2, "binary", pool="mean", hidden_sizes=(64, 64)), False),
    ],
    ids=["monotone_max", "min_max_lattice", "mean_embedding"],
)
def test_a_shortcut_that_reverses_is_not_taken(make, respects):
    torch.manual_seed(0)
    features, labels = reversing_bags(2000, 0, train=True)
    mean, std = features.mean((0, 1)), features.std((0, 1))
    model = make().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    sizes = [45] * 32
    for _ in range(12):
        for rows in torch.randperm(2000).split(32)[:-1]:
            bags = bag_batch(((features[rows] - mean) / std).flatten(0, 1), sizes, labels[rows])
            optimizer.zero_grad()
            model.losses(model(bags), bags)["bag"].backward()
            torch.nn.utils.clip_grad_value_(model.parameters(), 5.0)
            optimizer.step()
    areas = []
    for seed, train in ((0, True), (1, False)):
        features, labels = reversing_bags(1000, seed, train)
        bags = bag_batch(((features - mean) / std).flatten(0, 1), [45] * 1000, labels)
        with torch.no_grad():
            areas.append(area_under_roc(model.eval()(bags).logits[:, 0], labels))
    assert areas[0] >= 0.9
    assert areas[1] >= 0.9 if respects else areas[1] <= 0.5
