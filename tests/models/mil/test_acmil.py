import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from models.mil import acmil
from models.mil.abmil import ABMIL
from models.mil.acmil import ACMIL, ACMILOutput, map_similarity
from models.mil.protocol import TwoPartModel
from structures import BagBatch

CLOSE = {"rtol": 0, "atol": 1e-6}


def bag_batch(sizes, width=5, labels=None, seed=0):
    random = torch.Generator().manual_seed(seed)
    return BagBatch(
        features=torch.randn(sum(sizes), width, generator=random),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2 if labels is None else labels,
        index=torch.arange(len(sizes)) + 3,
    )


def model_for(task="binary", classes=2, **arguments):
    torch.manual_seed(1)
    settings = {"hidden_size": 6, "attention_dim": 4, "branches": 3} | arguments
    return ACMIL(5, classes, task, **settings)


def test_two_maps_by_hand():
    """E = 1, and the embedding of a positive feature is the feature."""
    model = ACMIL(1, 2, "binary", hidden_size=1, attention_dim=1, branches=2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed[0].weight.fill_(1.0)
        model.attention.value.weight.fill_(math.log(2) / 2)
        model.attention.gate.weight.fill_(math.log(3))
        model.attention.score.weight.copy_(torch.tensor([[4.0], [0.0]]))
        model.branch_classifiers[0].weight.fill_(2.0)
        model.branch_classifiers[1].weight.fill_(-1.0)
        model.branch_classifiers[1].bias.fill_(0.5)
        model.classifier.weight.fill_(3.0)
        model.classifier.bias.fill_(-4.0)
    bags = BagBatch(
        torch.tensor([[1.0], [2.0]]), torch.tensor([0, 2]), torch.tensor([1]), torch.tensor([0])
    )
    output = model(bags)
    # tanh(h log 2 / 2) sigmoid(h log 3) = (2^h - 1) / (2^h + 1) x 3^h / (3^h + 1):
    # 1/3 x 3/4 = 1/4 and 3/5 x 9/10 = 27/50, times 4; the second map is uniform
    a = 1 / (1 + math.exp(4 * (27 / 50 - 1 / 4)))  # of the first instance in the first map
    attention = torch.tensor([[a, 0.5], [1 - a, 0.5]])
    torch.testing.assert_close(output.attention, attention, **CLOSE)
    z1, z2 = a + 2 * (1 - a), 1.5
    pooled = (z1 + z2) / 2
    torch.testing.assert_close(output.embeddings, torch.tensor([[pooled]]), **CLOSE)
    torch.testing.assert_close(output.logits, torch.tensor([[3 * pooled - 4]]), **CLOSE)
    branches = torch.tensor([[[2 * z1], [0.5 - z2]]])
    torch.testing.assert_close(output.branch_logits, branches, **CLOSE)
    terms = model.losses(output, bags)
    assert list(terms) == ["bag", "branch", "similarity"]
    bag = math.log1p(math.exp(4 - 3 * pooled))
    branch = (math.log1p(math.exp(-2 * z1)) + math.log1p(math.exp(z2 - 0.5))) / 2
    cosine = 0.5 / (math.hypot(a, 1 - a) * math.sqrt(0.5))
    for term, value in zip(terms.values(), [bag, branch, cosine], strict=True):
        assert term.item() == pytest.approx(value, abs=1e-6)


def test_similarity_by_hand():
    # cos((1/2, 1/2), (1, 0)) = 1/sqrt 2 and so with (0, 1); (1, 0) and (0, 1): 0
    first = torch.tensor([[0.5, 1.0, 0.0], [0.5, 0.0, 1.0]])
    alone = torch.ones(1, 3)
    # (.6, .3, .1), (.2, .2, .6), (.6, .3, .1)
    third = torch.tensor([[0.6, 0.2, 0.6], [0.3, 0.2, 0.3], [0.1, 0.6, 0.1]])
    cosine = (0.12 + 0.06 + 0.06) / math.sqrt(0.46 * 0.44)
    expected = torch.tensor([math.sqrt(2) / 3, 1.0, (2 * cosine + 1) / 3])
    found = map_similarity(torch.cat([first, alone, third]), torch.tensor([0, 2, 3, 6]))
    torch.testing.assert_close(found, expected, **CLOSE)
    assert map_similarity(torch.ones(1, 1), torch.tensor([0, 1])).tolist() == [0]


@pytest.mark.parametrize(("task", "classes"), [("multiclass", 3), ("multilabel", 3)])
def test_a_packed_batch_equals_a_loop_over_bags_and_branches(task, classes):
    labels = torch.tensor([2, 0, 1]) if task == "multiclass" else torch.eye(3).long()
    model, bags = model_for(task, classes).eval(), bag_batch([4, 1, 3], labels=labels)
    output = model(bags)
    terms = model.losses(output, bags, "none")
    mean = model.losses(output, bags)
    loss = F.cross_entropy if task == "multiclass" else F.binary_cross_entropy_with_logits
    for place, bag in enumerate(bags.bags()):
        target = bag.labels if task == "multiclass" else bag.labels.float()
        h = model.embed(bag.features)
        maps = model.attention(h).softmax(0)  # (n, K)
        logits = model.classifier(maps.mean(1) @ h)[None]
        torch.testing.assert_close(output.logits[place], logits[0], **CLOSE)
        branches = [head(maps[:, k] @ h)[None] for k, head in enumerate(model.branch_classifiers)]
        torch.testing.assert_close(output.branch_logits[place], torch.cat(branches), **CLOSE)
        cosines = [
            F.cosine_similarity(maps[:, k], maps[:, m], dim=0) for k in range(3) for m in range(k)
        ]
        expected = {
            "bag": loss(logits, target),
            "branch": torch.stack([loss(branch, target) for branch in branches]).mean(),
            "similarity": torch.stack(cosines).mean(),
        }
        for name, value in expected.items():
            torch.testing.assert_close(terms[name][place], value, **CLOSE)
    for name, values in terms.items():
        torch.testing.assert_close(mean[name], values.mean(), **CLOSE)


def test_so_many_of_the_strongest_are_left_out_and_no_others():
    sizes = [1, 2, 7, 10, 50]
    bags, model = bag_batch(sizes), model_for()
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(sum(sizes), 3, generator=random)
    left_out = model.left_out(scores, bags, key=4)
    for own, logits, count in zip(
        left_out.split(sizes), scores.split(sizes), [0, 1, 4, 6, 6], strict=True
    ):
        assert own.sum(0).tolist() == [count] * 3  # .6 of min(10, n), rounded down
        for k in range(3):
            strongest = set(logits[:, k].argsort(descending=True)[:10].tolist())
            assert set(own[:, k].nonzero()[:, 0].tolist()) <= strongest
    for bag, own, logits in zip(
        bags.bags(), left_out.split(sizes), scores.split(sizes), strict=True
    ):
        assert torch.equal(model.left_out(logits, bag, key=4), own)  # whatever else is there
    assert not torch.equal(model.left_out(scores, bags, key=5), left_out)
    same = model.left_out(scores[:, :1].expand(-1, 3), bags, key=4)
    assert not torch.equal(same[:, 0], same[:, 1])  # each map has its own lots


def test_each_of_the_strongest_is_left_out_as_often():
    bags, model = bag_batch([14]), model_for()
    scores = torch.arange(14.0).view(-1, 1)
    drawn = [model.left_out(scores, bags, key)[:, 0] for key in range(600)]
    shares = torch.stack(drawn).double().mean(0)  # deviation sqrt(.24 / 600) = .02
    expected = torch.tensor([0.0] * 4 + [0.6] * 10, dtype=torch.float64)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.09)
    assert shares[:4].tolist() == [0] * 4


