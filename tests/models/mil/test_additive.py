"""Additive MIL: contributions by hand, and the ABMIL that it is with a linear classifier."""

import math

import pytest
import torch

from models.mil.abmil import ABMIL
from models.mil.additive import AdditiveMIL
from structures import BagBatch


def bag_batch(features, sizes):
    return BagBatch(
        features=features,
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2,
        index=torch.arange(len(sizes)),
    )


def hand_made():
    """psi(v) = 2 relu(3 v + 1), b = 0.25; equal attention; the embedding is the feature."""
    model = AdditiveMIL(1, 2, "binary", hidden_sizes=(), attention_dim=1, classifier_sizes=(1,))
    with torch.no_grad():
        model.attention.score.weight.zero_()
        model.hidden[0].weight.fill_(3.0)
        model.hidden[0].bias.fill_(1.0)
        model.classifier.weight.fill_(2.0)
        model.bias.fill_(0.25)
    return model


def test_two_instances_by_hand():
    # a = 1/2 each, a h = 1/2 and -1/2: psi = 5 and 0, psi(0) = 2, b a = 1/8
    bags = bag_batch(torch.tensor([[1.0], [-1.0]]), [2])
    model = hand_made()
    output = model(bags)
    assert output.instance_logits[:, 0].tolist() == [3.125, -1.875]
    assert output.logits.item() == 1.25
    assert output.attention.tolist() == [0.5, 0.5]
    assert output.embeddings.item() == 0.0
    loss = model.losses(output, bags)["bag"].item()  # label 0
    assert loss == pytest.approx(math.log1p(math.exp(1.25)), abs=1e-6)
    assert torch.equal(model.losses(output, bags, "none")["bag"], torch.tensor([loss]))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multilabel", 3)])
def test_a_linear_classifier_makes_it_abmil(gated, task, classes):
    torch.manual_seed(0)
    settings = {"hidden_sizes": (8, 6), "attention_dim": 4, "gated": gated}
    model = AdditiveMIL(5, classes, task, **settings).double()
    other = ABMIL(5, classes, task, **settings).double()
    state = dict(
        zip(other.embed.state_dict(prefix="embed."), model.embed.state_dict().values(), strict=True)
    )
    for part in ("value", "gate", "score") if gated else ("value", "score"):
        theirs = getattr(model.attention, part).state_dict()
        state |= {f"attention_{part}.{n}": v for n, v in theirs.items()}
    with torch.no_grad():
        model.bias.uniform_(-1, 1)
    state |= {"classifier.weight": model.classifier.weight, "classifier.bias": model.bias}
    other.load_state_dict(state)
    bags = bag_batch(torch.randn(10, 5, dtype=torch.float64), [3, 1, 6])
    ours, theirs = model(bags), other(bags)
    for field in ("logits", "attention", "attention_logits", "embeddings"):
        expected = getattr(theirs, field)
        torch.testing.assert_close(getattr(ours, field), expected, rtol=0, atol=1e-12)


def psi(model, value):
    for layer in model.hidden:
        value = layer(value).relu()
    return model.classifier(value)


def slow_contributions(model, instances, attention):
    for value, weight in zip(instances, attention, strict=True):
        nothing = psi(model, torch.zeros_like(value))
        yield psi(model, weight * value) - nothing + weight * model.bias


def test_contributions_add_up_to_the_logits():
    torch.manual_seed(1)
    model = AdditiveMIL(5, 3, "multiclass", hidden_sizes=(6,), classifier_sizes=(7, 4)).double()
    with torch.no_grad():
        model.bias.uniform_(-1, 1)
    bags = bag_batch(torch.randn(9, 5, dtype=torch.float64), [4, 5])
    output = model(bags)
    close = {"rtol": 0, "atol": 1e-12}
    for bag, rows in enumerate((slice(0, 4), slice(4, 9))):
        instances = model.embed(bags.features[rows])
        expected = torch.stack(list(slow_contributions(model, instances, output.attention[rows])))
        torch.testing.assert_close(output.instance_logits[rows], expected, **close)
        torch.testing.assert_close(output.logits[bag], expected.sum(0), **close)


def test_an_instance_without_attention_contributes_nothing():
    model = hand_made()
    with torch.no_grad():
        model.attention.value.weight.fill_(1.0)
        model.attention.value.bias.zero_()
        model.attention.score.weight.fill_(200.0)  # the score is 200 tanh(h): -200 for the last one
    fewer = bag_batch(torch.tensor([[1.0], [1.5]]), [2])
    output = model(bag_batch(torch.tensor([[1.0], [1.5], [-50.0]]), [3]))
    assert output.instance_logits[2].item() == 0
    torch.testing.assert_close(output.logits, model(fewer).logits, rtol=0, atol=1e-6)


def test_contributions_of_large_bags_keep_their_digits():
    # psi(0) is near 10 and a contribution near 1e-5: their difference would have two digits
    torch.manual_seed(0)
    model = AdditiveMIL(4, 2, "binary", hidden_sizes=(8,), classifier_sizes=(6,))
    with torch.no_grad():
        model.hidden[0].bias.fill_(10.0)
        model.classifier.weight.abs_()
    bags = bag_batch(torch.randn(10_000, 4), [10_000])
    output = model(bags)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(bags)
    assert half.logits.dtype == half.instance_logits.dtype == torch.float32
    expected = model.double()(bag_batch(bags.features.double(), [10_000])).logits.float()
    torch.testing.assert_close(output.logits, expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(half.logits, expected, rtol=0.02, atol=0)


def test_dropout_acts_on_the_embedding_that_attention_and_classifier_share():
    model = AdditiveMIL(3, 2, "binary", hidden_sizes=(), dropout=0.5)
    features = torch.rand(40, 3) + 1
    kept = model.train().embed_bags(bag_batch(features, [40])).features / features
    assert set(kept.flatten().tolist()) == {0.0, 2.0}
    bags = model.eval().embed_bags(bag_batch(features, [40]))
    assert torch.equal(bags.features, features)
    assert torch.equal(model.train().pool(bags).logits, model.eval().pool(bags).logits)
