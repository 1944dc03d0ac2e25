"""MonotoneMax and MinMaxLattice by hand, and the sign of what concepts and scores say.

That further instances never lower a bag and copies don't count is asked of every model in
`test_every_model_structure.py`.
"""

import math

import pytest
import torch

from models.mil.mi_net import InstanceMINet
from models.mil.monotone import MinMaxLattice, MonotoneMax
from models.mil.pooling import InstancePooling
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


def test_the_mean_form_of_log_sum_exp_is_monotone_but_for_its_shift():
    torch.manual_seed(0)
    model = InstancePooling(5, 2, "binary", pool="lse", sharpness=2.0, **SMALL).double()
    assert violations(model, 200, 4, 0) > 0
    features = torch.randn(200, 4, 5, dtype=torch.float64)
    more = torch.cat([features, torch.randn(200, 1, 5, dtype=torch.float64)], 1)
    before = model(bag_batch(features.flatten(0, 1), [4] * 200)).logits
    after = model(bag_batch(more.flatten(0, 1), [5] * 200)).logits
    assert (after >= before - math.log(5 / 4) / 2 - 1e-12).all()


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