def test_what_is_left_out_is_seen_by_nothing_in_training(monkeypatch):
    monkeypatch.setattr(acmil, "draw_key", lambda: 9)
    model, bags = model_for(masked_top=3, mask_drop=0.4).train(), bag_batch([4, 6])
    output = model(bags)
    h = model.embed(bags.features)
    scores = model.attention(h)
    hidden = model.left_out(scores, bags, key=9)
    assert hidden.sum().item() == 2 * 3  # one a bag and map
    assert torch.equal(output.attention[hidden], torch.zeros(6))
    assert torch.equal(output.attention_logits[hidden], torch.full((6,), -1e9))
    kept = scores.masked_fill(hidden, -torch.inf)
    attention = torch.cat([part.softmax(0) for part in kept.split([4, 6])])
    torch.testing.assert_close(output.attention, attention, **CLOSE)
    pooled = torch.stack(
        [a.T @ part for a, part in zip(attention.split([4, 6]), h.split([4, 6]), strict=True)]
    )
    torch.testing.assert_close(output.embeddings, pooled.mean(1), **CLOSE)
    similar = model.losses(output, bags, "none")["similarity"]
    torch.testing.assert_close(similar, map_similarity(attention, bags.offsets), **CLOSE)


def test_evaluation_leaves_nothing_out_and_draws_nothing():
    model, bags = model_for(masked_top=3).eval(), bag_batch([4, 6])
    state = torch.get_rng_state()
    output = model(bags)
    assert torch.equal(torch.get_rng_state(), state)
    scores = model.attention(model.embed(bags.features))
    torch.testing.assert_close(output.attention_logits, scores, **CLOSE)
    model.train()
    torch.manual_seed(0)
    first, second = model(bags), model(bags)
    assert not torch.equal(first.attention, second.attention)
    model.mask_drop = 0.0
    torch.testing.assert_close(model(bags).logits, output.logits, **CLOSE)


def test_it_is_a_model_in_two_parts_with_an_output_of_its_own():
    model, bags = model_for(), bag_batch([4, 2])
    assert isinstance(model, TwoPartModel)
    output = model.eval().pool(model.embed_bags(bags))
    assert torch.equal(output.logits, model(bags).logits)
    assert isinstance(output.to("cpu"), ACMILOutput)
    with pytest.raises(TypeError, match="ACMILOutput"):
        model.losses(ABMIL(5, 2, "binary")(bags), bags)
    with pytest.raises(TypeError, match="ACMILOutput"):
        model.losses(dataclasses.replace(output, attention=None), bags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"branches": 0}, "positive"),
        ({"masked_top": 0}, "positive"),
        ({"masked_top": -1}, "masked_top must be positive, got -1"),
        ({"hidden_size": 0}, "positive"),
        ({"mask_drop": 1.0}, "share in"),
        ({"mask_drop": -0.1}, "share in"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        model_for(**arguments)
