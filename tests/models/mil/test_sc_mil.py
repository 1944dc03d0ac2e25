"""SC-MIL against its formulas written out; the loss itself in tests/models/losses."""

import dataclasses
import math

import pytest
import torch

from models.losses.bag_classification import bag_classification_loss
from models.mil.abmil import ABMIL
from models.mil.protocol import MILModel, ScheduledLosses
from models.mil.sc_mil import SCMIL, two_views
from structures import BagBatch, MILOutput

CLOSE = {"rtol": 0, "atol": 1e-6}
HEAD = ["classifier.weight", "classifier.bias"]


def small(in_features, num_classes, task):
    return ABMIL(in_features, num_classes, task, hidden_sizes=(6,), attention_dim=3, gated=True)


def sc_mil(task="binary", num_classes=2, learner=small, **options):
    torch.manual_seed(1)
    options = {"view_instances": 3, "projection_dim": 5} | options
    return SCMIL(4, num_classes, task, learner=learner, **options).double()


def bag_batch(sizes, labels, index=None):
    generator = torch.Generator().manual_seed(0)
    total = sum(sizes)
    return BagBatch(
        features=torch.randn(total, 4, generator=generator, dtype=torch.float64),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.tensor(labels),
        index=torch.tensor(list(range(len(sizes))) if index is None else index),
        coords=torch.arange(2 * total).view(total, 2),
        instance_labels=torch.arange(total) % 3,
        bag_ids=tuple(f"bag_{i}" for i in range(len(sizes))),
        groups=tuple(f"patient_{i}" for i in range(len(sizes))),
    )


def instances(views, position):
    """The numbers of a view's instances."""
    return set(views.bag(position).numbers().tolist())


def test_views_are_of_a_fixed_size_and_disjoint_where_a_bag_has_two():
    sizes = [1, 2, 3, 4, 5, 6, 7, 50]
    bags = bag_batch(sizes, [0] * 8)
    views = two_views(bags, 3, key=5)
    views.check()
    assert views.sizes().tolist() == [min(n, 3) for n in sizes] * 2
    for position, size in enumerate(sizes):
        first, second = instances(views, position), instances(views, position + 8)
        assert first | second <= set(range(size))
        assert len(first) == len(second) == min(size, 3)
        # No instance is in both but for those that one view and the rest of the bag lack.
        assert len(first & second) == max(0, 2 * min(size, 3) - size)
    for name in ("labels", "index"):
        assert torch.equal(getattr(views, name), getattr(bags, name).repeat(2))
    assert views.bag_ids == bags.bag_ids + bags.bag_ids
    assert views.groups == bags.groups + bags.groups


def test_views_carry_what_belongs_to_an_instance():
    bags = bag_batch([4, 9], [0, 1])
    views = two_views(bags, 3, key=1)
    rows = views.coords[:, 0] // 2  # the row of each instance in the batch
    assert torch.equal(views.features, bags.features[rows])
    assert torch.equal(views.instance_labels, bags.instance_labels[rows])
    assert torch.equal(views.numbers(), bags.numbers()[rows])
    plain = dataclasses.replace(bags, coords=None, instance_labels=None)
    assert two_views(plain, 3, key=1).coords is None
    cut = bags.keep(torch.arange(13) % 2 == 0)
    assert instances(two_views(cut, 9, key=1), 1) == set(cut.bag(1).numbers().tolist())


def test_views_depend_on_key_bag_and_instance_alone():
    bags = bag_batch([20, 30, 20], [0, 1, 0], index=[4, 9, 2])
    views = two_views(bags, 5, key=7)
    for position in range(3):
        alone = two_views(bags.bag(position), 5, key=7)
        for view in range(2):
            assert instances(alone, view) == instances(views, position + 3 * view)
    other = two_views(bags, 5, key=8)
    assert any(instances(other, p) != instances(views, p) for p in range(6))
    assert instances(views, 0) != instances(views, 2)  # equally large bags


