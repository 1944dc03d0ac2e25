import dataclasses
import math

import pytest
import torch
from torch import nn

from models.mil.ins import INS
from models.mil.ins.ins import contrastive_loss
from models.mil.protocol import MILModel, TwoPartModel
from models.ops.bags.keyed_random import draw_key, random_order
from structures import BagBatch
from tests.support.ins_case import bag_batch, learner, memory_for


def logit(p):
    return math.log(p / (1 - p))


def scored(model, probabilities, sizes):
    """Return the bag logits for instances of these probabilities."""
    log_probs = torch.tensor(probabilities, dtype=torch.float64).log()
    return model.bag_logits(log_probs, torch.tensor([0, *sizes]).cumsum(0))


def test_scores_of_two_classes_by_hand():
    probabilities = [[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]]
    r = 4.0
    lse = math.log((math.exp(r * 0.25) + math.exp(r * 0.5)) / 2) / r
    lone = 0.9  # of a bag of one, all three are the instance
    wanted = {"mean": [0.375, lone], "max": [0.5, lone], "lse": [lse, lone]}
    for pooling, scores in wanted.items():
        logits = scored(learner(pooling=pooling, sharpness=r), probabilities, [2, 1])
        expected = torch.tensor([[logit(s)] for s in scores], dtype=torch.float64)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


def test_scores_of_three_classes_by_hand():
    """Class c has the pooled p_c, the negative one what the pooled 1 - p_0 leaves."""
    probabilities = [[0.7, 0.2, 0.1], [0.3, 0.2, 0.5]]
    r = 2.0

    def lse(*values):
        return math.log(sum(math.exp(r * v) for v in values) / len(values)) / r

    wanted = {
        "mean": [0.5, 0.2, 0.3],
        "max": [1 - 0.7, 0.2, 0.5],
        "lse": [1 - lse(0.3, 0.7), lse(0.2, 0.2), lse(0.1, 0.5)],
    }
    for pooling, scores in wanted.items():
        model = learner(3, "multiclass", pooling=pooling, sharpness=r)
        logits = scored(model, probabilities, [2])
        expected = torch.tensor([scores], dtype=torch.float64).log()
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooling", ["mean", "max", "lse"])
def test_scores_of_instances_beyond_doubt_are_finite(pooling):
    model = learner(pooling=pooling)
    logits = torch.tensor([[0.0, 60.0], [0.0, -60.0], [0.0, 500.0]])
    bags = model.bag_logits(logits.log_softmax(dim=1), torch.tensor([0, 1, 2, 3]))
    # A bag of one instance has its instance's log-odds, where 1 - p is no longer told from 1.
    torch.testing.assert_close(bags[:2, 0], torch.tensor([60.0, -60.0]), rtol=1e-5, atol=0)
    assert bags.isfinite().all()
    assert bags[2] > 80


def test_a_sharp_lse_is_the_maximum_and_a_dull_one_the_mean():
    probabilities = [[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]]
    for sharpness, pooling, close in ((1e-4, "mean", 1e-4), (80.0, "max", 0.06)):
        lse = scored(learner(pooling="lse", sharpness=sharpness), probabilities, [3])
        other = scored(learner(pooling=pooling), probabilities, [3])
        torch.testing.assert_close(lse, other, rtol=0, atol=close)


def test_output_of_a_bag_by_hand():
    """The embedding is the feature, the logits are (0, h): p = sigmoid(h)."""
    model = INS(1, 2, "binary", hidden_sizes=(), projection_dim=2, queue_size=4, pooling="max")
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor([[1.0], [2.0]]))
        model.classifier.bias.copy_(torch.tensor([0.5, 0.5]))
    features = torch.tensor([[-math.log(3.0)], [0.0], [math.log(9.0)]])  # p = 1/4, 1/2, 9/10
    bags = BagBatch(features, torch.tensor([0, 3]), torch.tensor([1]), torch.tensor([0]))
    output = model.eval()(bags)
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(output.instance_logits, features, **close)
    torch.testing.assert_close(output.logits, torch.tensor([[math.log(9.0)]]), **close)
    shares = torch.tensor([0.25, 0.5, 0.9]) / 1.65
    torch.testing.assert_close(output.attention, shares, **close)
    torch.testing.assert_close(output.attention_logits, (shares * 1.65).log(), **close)
    torch.testing.assert_close(output.embeddings, torch.tensor([[math.log(3.0) / 3]]), **close)
    assert model.losses(output, bags)["bag"].item() == pytest.approx(math.log(10 / 9), abs=1e-6)
    assert model.losses(output, bags, "none")["bag"].shape == (1,)


