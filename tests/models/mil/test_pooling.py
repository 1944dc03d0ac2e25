"""Pools against values computed by hand, and what a model of each level makes of them."""

import dataclasses
import math

import pytest
import torch

from models.mil.pooling import EmbeddingPooling, InstancePooling, Pool, noisy_or, top_k_mean
from structures import BagBatch

CLOSE = {"rtol": 0, "atol": 1e-6}
VALUES = torch.tensor([[1.0, -2.0], [3.0, 0.0], [2.0, 4.0], [5.0, 7.0]])
OFFSETS = torch.tensor([0, 3, 4])


def bag_batch(features, sizes, labels=None):
    return BagBatch(
        features=features,
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2 if labels is None else labels,
        index=torch.arange(len(sizes)),
    )


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (Pool("mean"), [[2, 2 / 3], [5, 7]]),
        (Pool("max"), [[3, 4], [5, 7]]),
        (Pool("top_k", k=1), [[3, 4], [5, 7]]),
        (Pool("top_k", k=2), [[2.5, 2], [5, 7]]),  # (3 + 2) / 2 and (4 + 0) / 2
        (Pool("top_k", k=9), [[2, 2 / 3], [5, 7]]),
    ],
)
def test_pools_by_hand(pool, expected):
    expected = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(pool(VALUES, OFFSETS), expected, **CLOSE)


def test_log_sum_exp_by_hand():
    # r = 2: exp(2 s) = 1, 3, 5 and 16
    values = torch.tensor([1.0, 3.0, 5.0, 16.0]).log().unsqueeze(1) / 2
    mean, total = (Pool(p, sharpness=2.0)(values, OFFSETS) for p in ("lse", "lse_sum"))
    # log(9 / 3) / 2 and log(16) / 2; without the mean log(9) / 2 and log(16) / 2
    torch.testing.assert_close(mean.exp()[:, 0], torch.tensor([3.0, 16.0]).sqrt(), **CLOSE)
    torch.testing.assert_close(total.exp()[:, 0], torch.tensor([3.0, 4.0]), **CLOSE)


def test_log_sum_exp_lies_between_mean_and_max_and_weighs_by_a_softmax():
    values = VALUES.double().requires_grad_()
    flat, sharp = (Pool("lse", sharpness=r)(values, OFFSETS) for r in (1e-6, 1e4))
    torch.testing.assert_close(flat, Pool("mean")(values, OFFSETS), rtol=0, atol=1e-5)
    torch.testing.assert_close(sharp, Pool("max")(values, OFFSETS), rtol=0, atol=2e-4)
    for name in ("lse", "lse_sum"):
        pooled = Pool(name, sharpness=0.7)(values, OFFSETS)
        (gradient,) = torch.autograd.grad(pooled.sum(), values)
        softmax = (0.7 * values[:3]).softmax(0)
        torch.testing.assert_close(gradient[:3], softmax, rtol=0, atol=1e-12)