def test_every_instance_is_equally_often_in_either_view():
    bags = bag_batch([8], [0])
    counts = torch.zeros(2, 8)
    for key in range(600):
        numbers = two_views(bags, 3, key).numbers()
        counts[0, numbers[:3]] += 1
        counts[1, numbers[3:]] += 1
    assert (counts / 600 - 3 / 8).abs().max() < 0.08  # four standard deviations


@pytest.mark.parametrize("order", [[3, 5, 3], [3, 3, 5], [3, 3, 3]])
def test_a_bag_that_a_batch_holds_several_times_is_parted_differently(order):
    bags = bag_batch([40, 40, 40], [0, 0, 0], index=order)
    views = two_views(bags, 10, key=2)
    copies = [place for place, number in enumerate(order) if number == 3]
    parts = [instances(views, place + shift) for place in copies for shift in (0, 3)]
    assert all(a != b for i, a in enumerate(parts) for b in parts[:i])
    alone = two_views(bags.bag(0), 10, key=2)  # the first is parted as if it were alone
    assert [instances(alone, 0), instances(alone, 1)] == parts[:2]
    assert torch.equal(views.index, bags.index.repeat(2))


def plain_contrastive(rows, labels, temperature):
    """The loss with sums over indices."""
    total, anchors = 0.0, 0
    for i in range(len(rows)):
        others = [a for a in range(len(rows)) if a != i]
        shares = {a: math.exp((rows[i] @ rows[a]).item() / temperature) for a in others}
        partners = [a for a in others if torch.equal(labels[a], labels[i])]
        if partners:
            logs = [math.log(shares[p] / sum(shares.values())) for p in partners]
            total, anchors = total - sum(logs) / len(partners), anchors + 1
    return total / max(anchors, 1)


TASKS = {
    "binary": (2, [0, 1, 0]),
    "multiclass": (3, [2, 1, 2]),
    "multilabel": (2, [[0, 1], [1, 1], [0, 1]]),
}


@pytest.mark.parametrize("task", TASKS)
def test_the_terms_of_a_step(task):
    classes, labels = TASKS[task]
    model, bags = sc_mil(task, classes, temperature=0.4).eval(), bag_batch([2, 9, 5], labels)
    terms = model.training_losses(bags)
    assert set(terms) == {"bag", "contrastive"}
    views = two_views(bags, 3, key=0)  # of evaluation
    output = model.learner(views)
    first, _, last = model.projection
    rows = last(first(output.embeddings).clamp(min=0))
    rows = rows / rows.square().sum(1, keepdim=True).sqrt()
    expected = plain_contrastive(rows, views.labels, 0.4)
    assert terms["contrastive"].item() == pytest.approx(expected, abs=1e-6)
    nll = bag_classification_loss(output.logits, views.labels, task)
    torch.testing.assert_close(terms["bag"], nll.sum() / 6, **CLOSE)


def test_the_head_of_projection_has_the_width_of_the_embedding():
    model = SCMIL(4, 2, "binary", learner=small, view_instances=8)
    shapes = [tuple(p.shape) for p in model.projection.parameters()]
    assert shapes == [(6, 6), (6,), (128, 6), (128,)]
    assert model.temperature == 0.1
    assert model.curriculum == "parabolic"

    def branched(*facts):
        return ABMIL(*facts, hidden_sizes=(6,), attention_dim=3, branches=2)

    assert sc_mil(learner=branched).projection[0].in_features == 12


def test_training_draws_views_and_evaluation_does_not():
    model, bags = sc_mil(), bag_batch([30, 40, 50], [0, 1, 0])
    torch.manual_seed(0)
    drawn = [model.train().training_losses(bags)["contrastive"].item() for _ in range(3)]
    assert len(set(drawn)) == 3
    torch.manual_seed(0)
    assert model.training_losses(bags)["contrastive"].item() == drawn[0]
    still = {model.eval().training_losses(bags)["contrastive"].item() for _ in range(3)}
    assert len(still) == 1


