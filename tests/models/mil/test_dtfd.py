import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datamodules.mil.base import select_bags
from datamodules.mil.digit_bags import DigitBagsDataModule
from evaluation.mil.scores import evaluate_bags
from models.mil import dtfd
from models.mil.abmil import ABMIL
from models.mil.dtfd import DTFD, DTFDOutput, evidence, pseudo_bag_of_each
from models.mil.protocol import TwoPartModel
from models.ops.bags.keyed_random import random_order
from structures import BagBatch

DISTILLATIONS = ["afs", "maxs", "maxmins", "mas"]
TASKS = [("binary", 2), ("multiclass", 3), ("multilabel", 3)]
CLOSE = {"rtol": 0, "atol": 1e-6}


def bag_batch(sizes, width=5, task="binary", seed=0):
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(sizes)) % 2
    if task == "multilabel":
        labels = (torch.arange(len(sizes))[:, None] + torch.arange(3)) % 2
    return BagBatch(
        features=torch.randn(sum(sizes), width, generator=random),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=labels,
        index=torch.arange(len(sizes)) + 3,
    )


def model_for(task="binary", classes=2, **arguments):
    torch.manual_seed(1)
    settings = {"hidden_size": 6, "attention_dim": 4, "num_groups": 3} | arguments
    return DTFD(5, classes, task, **settings)


def in_groups(monkeypatch, groups):
    monkeypatch.setattr(dtfd, "pseudo_bag_of_each", lambda *_: torch.tensor(groups))