def test_three_classes_share_attention_by_all_that_is_not_negative():
    model = learner(3, "multiclass").eval()
    bags = bag_batch([4, 2], [0, 2])
    output = model(bags)
    positive = 1 - output.instance_logits.softmax(dim=1)[:, 0]
    shares = torch.cat([p / p.sum() for p in positive.split([4, 2])])
    torch.testing.assert_close(output.attention, shares, rtol=0, atol=1e-6)
    assert output.instance_logits.shape == (6, 3)
    assert isinstance(model, MILModel)
    assert isinstance(model, TwoPartModel)


def test_contrast_by_hand():
    """Scores 2, 1, 0 and -1 of temperature 1/2 for angles whose cosines are 1, 1/2, 0 and -1/2."""
    angles = torch.tensor([0.0, math.pi / 3, math.pi / 2, 2 * math.pi / 3], dtype=torch.float64)
    others = torch.stack([angles.cos(), angles.sin()], dim=1)
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    allowed = torch.tensor([[False, True, True, True]])
    positive = torch.tensor([[False, True, False, True]])
    total = math.log(math.exp(1) + math.exp(0) + math.exp(-1))
    loss = contrastive_loss(query, others, allowed, positive, temperature=0.5)
    assert loss.tolist() == pytest.approx([total - (1 - 1) / 2], abs=1e-12)
    one = torch.tensor([[False, True, False, False]])  # InfoNCE
    loss = contrastive_loss(query, others, allowed, one, temperature=0.5)
    assert loss.tolist() == pytest.approx([total - 1], abs=1e-12)
    alone = contrastive_loss(query, others, one, one, temperature=0.5)  # an empty queue
    assert alone.tolist() == [0.0]


def best(scores, label):
    """Return the class of the highest score among 0 and the bag's."""
    return max(sorted({0, label}), key=scores.detach().tolist().__getitem__)


class Naive:
    """A step of the method instance by instance, with lists for the queue and the table."""

    def __init__(self, model, classes):
        self.model, self.classes = model, classes
        self.queue, self.table = [], {}
        self.prototypes = torch.zeros(classes, 4, dtype=torch.float64)

    def target(self, name, label):
        start = [0.0] * self.classes
        for c in {0, label}:
            start[c] = 1 / len({0, label})
        return self.table.setdefault(name, torch.tensor(start, dtype=torch.float64))

    def step(self, bags, progress, order):
        model, warm = self.model, progress < 0.25
        rows = [(b, i) for b, size in enumerate(bags.sizes().tolist()) for i in range(size)]
        names = [(int(bags.index[b]), i) for b, i in rows]
        labels = [int(bags.labels[b]) for b, _ in rows]
        embedded = [model.embed(x) for x in bags.features]
        queries = [nn.functional.normalize(model.project(h), dim=0) for h in embedded]
        keys = [nn.functional.normalize(model.key_project(model.key_embed(x)), dim=0).detach()
                for x in bags.features]  # fmt: skip
        log_probs = [model.classifier(h).log_softmax(dim=0) for h in embedded]
        pseudo = [best(p, y) for p, y in zip(log_probs, labels, strict=True)]
        for b in range(len(bags)):  # the likeliest of each bag
            own = [n for n, row in enumerate(rows) if row[0] == b]
            first = max(own, key=lambda n: float(log_probs[n][labels[n]].detach()))
            pseudo[first] = labels[first]
        for name, y, q in zip(names, labels, queries, strict=True):
            before = self.target(name, y)
            if warm:
                continue
            nearest = best(self.prototypes @ q, y)
            told = torch.zeros_like(before)
            told[nearest if y else 0] = 1
            phi = 0.95 - 0.15 * progress
            self.table[name] = phi * before + (1 - phi) * told if y else told
        contrasts, instances, pooled = [], [], []
        learnt = [n for n, y in enumerate(labels) if y > 0 or not warm]
        for i in learnt:
            q = queries[i]
            everything = [(queries[n], pseudo[n]) for n in learnt if n != i]
            everything += [(keys[n], pseudo[n]) for n in learnt] + self.queue
            positive = [v for v, z in everything if z == pseudo[i]]
            if warm:
                everything, positive = [(keys[i], 0), *self.queue], [keys[i]]
            total = torch.stack([q @ v / 0.5 for v, _ in everything]).logsumexp(dim=0)
            contrasts.append(-sum(q @ v / 0.5 - total for v in positive) / len(positive))
        for b in range(len(bags)):
            own = [n for n, row in enumerate(rows) if row[0] == b]
            values = [-(self.table[names[n]] * log_probs[n]).sum() for n in own]
            if own[0] in learnt:
                instances.append(sum(values) / len(own))
            mean = sum(embedded[n] for n in own) / len(own)
            pooled.append(-model.pooled_head(mean).log_softmax(dim=0)[bags.labels[b]])
        for n in (n for n in order.argsort().tolist() if n in learnt):
            moved = 0.9 * self.prototypes[pseudo[n]] + 0.1 * queries[n].detach()
            self.prototypes[pseudo[n]] = moved
        self.prototypes = nn.functional.normalize(self.prototypes, dim=1)
        self.queue = (self.queue + [(keys[n], pseudo[n]) for n in learnt])[-11:]
        terms = {"instance": instances, "contrast": contrasts, "pooled": pooled}
        return {name: sum(values) / len(values) for name, values in terms.items()}