def test_a_batch_classifies_as_its_bags_do_alone():
    model, bags = sc_mil().train(), bag_batch([30, 2, 50], [0, 1, 0], index=[8, 2, 5])
    torch.manual_seed(3)
    together = model.training_losses(bags)["bag"]
    apart = []
    for bag in bags.bags():
        torch.manual_seed(3)
        apart.append(model.training_losses(bag)["bag"])
    torch.testing.assert_close(together, sum(apart) / 3, **CLOSE)


@pytest.mark.parametrize(
    ("curriculum", "quarter", "half"),
    [
        ("linear", 0.75, 0.5),
        ("parabolic", 0.9375, 0.75),
        ("cosine", (1 + math.sqrt(0.5)) / 2, 0.5),
    ],
)
def test_training_moves_from_the_embedding_to_the_classifier(curriculum, quarter, half):
    model = sc_mil(curriculum=curriculum)
    assert isinstance(model, ScheduledLosses)
    for progress, alpha in [(0.0, 1.0), (0.25, quarter), (0.5, half), (1.0, 0.0)]:
        factors = model.loss_factors(progress)
        assert factors == pytest.approx({"contrastive": alpha, "bag": 1 - alpha}, abs=1e-12)


def test_a_first_stage_has_the_contrastive_term_alone():
    model = sc_mil(curriculum="contrastive")
    for progress in (0.0, 0.3, 1.0):
        assert model.loss_factors(progress) == {"contrastive": 1.0, "bag": 0.0}


def gradients(model, loss):
    named = list(model.learner.named_parameters())
    found = torch.autograd.grad(loss, [p for _, p in named], retain_graph=True, allow_unused=True)
    return {n: g for (n, _), g in zip(named, found, strict=True)}


def test_a_stopped_gradient_reaches_the_head_alone():
    bags = bag_batch([9, 9, 4], [0, 1, 0])
    joint, apart = sc_mil().eval(), sc_mil(stop_gradient=True).eval()
    whole, stopped = joint.training_losses(bags), apart.training_losses(bags)
    for term in ("bag", "contrastive"):
        torch.testing.assert_close(stopped[term], whole[term], **CLOSE)
    wanted, found = gradients(joint, whole["bag"]), gradients(apart, stopped["bag"])
    assert set(apart.parts.encoder) == set(wanted) - set(HEAD)
    for name, gradient in found.items():
        if name in HEAD:
            torch.testing.assert_close(gradient, wanted[name], **CLOSE)
        else:
            assert gradient is None
            assert wanted[name].abs().max() > 0
    wanted = gradients(joint, whole["contrastive"])
    for name, gradient in gradients(apart, stopped["contrastive"]).items():
        assert (gradient is None) == (name in HEAD)
        if gradient is not None:
            torch.testing.assert_close(gradient, wanted[name], **CLOSE)


class TwoTerms(torch.nn.Module):
    """A model with one embedding a class, two terms and questions."""

    permutation_invariant = False
    joint_terms = ("second",)

    def __init__(self, in_features, num_classes, task):
        super().__init__()
        self.task, self.told = task, None
        self.line, self.head = torch.nn.Linear(in_features, 14), torch.nn.Linear(14, 1)

    def set_training_bags(self, numbers, labels, sizes):
        self.told = numbers, labels, sizes

    def loss_factors(self, progress):
        return {"second": 2 * progress}

    def forward(self, bags):
        rows = self.line(bags.features[bags.offsets[:-1]])
        return MILOutput(self.head(rows), embeddings=rows.view(-1, 2, 7))

    def losses(self, output, bags, reduction="mean"):
        loss = output.logits[:, 0].square()
        both = {"bag": loss, "second": 2 * loss}
        return both if reduction == "none" else {n: t.mean() for n, t in both.items()}