def hand_made(distill="afs", kept=1, uniform=True):
    """E = 1, two groups, the embedding of a positive feature is the feature; l_g = 2 z_g - 1."""
    model = DTFD(
        1,
        2,
        "binary",
        hidden_size=1,
        attention_dim=1,
        gated=False,
        num_groups=2,
        distill=distill,
        kept=kept,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed[0].weight.fill_(1.0)
        model.classifier.weight.fill_(2.0)
        model.classifier.bias.fill_(-1.0)
        model.second_classifier.weight.fill_(3.0)
        if not uniform:
            model.attention.value.weight.fill_(math.log(2) / 2)
            model.attention.score.weight.fill_(5.0)
            model.second_attention.value.weight.fill_(math.log(3) / 2)
            model.second_attention.score.weight.fill_(1.0)
    return model.train()


def one_bag(values, label=1):
    features = torch.tensor(values).view(-1, 1)
    return BagBatch(
        features, torch.tensor([0, len(values)]), torch.tensor([label]), torch.tensor([0])
    )


def test_both_tiers_by_hand(monkeypatch):
    in_groups(monkeypatch, [0, 1, 0, 1])
    model, bags = hand_made(uniform=False), one_bag([1.0, 2.0, 3.0, 4.0])
    output = model(bags)
    # tanh(h log 2 / 2) = (2^h - 1) / (2^h + 1), times w = 5
    scores = [5 * (2**h - 1) / (2**h + 1) for h in (1, 2, 3, 4)]
    weights = [math.exp(s) for s in scores]
    a1, a3 = (w / (weights[0] + weights[2]) for w in (weights[0], weights[2]))
    a2, a4 = (w / (weights[1] + weights[3]) for w in (weights[1], weights[3]))
    z0, z1 = a1 * 1 + a3 * 3, a2 * 2 + a4 * 4
    l0, l1 = 2 * z0 - 1, 2 * z1 - 1
    torch.testing.assert_close(output.pseudo_logits.flatten(), torch.tensor([l0, l1]), **CLOSE)
    added = torch.tensor([[2 * a1 * 1], [2 * a2 * 2], [2 * a3 * 3], [2 * a4 * 4]])
    torch.testing.assert_close(output.instance_logits, added, **CLOSE)
    # tier 2: tanh(z log 3 / 2) = (3^z - 1) / (3^z + 1), w' = 1, logit 3 z
    s0, s1 = (math.exp((3**z - 1) / (3**z + 1)) for z in (z0, z1))
    pooled = (s0 * z0 + s1 * z1) / (s0 + s1)
    torch.testing.assert_close(output.embeddings, torch.tensor([[pooled]]), **CLOSE)
    torch.testing.assert_close(output.logits, torch.tensor([[3 * pooled]]), **CLOSE)
    terms = model.losses(output, bags)
    assert terms["bag"].item() == pytest.approx(math.log1p(math.exp(-3 * pooled)), abs=1e-6)
    tier_1 = (math.log1p(math.exp(-l0)) + math.log1p(math.exp(-l1))) / 2
    assert terms["pseudo_bag"].item() == pytest.approx(tier_1, abs=1e-6)
    # what is shown for the bag is the attention of tier 1 without groups
    torch.testing.assert_close(output.attention, torch.tensor(scores).softmax(0), **CLOSE)
    torch.testing.assert_close(output.attention_logits, torch.tensor(scores), **CLOSE)


@pytest.mark.parametrize(
    ("distill", "kept", "pooled"),
    [
        ("afs", 1, (4 + 5) / 2),  # the means of 1, 3, 8 and 4, 5, 6
        ("maxs", 1, (8 + 6) / 2),
        ("maxs", 2, (8 + 3 + 6 + 5) / 4),
        ("maxs", 9, (1 + 3 + 8 + 4 + 5 + 6) / 6),  # k = min(k, n)
        ("maxmins", 1, (8 + 1 + 6 + 4) / 4),
        ("maxmins", 2, (8 + 3 + 1 + 6 + 5 + 4) / 6),  # the middle one is not taken twice
        ("maxmins", 3, (1 + 3 + 8 + 4 + 5 + 6) / 6),
    ],
)
def test_what_is_distilled_by_hand(monkeypatch, distill, kept, pooled):
    """All attention is uniform, so tier 2 averages what is distilled."""
    in_groups(monkeypatch, [0, 0, 0, 1, 1, 1])
    output = hand_made(distill, kept)(one_bag([1.0, 3.0, 8.0, 5.0, 4.0, 6.0]))
    assert output.embeddings.item() == pytest.approx(pooled, abs=1e-6)


def test_mas_takes_the_most_attended(monkeypatch):
    in_groups(monkeypatch, [0, 0, 1, 1])
    for distill, pooled in [("mas", (1 + 2) / 2), ("maxs", (3 + 4) / 2)]:
        model = hand_made(distill)
        with torch.no_grad():  # a little more attention for small features
            model.attention.value.weight.fill_(1.0)
            model.attention.score.weight.fill_(-0.1)
        output = model(one_bag([3.0, 1.0, 2.0, 4.0]))
        assert output.embeddings.item() == pytest.approx(pooled, abs=1e-6)


def slow_split(model, instances, groups):
    """Return l_g of the groups that are not empty, L_nc, and the tier-2 embedding of one bag."""
    logits, pieces = [], []
    added = torch.zeros(len(instances), len(model.classifier.bias), dtype=instances.dtype)
    for group in range(model.num_groups):
        rows = (groups == group).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        h = instances[rows]
        a = model.attention(h)[:, 0].softmax(0)
        logits.append(model.classifier(a @ h))
        added[rows] = (a[:, None] * (h @ model.classifier.weight.T)).detach()
        best = int(logits[-1].argmax())
        evidence = added[rows].softmax(1) if model.task == "multiclass" else added[rows]
        key = a if model.distill == "mas" else evidence[:, best]
        order = key.argsort(descending=True).tolist()
        chosen = order[: model.kept]
        if model.distill == "maxmins":
            chosen += [i for i in order[-model.kept :] if i not in chosen]
        pieces += [a @ h] if model.distill == "afs" else [h[i] for i in chosen]
    distilled = torch.stack(pieces).detach()
    weights = model.second_attention(distilled)[:, 0].softmax(0)
    return torch.stack(logits), added, weights @ distilled


@pytest.mark.parametrize(("task", "classes"), TASKS)
@pytest.mark.parametrize("distill", DISTILLATIONS)
def test_a_packed_batch_equals_a_loop_over_bags_and_groups(monkeypatch, distill, task, classes):
    monkeypatch.setattr(dtfd, "draw_key", lambda: 11)
    kept = 1 if distill == "mas" else 2
    model = model_for(task, classes, distill=distill, kept=kept).double().train()
    bags = bag_batch([7, 1, 12, 2], task=task)
    bags = dataclasses.replace(bags, features=bags.features.double())
    output = model(bags)
    terms = model.losses(output, bags, "none")
    model.losses(output, bags)["bag"].backward(retain_graph=True)
    model.losses(output, bags)["pseudo_bag"].backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    total = 0
    for place, bag in enumerate(bags.bags()):
        groups = pseudo_bag_of_each(bag, 3, 11)
        pseudo, added, pooled = slow_split(model, model.embed(bag.features), groups)
        start, end = bags.offsets[place : place + 2].tolist()
        torch.testing.assert_close(output.embeddings[place], pooled)
        torch.testing.assert_close(output.pseudo_logits[place, 0, : len(pseudo)], pseudo)
        torch.testing.assert_close(output.instance_logits[start:end], added)
        assert output.pseudo_bags[place, 0].tolist() == [g < len(pseudo) for g in range(3)]
        logits = model.second_classifier(pooled)
        both = [torch.stack([logits]), pseudo]
        if task == "multiclass":
            torch.testing.assert_close(output.logits[place].softmax(0), logits.softmax(0))
            bag_loss, pseudo_loss = (
                F.cross_entropy(each, bag.labels.expand(len(each))) for each in both
            )
        else:
            torch.testing.assert_close(output.logits[place], logits)
            bag_loss, pseudo_loss = (
                F.binary_cross_entropy_with_logits(
                    each, bag.labels.view(1, -1).expand_as(each).double()
                )
                for each in both
            )
        torch.testing.assert_close(terms["bag"][place], bag_loss)
        torch.testing.assert_close(terms["pseudo_bag"][place], pseudo_loss)
        total = total + (bag_loss + pseudo_loss) / 4
    total.backward()
    for together, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(together, parameter.grad)


def test_tier_1_learns_nothing_from_the_loss_of_tier_2():
    for distill in DISTILLATIONS:
        model, bags = model_for(distill=distill).train(), bag_batch([8, 3])
        first = ("embed", "attention", "classifier")
        for term, trained in [("bag", False), ("pseudo_bag", True)]:
            model.zero_grad()
            model.losses(model(bags), bags)[term].backward()
            for name, parameter in model.named_parameters():
                mine = name.startswith(first) == trained
                assert (parameter.grad is not None) == mine, (distill, term, name)
                assert not mine or parameter.grad.abs().sum() > 0, (distill, term, name)


def test_pseudo_bags_partition_each_bag_evenly():
    sizes = [1, 2, 7, 50, 4]
    bags = bag_batch(sizes)
    groups = pseudo_bag_of_each(bags, 4, key=5)
    for bag, own in zip(bags.bags(), groups.split(sizes), strict=True):
        counts = torch.bincount(own, minlength=4).tolist()
        assert sum(counts) == len(own)
        assert max(counts) - min(counts) <= 1
        assert counts == sorted(counts, reverse=True)  # only the last ones can be empty
        assert torch.equal(pseudo_bag_of_each(bag, 4, key=5), own)  # whatever else is in the batch
    assert not torch.equal(pseudo_bag_of_each(bags, 4, key=6), groups)
    assert not torch.equal(pseudo_bag_of_each(bags, 4, key=5, stream=1), groups)


def test_instances_are_dealt_out_in_the_order_of_their_numbers():
    bags = bag_batch([9])
    order = random_order(bags, 5, 1).argsort()  # the first gets group 0, the second 1, ...
    groups = pseudo_bag_of_each(bags, 4, key=5, stream=1)
    assert groups[order].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_every_instance_is_as_likely_in_every_pseudo_bag():
    bags = bag_batch([6])
    drawn = torch.stack([pseudo_bag_of_each(bags, 3, key) for key in range(900)])
    for group in range(3):
        shares = (drawn == group).double().mean(0)  # deviation sqrt(2 / 9 / 900) = .016
        torch.testing.assert_close(
            shares, torch.full((6,), 1 / 3, dtype=shares.dtype), rtol=0, atol=0.07
        )


@pytest.mark.parametrize(("task", "classes"), TASKS)
def test_evaluation_averages_probabilities_over_fixed_splits(task, classes):
    model = model_for(task, classes, distill="maxs", inference_rounds=3).eval()
    bags = bag_batch([9, 5], task=task)
    state = torch.get_rng_state()
    output = model(bags)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(bags).logits, output.logits)
    probabilities, embeddings, added = [], [], []
    for bag in bags.bags():
        splits = [
            slow_split(model, model.embed(bag.features), pseudo_bag_of_each(bag, 3, 0, stream))
            for stream in range(3)
        ]
        logits = torch.stack([model.second_classifier(pooled) for _, _, pooled in splits])
        each = logits.softmax(1) if task == "multiclass" else logits.sigmoid()
        probabilities.append(each.mean(0))
        embeddings.append(torch.stack([pooled for _, _, pooled in splits]).mean(0))
        added.append(torch.stack([part for _, part, _ in splits]).mean(0))
    found = output.probabilities(task).view(2, -1)
    torch.testing.assert_close(found, torch.stack(probabilities), **CLOSE)
    torch.testing.assert_close(output.embeddings, torch.stack(embeddings), **CLOSE)
    torch.testing.assert_close(output.instance_logits, torch.cat(added), **CLOSE)
    assert output.pseudo_logits.shape[:3] == output.pseudo_bags.shape == (2, 3, 3)