def test_noisy_or_by_hand():
    # sigmoid: 1/2 and 3/4; 1 - 1/2 x 1/4 = 7/8, odds 7; alone, the odds stay 3
    scores = torch.tensor([0.0, math.log(3), math.log(3)]).unsqueeze(1)
    pooled = noisy_or(scores, torch.tensor([0, 2, 3]))
    torch.testing.assert_close(pooled.exp(), torch.tensor([[7.0], [3.0]]), rtol=0, atol=4e-6)
    assert torch.equal(pooled, Pool("noisy_or")(scores, torch.tensor([0, 2, 3])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "scores", [[-17.0, -16.5, -18.0], [-40.0, -38.0], [-700.0, -699.0], [90.0, 95.0, -3.0], [5e3]]
)
def test_noisy_or_keeps_its_digits_where_probabilities_round(scores, dtype):
    # The odds are prod(1 + exp(s)) - 1: far below 0 the sum of exp(s), far above 0 their product.
    largest = max(scores)
    if largest < 0:
        expected = largest + math.log(sum(math.exp(s - largest) for s in scores))
        weights = [math.exp(s - expected) for s in scores]
    else:
        expected = sum(s for s in scores if s > 0) + sum(
            math.log1p(math.exp(s)) for s in scores if s < 0
        )
        weights = [1 / (1 + math.exp(-s)) for s in scores]
    values = torch.tensor(scores, dtype=dtype).unsqueeze(1).requires_grad_()
    pooled = noisy_or(values, torch.tensor([0, len(scores)]))
    pooled.backward()
    assert pooled.item() == pytest.approx(expected, rel=2e-7)
    assert values.grad[:, 0].tolist() == pytest.approx(weights, rel=2e-6, abs=1e-12)


def test_gradient_of_noisy_or_is_the_chance_of_each_given_any():
    values = torch.tensor([[-3.0], [0.5], [1.0]], dtype=torch.float64, requires_grad=True)
    noisy_or(values, torch.tensor([0, 3])).backward()
    chances = values.detach().sigmoid()
    any_of_them = 1 - (1 - chances).prod()
    torch.testing.assert_close(values.grad, chances / any_of_them, rtol=0, atol=1e-12)


def test_softmax_of_noisy_or_is_the_chance_of_one_class_alone():
    torch.manual_seed(0)
    model = InstancePooling(4, 3, "multiclass", pool="noisy_or", hidden_sizes=()).double()
    bags = bag_batch(torch.randn(5, 4, dtype=torch.float64), [5])
    output = model(bags)
    missing = (1 - output.instance_logits.sigmoid()).prod(0)  # chance that a class is not there
    alone = [(1 - missing[c]) * missing.prod() / missing[c] for c in range(3)]
    expected = torch.stack(alone) / sum(alone)
    torch.testing.assert_close(output.probabilities("multiclass")[0], expected, rtol=0, atol=1e-12)


def test_equal_maxima_share_the_gradient_and_the_best_k_split_it():
    values = torch.tensor([[2.0], [2.0], [1.0], [0.0]], requires_grad=True)
    Pool("max")(values, torch.tensor([0, 3, 4])).sum().backward()
    assert values.grad[:, 0].tolist() == [0.5, 0.5, 0.0, 1.0]
    values = torch.tensor([[4.0], [2.0], [3.0], [0.0]], requires_grad=True)
    top_k_mean(values, torch.tensor([0, 3, 4]), 2).sum().backward()
    assert values.grad[:, 0].tolist() == [0.5, 0.0, 0.5, 1.0]


def hand_made(kind, pool, **options):
    """h = relu(x) of two features, W = (2, -1), b = 0.5."""
    model = kind(2, 2, "binary", pool=pool, hidden_sizes=(2,), **options)
    with torch.no_grad():
        model.embed[0].weight.copy_(torch.eye(2))
        model.embed[0].bias.zero_()
        model.classifier.weight.copy_(torch.tensor([[2.0, -1.0]]))
        model.classifier.bias.fill_(0.5)
    return model


def test_both_levels_by_hand():
    # x = (3, 0), (1, 2), (-5, 4) -> h = (3, 0), (1, 2), (0, 4); scores 6.5, 0.5, -3.5
    bags = bag_batch(torch.tensor([[3.0, 0.0], [1.0, 2.0], [-5.0, 4.0]]), [3])
    expected = {
        # the largest embedding is (3, 4), the mean (4/3, 2); with mean both levels agree
        "max": (2 * 3 - 4 + 0.5, 6.5),
        "mean": (2 * 4 / 3 - 2 + 0.5, 3.5 / 3),
    }
    for pool, (embedded, scored) in expected.items():
        model = hand_made(EmbeddingPooling, pool)
        output = model(bags)
        assert output.logits.item() == pytest.approx(embedded, abs=1e-6)
        assert output.instance_logits is None
        loss = model.losses(output, bags, "none")["bag"]  # label 0
        torch.testing.assert_close(loss, torch.tensor([math.log1p(math.exp(embedded))]), **CLOSE)
        output = hand_made(InstancePooling, pool)(bags)
        assert output.logits.item() == pytest.approx(scored, abs=1e-6)
        assert output.instance_logits[:, 0].tolist() == [6.5, 0.5, -3.5]
    pooled = hand_made(EmbeddingPooling, "max")(bags).embeddings
    assert pooled.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("kind", [EmbeddingPooling, InstancePooling])
def test_a_model_is_its_parts_for_every_pool_and_task(kind):
    options = {
        "mean": {},
        "max": {},
        "top_k": {"k": 2},
        "lse": {"sharpness": 3.0},
        "lse_sum": {"sharpness": 0.5},
        "noisy_or": {"first_bias": -1.0},
    }
    torch.manual_seed(0)
    features = torch.randn(7, 4, dtype=torch.float64)
    cases = [
        ("binary", 2, torch.tensor([1, 0])),
        ("multiclass", 3, torch.tensor([2, 1])),
        ("multilabel", 3, torch.tensor([[1, 0, 1], [0, 0, 1]])),
    ]
    for pool, arguments in options.items():
        for task, classes, labels in cases:
            model = kind(4, classes, task, pool=pool, hidden_sizes=(6, 5), **arguments).double()
            bags = bag_batch(features, [4, 3], labels)
            values = model.embed(features)
            if kind is InstancePooling:
                values = model.classifier(values)
            elif pool == "noisy_or":
                values = model.concepts(values)
            bag_pool = Pool(pool, arguments.get("k"), arguments.get("sharpness"))
            expected = bag_pool(values, bags.offsets)
            if kind is EmbeddingPooling:
                expected = model.classifier(expected)
            output = model(bags)
            torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-12)
            probabilities = output.probabilities(task)
            if task == "multiclass":
                wanted = -probabilities[[0, 1], labels].log()
            else:
                chances = probabilities.view(2, -1)
                wanted = -torch.where(labels.view(2, -1) == 1, chances, 1 - chances).log().mean(1)
            each = model.losses(output, bags, "none")["bag"]
            torch.testing.assert_close(each, wanted, rtol=0, atol=1e-12)
            mean = model.losses(output, bags)["bag"]
            torch.testing.assert_close(mean, wanted.mean(), rtol=0, atol=1e-12)


