"""What single models do differently where a bag has a time, a value or a grade."""

import dataclasses

import pytest
import torch

from models.losses.survival import cox_shares
from models.mil.abmil import ABMIL
from models.mil.clam import CLAM
from models.mil.dsmil import DSMIL
from models.mil.dtfd import DTFD, evidence
from models.mil.pooling import EmbeddingPooling, InstancePooling
from models.mil.protocol import class_probability, num_logits
from models.mil.sc_mil import SCMIL, partners
from structures import BagBatch

TIMES = torch.tensor([[2.0, 1], [1, 1], [2, 1], [3, 0], [0.5, 0]]).double()
EXACT = {"rtol": 0, "atol": 1e-12}


def bag_batch(labels, sizes=(7, 1, 9, 2, 3)):
    random = torch.Generator().manual_seed(0)
    return BagBatch(
        features=torch.randn(sum(sizes), 5, generator=random, dtype=torch.float64),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=labels,
        index=torch.arange(len(sizes)) + 3,
    )


@pytest.mark.parametrize("training", [True, False])
def test_pseudo_bags_of_one_number_are_a_risk_set(training):
    """In DTFD a bag's share is the mean over its present ones, the loss their sum over events."""
    torch.manual_seed(1)
    model = DTFD(5, 1, "cox", hidden_size=6, attention_dim=4, num_groups=3).double()
    bags = bag_batch(TIMES)
    output = model.train(training)(bags)
    pseudo, present = output.pseudo_logits.flatten(1, 2), output.pseudo_bags.flatten(1)
    assert not present.all()
    events, shares = TIMES[:, 1] == 1, torch.zeros_like(present, dtype=torch.float64)
    for group in range(present.shape[1]):
        rows = present[:, group].nonzero()[:, 0]
        of_group = cox_shares(pseudo[rows, group, 0], TIMES[rows, 0], events[rows])
        shares[rows, group] = of_group.detach()
    each = shares.sum(1) / present.sum(1)
    found = model.losses(output, bags, "none")["pseudo_bag"]
    torch.testing.assert_close(found, each, **EXACT)
    mean = model.losses(output, bags)["pseudo_bag"]
    torch.testing.assert_close(mean, each.sum() / 3, **EXACT)


def test_instances_are_ranked_by_what_raises_the_risk():
    added = torch.tensor([[1.0, -3.0], [0.5, 0.5], [-0.2, 0.1]])
    favoured = torch.zeros(3, dtype=torch.int64)
    for task in ("cox", "discrete_time", "ordinal"):
        assert evidence(added, favoured, task).tolist() == pytest.approx([-2.0, 1.0, -0.1])
        assert torch.equal(class_probability(added, task), evidence(added, favoured, task))
    assert class_probability(added, "regression").tolist() == pytest.approx([4.0, 1.0, 0.3])
    single = class_probability(added[:, :1], "cox")
    assert single.tolist() == pytest.approx([1.0, 0.5, -0.2])  # a softmax would say 1 to all


@pytest.mark.parametrize("distill", ["maxs", "maxmins", "mas"])
def test_distillation_follows_the_ranks(distill):
    torch.manual_seed(1)
    model = DTFD(5, 1, "cox", hidden_size=6, attention_dim=4, num_groups=2, distill=distill)
    bags = bag_batch(TIMES)
    output = model(dataclasses.replace(bags, features=bags.features.float()))
    assert output.logits.isfinite().all()


@pytest.mark.parametrize("multi_branch", [False, True])
@pytest.mark.parametrize(("task", "classes"), [("cox", 1), ("discrete_time", 4), ("regression", 2)])
def test_clam_without_classes_has_no_instance_classifiers(task, classes, multi_branch):
    model = CLAM(5, classes, task, multi_branch=multi_branch, hidden_sizes=[4], attention_dim=3)
    assert not any("instance" in name for name, _ in model.named_parameters())
    labels = {"regression": TIMES}.get(task, TIMES.round())
    bags = bag_batch(labels)
    output = model.double()(bags)
    assert output.first is output.chosen is None
    assert set(model.losses(output, bags)) == {"bag"}
    assert output.logits.shape == (5, classes)
    maps = classes if multi_branch else 1
    assert output.attention.view(22, -1).shape[1] == maps