def test_training_draws_a_new_split_each_time():
    model, bags = model_for(inference_rounds=3).train(), bag_batch([9])
    torch.manual_seed(3)
    first, second = model(bags), model(bags)
    torch.manual_seed(3)
    again = model(bags)
    assert first.pseudo_bags.shape == (1, 1, 3)
    assert torch.equal(first.logits, again.logits)
    assert not torch.allclose(first.pseudo_logits, second.pseudo_logits)


def test_evidence_by_hand():
    added = torch.tensor([[3.0, 2.1, 0.0], [3.0, 2.7, 2.8], [1.0, 1.5, 0.5]])
    zero, last = torch.zeros(3, dtype=torch.int64), torch.full((3,), 2)
    # p_0 = 1 / (1 + e^-.9 + e^-3), 1 / (1 + e^-.3 + e^-.2), 1 / (1 + e^.5 + e^-.5)
    odds = [-0.9, -3.0], [-0.3, -0.2], [0.5, -0.5]
    expected = [1 / (1 + sum(math.exp(d) for d in pair)) for pair in odds]
    found = evidence(added, zero, "multiclass").exp().float()
    torch.testing.assert_close(found, torch.tensor(expected), **CLOSE)
    # a label's own sigmoid does not care for the other labels
    assert torch.equal(evidence(added, zero, "multilabel"), added[:, 0])
    assert torch.equal(evidence(added, last, "multilabel"), added[:, 2])
    assert torch.equal(evidence(added[:, :1], zero, "binary"), added[:, 0])


