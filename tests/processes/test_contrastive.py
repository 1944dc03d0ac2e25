"""Bags of different processes are compared: gradients are those of one process with all bags."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.mil.abmil import ABMIL
from models.mil.sc_mil import SCMIL
from structures import BagBatch


class Step(nn.Module):
    """The sum of a step's terms in ``forward``, where DDP prepares the averaging."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        terms = self.model.training_losses(batch)
        return terms["contrastive"] + 3 * terms["bag"]


def bags(sizes, labels):
    generator = torch.Generator().manual_seed(5)
    return BagBatch(
        features=torch.randn(sum(sizes), 6, generator=generator).double(),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.tensor(labels),
        index=torch.arange(len(sizes)),
    )


def learner(*facts):
    return ABMIL(*facts, hidden_sizes=(8,), attention_dim=4)


def course(rank, world, sizes, labels, shares, stop_gradient):
    """Return loss and gradients of two steps; a second would hang if the first left anything."""
    batch = bags(sizes, labels)
    mine = batch if world == 1 else BagBatch.collate([batch.bag(i) for i in shares[rank]])
    torch.manual_seed(0)
    model = SCMIL(
        6, 3, "multiclass", learner=learner, view_instances=4, projection_dim=5,
        temperature=0.5, stop_gradient=stop_gradient,
    ).double()  # fmt: skip
    step = DistributedDataParallel(Step(model)) if world > 1 else Step(model)
    found = []
    for seed in (1, 2):
        step.zero_grad()
        torch.manual_seed(seed)  # the key of the views, here the same everywhere
        loss = step(mine)
        loss.backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters()})
    return found


@pytest.mark.parametrize("stop_gradient", [False, True])
@pytest.mark.parametrize(
    ("labels", "shares"),
    [
        pytest.param([0, 1, 0, 1, 2, 2], [[0, 1, 4], [2, 3, 5]], id="partners are elsewhere"),
        pytest.param([0, 1, 0, 1, 2, 1], [[0], [1, 2, 3, 4, 5]], id="unequal numbers of bags"),
    ],
)
def test_gradients_of_two_processes(processes, labels, shares, stop_gradient):
    case = {"sizes": [9, 1, 12, 3, 20, 8], "labels": labels, "shares": shares}
    alone, ranks = processes.beside_one(2, course, stop_gradient=stop_gradient, **case)
    for one in ranks:
        for found, wanted in zip(one, alone, strict=True):
            scale = max(float(g.abs().max()) for g in wanted.values())
            assert scale > 1e-3
            for name, reference in wanted.items():
                assert float((found[name] - reference).abs().max()) <= 1e-9 * scale, name