def test_any_model_with_embeddings_can_be_inside():
    model = sc_mil(learner=TwoTerms, curriculum="linear")
    assert isinstance(model, MILModel)
    assert model.parts.width == 14
    assert model.parts.encoder == ("line.weight", "line.bias")
    assert model.parts.head == ("head.weight", "head.bias")
    assert (model.model_factors(0.25), sc_mil().model_factors(0.25)) == ({"second": 0.5}, {})
    assert model.loss_factors(0.25) == {"contrastive": 0.75, "bag": 0.25, "second": 0.25 * 0.5}
    bags = bag_batch([3, 2], [0, 1])
    assert set(model.training_losses(bags)) == {"contrastive", "bag", "second"}
    output = model(bags)
    assert torch.equal(output.logits, model.learner(bags).logits)
    assert set(model.losses(output, bags)) == {"bag", "second"}
    assert model.losses(output, bags, "none")["second"].shape == (2,)
    assert not model.permutation_invariant
    assert sc_mil().permutation_invariant
    assert model.joint_terms == ("contrastive", "second")
    model.set_training_bags(bags.index, bags.labels, bags.sizes())
    assert [column.tolist() for column in model.learner.told] == [[0, 1], [0, 1], [3, 2]]
    sc_mil().set_training_bags(bags.index, bags.labels, bags.sizes())  # ABMIL does not ask


class Chooses(TwoTerms):
    """Embeds the instance of the largest score, with a layer behind a stopped gradient."""

    def __init__(self, *facts):
        super().__init__(*facts)
        self.score, self.first = torch.nn.Linear(4, 1), torch.nn.Linear(4, 4)

    def forward(self, bags):
        rows = self.first(bags.features).detach()
        best = self.score(bags.features)[:, 0].argmax()
        embedding = self.line(rows[best : best + 1])
        return MILOutput(self.head(embedding), embeddings=embedding)


def test_what_an_embedding_depends_on_without_a_gradient():
    assert sc_mil().unreached() == ()
    model = SCMIL(4, 2, "binary", learner=Chooses, view_instances=3)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    assert model.parts.encoder == ("line.weight", "line.bias")
    assert model.unreached() == ("score.weight", "first.weight", "first.bias")
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_frozen_parameters_are_neither_encoder_nor_head():
    def frozen(*facts):
        learner = Chooses(*facts)
        return learner.requires_grad_(False) if facts[1] == 3 else froze(learner)

    def froze(learner):
        learner.first.requires_grad_(False)
        return learner

    model = SCMIL(4, 2, "binary", learner=frozen, view_instances=3)
    assert model.parts.encoder == ("line.weight", "line.bias")
    assert model.parts.head == ("head.weight", "head.bias", "score.weight", "score.bias")
    assert model.unreached() == ("score.weight",)  # what is frozen needs no gradient
    with pytest.raises(ValueError, match="this model's take no gradient"):
        SCMIL(4, 3, "binary", learner=frozen, view_instances=3)


def test_looking_into_the_model_leaves_no_trace():
    torch.manual_seed(1)
    alone = small(4, 2, "binary")
    after = torch.get_rng_state()
    inside = {}

    def watched(*facts):
        inside["learner"] = small(*facts)
        inside["state"] = torch.get_rng_state()
        return inside["learner"]

    torch.manual_seed(1)
    model = SCMIL(4, 2, "binary", learner=watched, view_instances=3)
    assert torch.equal(inside["state"], after)
    torch.manual_seed(1)
    small(4, 2, "binary")
    first = torch.nn.Linear(6, 6)
    assert torch.equal(model.projection[0].weight, first.weight)
    assert model.learner.training
    assert all(p.grad is None for p in model.parameters())
    for name, value in alone.state_dict().items():
        assert torch.equal(model.learner.state_dict()[name], value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view_instances": 0}, "view_instances must be positive"),
        ({"projection_dim": 0}, "projection_dim must be positive"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        sc_mil(**options)


def test_a_model_without_embeddings():
    class Bare(TwoTerms):
        def forward(self, bags):
            return MILOutput(self.head(self.line(bags.features[bags.offsets[:-1]])))

    with pytest.raises(ValueError, match="this model's output has none"):
        sc_mil(learner=Bare)
