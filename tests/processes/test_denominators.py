"""Counts, means and refusals that the processes of a job agree on."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lightning_modules.base import TrainedModule
from lightning_modules.item_losses import ItemLosses
from models.losses.bag_classification import mean_over_bags
from models.ops.distributed import LossTerm, global_mean_count, reduce_terms
from structures.processes import gather_to_all, mean_over_processes


def counts(rank, world):
    own = torch.tensor([[6, 0], [0, 0], [1, 0]][rank])
    return global_mean_count(own).tolist(), global_mean_count(own, torch.float64).dtype


def test_counts_are_divided_among_the_processes(processes):
    """6 and 0 elements on two processes: each divides by 3; nowhere an element: by 1 over both."""
    for values, dtype in processes(2, counts):
        assert values == [3.0, 0.5]
        assert dtype == torch.float64


@pytest.mark.slow
def test_counts_among_three(processes):
    for values, _ in processes(3, counts):
        assert values == pytest.approx([7 / 3, 1 / 3])


def terms_of_unequal_shares(rank, world):
    # process 0: sum 4 over 6 elements, process 1: sum 5 without an element of its own
    total = torch.tensor([[4.0, 0.0], [5.0, 0.0]][rank], requires_grad=True)
    terms = {"a": LossTerm(total, torch.tensor([[4, 2], [0, 0]][rank]))}
    loss = reduce_terms(terms, "mean")["a"]
    bags = mean_over_bags(torch.tensor([[1.0], [2.0, 3.0, 6.0]][rank], requires_grad=True))
    return (
        mean_over_processes(loss).item(),
        reduce_terms(terms, "none")["a"].tolist(),
        mean_over_processes(bags).item(),
    )


def test_means_over_unequal_shares(processes):
    first, second = processes(2, terms_of_unequal_shares)
    assert first[0] == second[0] == pytest.approx(9 / 6)
    assert (first[1], second[1]) == ([1.0, 0.0], [5.0, 0.0])
    assert first[2] == second[2] == pytest.approx(12 / 4)


def evaluation_needs_no_other(rank, world):
    """Only the first process calls; a collective would hang."""
    with torch.no_grad():
        if rank == 0:
            return (
                mean_over_bags(torch.tensor([1.0, 3.0])).item(),
                global_mean_count(torch.tensor(4)).item(),
            )
    return None


def test_no_collective_in_evaluation(processes):
    assert processes(2, evaluation_needs_no_other) == [(2.0, 4.0), None]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 1)


def make_module():
    return TrainedModule(Net(), lambda g: torch.optim.SGD(g, lr=0.1), None,
                         loss_weights={"b": 2.0}, backbone_lr_mult=1.0, init_from=None)  # fmt: skip


def losses_of_which_one_is_nan(rank, world):
    module = make_module()
    good = {"a": torch.tensor(1.0 + rank), "b": torch.tensor(3.0)}
    total = module.total_loss(good, ["x"]).item()
    bad = good | ({"b": torch.tensor(math.nan)} if rank == 1 else {})
    try:
        module.total_loss(bad, [f"slide_{rank}"])
    except ValueError as error:
        return total, str(error)
    return total, "not refused"


def test_every_process_refuses_a_loss_that_is_not_finite_on_one(processes):
    """Were it only the one, the others would wait for it."""
    results = processes(2, losses_of_which_one_is_nan)
    assert [total for total, _ in results] == [7.0, 8.0]
    for _, message in results:
        assert "{'b': nan}; samples ['slide_1']" in message
        assert "slide_0" not in message


def gathered_losses(rank, world):
    losses = ItemLosses()
    items = {0: (1.0, 1.0), 1: (1e16, 2.0), 2: (1.0, 4.0), 3: (-1e16, 1.0)}
    mine = [[0, 1, 2, 3]] if world == 1 else [[0, 2], [1, 3], [2]][rank : rank + 1]
    for numbers in mine:
        values = torch.tensor([items[n] for n in numbers], dtype=torch.float64)
        names = [f"bag_{n}" for n in numbers]
        losses.add(torch.tensor(numbers), names, {"a": values[:, 0], "b": values[:, 1]})
    losses.gather()
    return losses.means(), losses.not_finite()


def test_item_losses_count_once_and_add_up_in_any_order(processes, world):
    """In plain summation 1e16 would swallow what comes after it; item 2 is on two of three."""
    alone, ranks = processes.beside_one(world, gathered_losses)
    assert alone == ({"a": 0.5, "b": 2.0}, [])
    assert ranks == [alone] * world


def states(rank, world):
    return gather_to_all(None if rank == 1 else {"rank": rank}), dist.get_world_size()


def test_state_of_every_process_reaches_all(processes):
    assert processes(2, states) == [([{"rank": 0}, None], 2)] * 2
