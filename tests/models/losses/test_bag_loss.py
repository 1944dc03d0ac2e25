"""Several predictions of a bag, bags that do not count, and batches without a target."""

import math

import pytest
import torch

from models.losses.bag_loss import bag_loss, counted_bags, reduce_bag_loss
from models.losses.survival import cox_shares

TIMES = torch.tensor([[1.0, 1], [2, 0], [2, 1], [3, 1], [0.5, 0]]).double()
LABELS = {
    "binary": torch.tensor([0, 1, 1, 0, 1]),
    "cox": TIMES,
    "discrete_time": torch.tensor([[0.0, 1], [2, 0], [1, 1], [2, 1], [0, 0]]).double(),
    "regression": torch.tensor([[1.0], [math.nan], [0.5], [-1.0], [2.0]]).double(),
    "ordinal": torch.tensor([0, 3, 2, -1, 1]),
}
WIDTHS = {"binary": 1, "cox": 1, "discrete_time": 3, "regression": 1, "ordinal": 3}


def predictions(task, several=4):
    random = torch.Generator().manual_seed(1)
    return torch.randn(5, several, WIDTHS[task], generator=random, dtype=torch.float64)


@pytest.mark.parametrize("task", LABELS)
def test_a_bag_has_the_mean_of_its_predictions(task):
    """Each is compared with the same one of other bags, for Cox."""
    logits, labels = predictions(task), LABELS[task]
    wanted = torch.stack([bag_loss(logits[:, k], labels, task) for k in range(4)]).mean(0)
    torch.testing.assert_close(bag_loss(logits, labels, task), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", LABELS)
def test_predictions_that_do_not_exist_do_not_count(task):
    logits, labels = predictions(task), LABELS[task]
    present = torch.ones(5, 4, dtype=torch.bool)
    present[2, 1:] = present[3, 3] = False
    found = bag_loss(logits, labels, task, present)
    other = logits.masked_fill(~present.unsqueeze(2), 50.0)
    torch.testing.assert_close(bag_loss(other, labels, task, present), found, rtol=0, atol=1e-12)
    if task != "cox":
        alone = bag_loss(logits[2, :1], labels[2:3], task)
        torch.testing.assert_close(found[2:3], alone, rtol=0, atol=1e-12)
        return
    columns = [
        cox_shares(logits[:, k, 0], labels[:, 0], labels[:, 1] == 1, present=present[:, k])
        for k in range(4)
    ]
    torch.testing.assert_close(found, torch.stack(columns, 1).sum(1) / present.sum(1))


@pytest.mark.parametrize("task", ["cox", "regression", "ordinal", "discrete_time"])
def test_means_are_over_bags_that_have_a_target(task):
    labels = LABELS[task]
    counts = {"cox": 3, "regression": 4, "ordinal": 4, "discrete_time": 5}
    assert counted_bags(labels, task).sum() == counts[task]
    losses = bag_loss(predictions(task)[:, 0], labels, task)
    mean = reduce_bag_loss(losses, labels, task, "mean")
    torch.testing.assert_close(mean, losses.sum() / counts[task], rtol=0, atol=1e-12)
    assert reduce_bag_loss(losses, labels, task, "none") is losses
    with torch.no_grad():
        torch.testing.assert_close(reduce_bag_loss(losses, labels, task, "mean"), mean)


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("cox", torch.tensor([[1.0, 0], [2, 0]]).double()),
        ("cox", torch.tensor([[1.0, 1]]).double()),  # alone
        ("regression", torch.full((2, 1), math.nan).double()),
        ("ordinal", torch.tensor([-1, -1])),
    ],
)
def test_nothing_to_learn_is_zero_with_a_graph(task, labels):
    logits = torch.tensor([[300.0], [-5.0]])[: len(labels)].requires_grad_()
    loss = reduce_bag_loss(bag_loss(logits, labels, task), labels, task, "mean")
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.tolist() == [[0.0]] * len(labels)