@pytest.mark.parametrize("subtyping", [False, True])
@pytest.mark.parametrize("multi_branch", [False, True])
def test_clam_of_grades_keeps_them(multi_branch, subtyping):
    torch.manual_seed(0)
    model = CLAM(
        5, 3, "ordinal", multi_branch=multi_branch, hidden_sizes=[4], attention_dim=3, dropout=0.0,
        attention_dropout=0.0, instances=2, subtyping=subtyping,
    ).double()  # fmt: skip
    with torch.no_grad():
        model.classifier.bias.normal_()
    bags = bag_batch(torch.tensor([2, 0, -1, 1, 2]))
    output = model(bags)
    each = model.losses(output, bags, "none")
    assert set(each) == {"bag", "instance"}
    assert (each["bag"][2], each["instance"][2]) == (0, 0)  # an unknown grade
    assert (each["instance"][[0, 1, 3, 4]] > 0).all()
    assert output.logits.shape == (5, 2)
    if multi_branch:  # a map a grade; logits are differences of neighbours, also without one each
        assert output.attention.shape == (22, 3)
        pooled = output.embeddings
        grades = (pooled * model.classifier.weight).sum(2) + model.classifier.bias
        torch.testing.assert_close(output.logits, grades.diff(dim=1), **EXACT)
    kept = torch.ones(22, dtype=torch.bool)
    kept[3] = False
    lost = output.logits[0] - model(bags.keep(kept)).logits[0]
    torch.testing.assert_close(model.leave_one_out(bags)[3], lost, rtol=0, atol=1e-9)


def test_dsmil_balances_classes_alone():
    model = DSMIL(5, 1, "cox", attention_dim=3, balance=True).double()
    bags = bag_batch(TIMES)
    model.set_training_bags(bags.index, bags.labels, bags.sizes())
    assert model.positive_weight.tolist() == [1.0]
    output, events = model(bags), TIMES[:, 1] == 1
    for term, logits in (("bag", output.bag_logits), ("instance", output.critical_logits)):
        wanted = cox_shares(logits[:, 0], TIMES[:, 0], events)
        torch.testing.assert_close(model.losses(output, bags, "none")[term], wanted, **EXACT)


def test_dsmil_has_a_critical_instance_for_each_logit():
    model = DSMIL(5, 4, "discrete_time", attention_dim=3).double()
    output = model(bag_batch(TIMES.round()))
    assert output.critical.shape == (5, 4)


def test_bags_of_unknown_grade_attract_only_their_other_view():
    bags = bag_batch(torch.tensor([2, -1, 0, -1, 2]))
    found = partners(bags)
    assert found[[0, 2, 4]].tolist() == [2, 0, 2]
    assert found[1] != found[3]
    assert (found[[1, 3]] < 0).all()

    def learner(*facts):
        return ABMIL(*facts, hidden_sizes=(4,), attention_dim=3)

    model = SCMIL(5, 3, "ordinal", learner=learner, view_instances=2).double()
    assert all(term.isfinite() for term in model.training_losses(bags).values())


def test_noisy_or_of_values_is_refused_where_values_are_pooled():
    with pytest.raises(ValueError, match="probabilities of independent instances"):
        InstancePooling(5, 2, "regression", pool="noisy_or")
    assert InstancePooling(5, 2, "discrete_time", pool="noisy_or")
    assert EmbeddingPooling(5, 2, "regression", pool="noisy_or")  # a linear layer follows


def test_numbers_of_logits():
    numbers = {"cox": 1, "discrete_time": 4, "regression": 4, "ordinal": 3}
    for task, count in numbers.items():
        assert num_logits(1 if task == "cox" else 4, task) == count
    with pytest.raises(ValueError, match="cox has 1 output"):
        num_logits(2, "cox")
    with pytest.raises(ValueError, match="2 grades or more"):
        num_logits(1, "ordinal")


def test_log_risks_are_known_up_to_a_constant():
    risks, times, events = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.0]), TIMES[:, 0], TIMES[:, 1] == 1
    torch.testing.assert_close(
        cox_shares(risks + 10, times, events), cox_shares(risks, times, events)
    )