def test_scores_start_where_a_bag_is_undecided():
    # 1 - (1 - 1/(1 + 99))^100 = 0.634 where scores are 0 but for the bias -log 99
    model = InstancePooling(3, 2, "binary", pool="noisy_or", first_bias=-math.log(99))
    bags = bag_batch(torch.zeros(100, 3), [100])
    with torch.no_grad():
        model.classifier.weight.zero_()
    chance = model(bags).probabilities("binary").item()
    assert chance == pytest.approx(1 - 0.99**100, abs=1e-6)
    concepts = EmbeddingPooling(3, 2, "binary", pool="noisy_or", first_bias=-2.0).concepts
    assert concepts.bias.tolist() == [-2.0] * 512
    assert InstancePooling(3, 2, "binary", pool="max").classifier.bias.item() != 0


def test_dropout_acts_on_the_embedding():
    features = torch.rand(50, 4) + 1
    bags = bag_batch(features, [50])
    for kind in (EmbeddingPooling, InstancePooling):
        model = kind(4, 2, "binary", pool="mean", hidden_sizes=(), dropout=0.5)
        kept = model.train().embed_bags(bags).features / features
        assert {round(v, 4) for v in kept.flatten().tolist()} == {0.0, 2.0}
        assert torch.equal(model.eval().embed_bags(bags).features, features)
        hidden = kind(4, 2, "binary", pool="mean", hidden_sizes=(3, 2), dropout=0.2).embed
        names = [type(layer).__name__ for layer in hidden]
        assert names == ["Linear", "ReLU", "Linear", "ReLU", "Dropout"]
        assert hidden[4].p == 0.2


def test_copies_of_a_whole_bag():
    values = VALUES.double()
    offsets, doubled = torch.tensor([0, 4]), torch.tensor([0, 8])
    twice = torch.cat([values, values])
    for pool in (Pool("mean"), Pool("max"), Pool("lse", sharpness=2.0)):
        torch.testing.assert_close(pool(twice, doubled), pool(values, offsets), rtol=0, atol=1e-12)
    total = Pool("lse_sum", sharpness=2.0)
    expected = total(values, offsets) + math.log(2) / 2
    torch.testing.assert_close(total(twice, doubled), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("pool", "options", "message"),
    [
        ("median", {}, "pool is one of"),
        ("top_k", {}, "needs a positive k"),
        ("top_k", {"k": 0}, "needs a positive k"),
        ("top_k", {"k": -1}, "needs a positive k, got -1"),
        ("lse", {}, "needs a positive sharpness"),
        ("lse_sum", {"sharpness": -1.0}, "needs a positive sharpness"),
        ("max", {"k": 2}, "has no k"),
        ("mean", {"sharpness": 1.0}, "has no sharpness"),
        ("max", {"first_bias": 0.0}, "first_bias is for the pool noisy_or"),
        ("mean", {"hidden_sizes": (4, 0)}, "positive"),
    ],
)
def test_options_that_do_not_fit_are_refused(pool, options, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingPooling(5, 2, "binary", pool=pool, **options)


def test_embedded_bags_may_lose_instances():
    torch.manual_seed(0)
    model = InstancePooling(4, 2, "binary", pool="top_k", k=3)
    bags = bag_batch(torch.randn(9, 4), [5, 4])
    kept = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 0], dtype=torch.bool)
    embedded = model.embed_bags(bags)
    fewer = dataclasses.replace(bags, features=bags.features[kept], offsets=torch.tensor([0, 3, 4]))
    torch.testing.assert_close(model.pool(embedded.keep(kept)).logits, model(fewer).logits, **CLOSE)