@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multiclass", 3)])
def test_steps_are_those_of_the_method_told_instance_by_instance(task, classes):
    """Two steps of warm-up and three after it; the queue of 11 wraps, and the network learns."""
    model = learner(classes, task, key_momentum=0.9).double()
    with torch.no_grad():  # so that positives are found while there are few steps
        model.classifier.bias[1:] += 0.5
    bags = bag_batch([2, 1, 3, 1], [1, 0, classes - 1, 0], numbers=[5, 3, 9, 0])
    bags = dataclasses.replace(bags, features=bags.features.double())
    memory, naive = memory_for(model, bags), Naive(model, classes)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    batches = [bags, bags.bag(2), BagBatch.collate([bags.bag(1), bags.bag(0)]), bags, bags.bag(0)]
    close = {"rtol": 0, "atol": 1e-11}
    for number, batch in enumerate(batches):
        progress = [0.0, 0.2, 0.25, 0.5, 1.0][number]
        torch.manual_seed(number)
        order = random_order(batch, draw_key(), stream=1)
        wanted = naive.step(batch, progress, order)
        torch.manual_seed(number)
        terms = model.training_losses(batch, progress, memory)
        assert set(terms) == {"bag", *wanted}
        parameters = [p for p in model.parameters() if p.requires_grad]
        for name, value in wanted.items():
            torch.testing.assert_close(terms[name], value, **close, msg=lambda m, n=name: n + m)
            ours, theirs = (
                torch.autograd.grad(v, parameters, retain_graph=True, allow_unused=True)
                for v in (terms[name], value)
            )
            for mine, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(
                    torch.zeros(()) if mine is None else mine,
                    torch.zeros(()) if other is None else other, **close,
                )  # fmt: skip
        output = model(batch)
        torch.testing.assert_close(terms["bag"], model.losses(output, batch)["bag"], **close)
        torch.testing.assert_close(memory.prototypes, naive.prototypes, **close)
        held = memory.queue_labels[memory.queue_labels >= 0]
        assert sorted(held.tolist()) == sorted(z for _, z in naive.queue)
        for (bag_number, place), target in naive.table.items():
            row = int(memory.starts[bag_number]) + place
            torch.testing.assert_close(memory.targets[row], target, **close)
        optimizer.zero_grad()
        torch.stack([*terms.values()]).sum().backward()
        optimizer.step()
        model.update_keys()
    told = {int(t.argmax()) for t in naive.table.values()}
    assert len({z for _, z in naive.queue}) > 1, "the case is about more than one pseudo label"
    assert len(told) > 1, "and about targets that part"


def test_the_warm_up_leaves_the_targets_and_ends_at_its_share():
    model, bags = learner(), bag_batch([3, 2], [1, 0])
    memory = memory_for(model, bags)
    before = memory.targets.clone()
    model.training_losses(bags, 0.2499, memory)
    assert torch.equal(memory.targets, before)
    model.training_losses(bags, 0.25, memory)
    assert not torch.equal(memory.targets, before)


@pytest.mark.parametrize(("progress", "phi"), [(0.25, 0.9125), (0.6, 0.86), (1.0, 0.8)])
def test_targets_move_faster_towards_the_end(progress, phi):
    """phi = .95 - .15 progress; a target of one half moves to 1/2 +- (1 - phi) / 2."""
    model, bags = learner(), bag_batch([4], [1])
    memory = memory_for(model, bags)
    model.training_losses(bags, progress, memory)
    moved = (memory.targets - 0.5).abs()
    torch.testing.assert_close(moved, torch.full((4, 2), (1 - phi) / 2), rtol=0, atol=1e-6)


