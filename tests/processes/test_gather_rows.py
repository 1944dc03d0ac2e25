"""Rows of processes that hold different numbers of them, none included, as one process has them."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.ops.bags.gather_rows import gather_rows

COUNTS = {2: [(3, 2), (0, 4), (5, 0), (1, 1)], 3: [(2, 0, 3), (0, 0, 1), (1, 2, 3)]}


def rows_of(total, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(total, 4, generator=generator, dtype=torch.float64)


def loss_of(rows):
    """Compare every row with every other, as a contrastive loss does."""
    similar = rows @ rows.T
    return (similar.logsumexp(dim=1) - similar.diagonal()).mean() + rows.sin().sum()


class Step(nn.Module):
    """A layer and the loss of all processes' rows, inside ``forward`` for DDP."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, rows):
        gathered = gather_rows(self.layer(rows))
        return gathered, loss_of(gathered)


def gathered_and_gradients(rank, world, counts):
    """Return gathered rows, loss and gradients of the layer and of the rows of this process."""
    found = []
    for case in counts:
        rows, start = rows_of(sum(case)), sum(case[:rank])
        mine = rows if world == 1 else rows[start : start + case[rank]]
        mine = mine.clone().requires_grad_()
        step = Step()
        step = DistributedDataParallel(step) if world > 1 else step
        gathered, loss = step(mine)
        loss.backward()
        layer = step.module.layer if world > 1 else step.layer
        gradients = [layer.weight.grad, layer.bias.grad, mine.grad]
        found.append((gathered.detach(), loss.item(), [g.clone() for g in gradients]))
    return found


def test_gathered_rows_and_their_gradients_are_those_of_one_process(processes, world):
    counts = COUNTS[world]
    alone, ranks = processes.beside_one(world, gathered_and_gradients, counts=counts)
    for rank, found in enumerate(ranks):
        for case, (rows, loss, gradients), (all_rows, all_loss, wanted) in zip(
            counts, found, alone, strict=True
        ):
            torch.testing.assert_close(rows, all_rows, rtol=0, atol=1e-12)
            assert loss == pytest.approx(all_loss, abs=1e-12)
            for gradient, reference in zip(gradients[:2], wanted[:2], strict=True):
                torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-10)
            # the backward pass adds up what W processes say, DDP's average takes W away again
            start = sum(case[:rank])
            mine = wanted[2][start : start + case[rank]] * world
            torch.testing.assert_close(gradients[2], mine, rtol=0, atol=1e-10)


def test_one_process_has_all_rows_already():
    rows = rows_of(3)
    assert gather_rows(rows) is rows