def test_ranking_does_not_drown_in_rounding():
    """Next to log C, what one of many instances adds is below the resolution of float32."""
    model, bags = model_for("multiclass", 3, distill="maxs", kept=4).train(), bag_batch([20_000])
    outputs = []
    for kind in (torch.float32, torch.float64):
        torch.manual_seed(0)
        outputs.append(model.to(kind)(dataclasses.replace(bags, features=bags.features.to(kind))))
    torch.testing.assert_close(outputs[0].embeddings.double(), outputs[1].embeddings, **CLOSE)


def test_afs_equals_torchmil_with_copied_weights(monkeypatch):
    """torchmil's other distillations rank without the attention and keep every instance."""
    models = pytest.importorskip("torchmil.models", reason="torchmil is not installed")
    torch.manual_seed(0)
    ours = model_for(gated=False, num_groups=4).train()
    embed = nn.Sequential(nn.Linear(5, 6, bias=False), nn.ReLU())
    theirs = models.DTFDMIL((5,), 4, 4, distill_mode="afs", feat_ext=embed)
    pairs = [
        (theirs.feat_ext, ours.embed),
        (theirs.attention_pool.fc1, ours.attention.value),
        (theirs.attention_pool.fc2, ours.attention.score),
        (theirs.classifier, ours.classifier),
        (theirs.u_attention_pool.fc1, ours.second_attention.value),
        (theirs.u_attention_pool.fc2, ours.second_attention.score),
        (theirs.u_classifier, ours.second_classifier),
    ]
    for theirs_part, ours_part in pairs:
        getattr(theirs_part, "module", theirs_part).load_state_dict(ours_part.state_dict())
    for size in (37, 3):
        bags = bag_batch([size])
        monkeypatch.setattr(dtfd, "draw_key", lambda: 2)
        order = pseudo_bag_of_each(bags, 4, 2).argsort(stable=True).numpy()

        def shuffled(index, order=order):
            index[:] = order

        monkeypatch.setattr(np.random, "shuffle", shuffled)
        logit, pseudo = theirs(bags.features[None], return_pseudo_pred=True)
        output = ours(bags)
        torch.testing.assert_close(output.logits[0], logit, rtol=0, atol=1e-5)
        present = output.pseudo_bags[0, 0]
        torch.testing.assert_close(output.pseudo_logits[0, 0, present, 0], pseudo[0], **CLOSE)