def test_without_a_warm_up_phi_begins_at_its_first_value():
    model, bags = learner(warmup=0.0), bag_batch([4], [1])
    memory = memory_for(model, bags)
    model.training_losses(bags, 0.0, memory)
    moved = (memory.targets - 0.5).abs()
    torch.testing.assert_close(moved, torch.full((4, 2), 0.025), rtol=0, atol=1e-6)


def test_negative_bags_give_negative_instances_whatever_the_network_says():
    model, bags = learner(), bag_batch([3, 2], [0, 1])
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([-9.0, 9.0]))
    memory = memory_for(model, bags)
    memory.targets.fill_(0.5)
    memory.prototypes[1] = 1.0  # all queries are nearer to nothing else
    model.training_losses(bags, 0.5, memory)
    assert memory.targets[:3].tolist() == [[1.0, 0.0]] * 3
    assert memory.queue_labels[:5].tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(("least", "wanted"), [(0, [0] * 6), (1, [0, 1, 0, 1, 0, 0])])
def test_the_likeliest_instances_of_a_positive_bag_are_positive(least, wanted):
    """p grows with the feature and stays below one half; the bags are positive but the last."""
    model = INS(
        1, 2, "binary", hidden_sizes=(), projection_dim=2, queue_size=6, view_dropout=0.0,
        least_positives=least,
    )  # fmt: skip
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor([[0.0], [1.0]]))
        model.classifier.bias.zero_()
    features = torch.tensor([[-3.0], [-1.0], [-2.0], [-9.0], [-0.1], [-0.2]])
    bags = BagBatch(
        features, torch.tensor([0, 3, 4, 6]), torch.tensor([1, 1, 0]), torch.tensor([0, 1, 2])
    )
    memory = memory_for(model, bags)
    model.training_losses(bags, 0.5, memory)
    assert memory.queue_labels.tolist() == wanted
    if least:  # two of three, one of one
        model.least_positives = 2
        model.training_losses(bags, 0.5, memory)
        assert memory.queue_labels.tolist() == [0, 1, 1, 1, 0, 0]


def test_the_second_network_follows_by_its_momentum_and_is_not_trained():
    model = learner(key_momentum=0.75)
    keys = [*model.key_embed.parameters(), *model.key_project.parameters()]
    queries = [*model.embed.parameters(), *model.project.parameters()]
    assert all(torch.equal(k, q) for k, q in zip(keys, queries, strict=True))
    assert not any(k.requires_grad for k in keys)
    start = [k.clone() for k in keys]
    with torch.no_grad():
        for query in queries:
            query.add_(1.0)
    for _ in range(3):
        model.update_keys()
    # the distance shrinks by 3/4 a step: start + (1 - 27/64)
    for key, before in zip(keys, start, strict=True):
        torch.testing.assert_close(key, before + 37 / 64, rtol=0, atol=1e-6)


def test_the_two_views_drop_different_features():
    model = INS(8, 2, "binary", hidden_sizes=(), projection_dim=4, queue_size=64, view_dropout=0.5)
    seen = {}
    model.embed.register_forward_hook(lambda _m, x, _y: seen.update(query=x[0]))
    model.key_embed.register_forward_hook(lambda _m, x, _y: seen.update(key=x[0]))
    one = torch.tensor([0])
    bags = BagBatch(torch.ones(40, 8), torch.tensor([0, 40]), one, one)
    model.train().training_losses(bags, 0.5, memory_for(model, bags))
    assert set(seen["query"].unique().tolist()) == {0.0, 2.0}
    assert set(seen["key"].unique().tolist()) == {0.0, 2.0}
    assert (seen["query"] != seen["key"]).any()
    model(bags)
    assert torch.equal(seen["query"], bags.features)  # a prediction sees everything


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_the_very_first_step_of_one_instance_reaches_every_parameter(progress):
    model, bags = learner(), bag_batch([1], [1])
    terms = model.training_losses(bags, progress, memory_for(model, bags))
    torch.stack([*terms.values()]).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 3, "task": "multilabel"}, "multilabel"),
        ({"num_classes": 3, "task": "binary"}, "2 classes"),
        ({"queue_size": 0}, "queue_size must be positive"),
        ({"max_anchors": 0}, "max_anchors must be positive"),
        ({"warmup": 1.5}, r"warmup lies in \[0, 1\]"),
        ({"target_momentum": (0.9, -0.1)}, "target_momentum lies"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"sharpness": 81.0}, "sharpness <= 80"),
        ({"least_positives": -1}, "least_positives >= 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        learner(**({"num_classes": 2, "task": "binary"} | arguments))