def test_it_is_a_model_in_two_parts_with_an_output_of_its_own():
    model, bags = model_for(), bag_batch([4, 2])
    assert isinstance(model, TwoPartModel)
    assert model.permutation_invariant is False
    output = model.eval().pool(model.embed_bags(bags))
    assert torch.equal(output.logits, model(bags).logits)
    assert isinstance(output.to("cpu"), DTFDOutput)
    with pytest.raises(TypeError, match="DTFDOutput"):
        model.losses(ABMIL(5, 2, "binary")(bags), bags)


@pytest.mark.parametrize("name", ["num_groups", "kept", "inference_rounds", "hidden_size"])
def test_wrong_arguments_are_refused(name):
    with pytest.raises(ValueError, match="positive"):
        model_for(**{name: 0})
    with pytest.raises(ValueError, match=f"{name} must be positive, got -1"):
        model_for(**{name: -1})
    with pytest.raises(ValueError, match="distill is one of"):
        model_for(distill="max")


@pytest.mark.slow
@pytest.mark.parametrize("distill", DISTILLATIONS)
def test_every_distillation_learns(distill):
    data = DigitBagsDataModule()
    train, test = data.source("train"), data.source("test")
    torch.manual_seed(0)
    model = DTFD(64, 2, "binary", hidden_size=128, attention_dim=64, num_groups=2, distill=distill)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    for _ in range(12):
        for positions in torch.randperm(len(train)).split(20):
            batch = select_bags(train, positions)
            loss = sum(model.losses(model(batch), batch).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        scores = model.eval()(test).probabilities("binary")
    assert evaluate_bags(test.labels, scores, "binary")["bag_auroc"] >= 0.90
