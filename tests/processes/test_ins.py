"""What INS keeps is equal on all processes, and what one process keeps of the same bags."""

import torch
import torch.distributed as dist

from models.mil.ins import INS
from structures import BagBatch

SIZES, LABELS = [4, 9, 1, 6, 2, 8], [1, 0, 1, 1, 0, 1]
# Bags of each step: the first, of the warm-up, has no positive one; one is twice in the third, on
# two processes; the fourth has an odd number.
STEPS = [[1, 4, 1], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 5, 1], [1, 0, 2], [3, 2, 5, 4]]


def taken(rank, world, positions):
    """Return this process's share of a step, the larger one on the last process."""
    share = len(positions) // world
    own = positions[rank * share : len(positions) if rank == world - 1 else (rank + 1) * share]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(sum(SIZES), 3, generator=generator).double()
    whole = BagBatch(
        features, torch.tensor([0, *SIZES]).cumsum(0), torch.tensor(LABELS), torch.arange(6)
    )
    bags = [whole.bag(position) for position in own]
    # As under max_instances, a large bag comes in part.
    parts = [b.keep(b.numbers() % 4 != 1) if len(b.features) > 7 else b for b in bags]
    return BagBatch.collate(parts)


def course(rank, world):
    torch.manual_seed(0)
    model = INS(
        3, 2, "binary", hidden_sizes=(6,), projection_dim=4, queue_size=11, view_dropout=0.0,
        warmup=0.3, max_anchors=5, key_momentum=0.9,
    ).double()  # fmt: skip
    with torch.no_grad():  # so that both pseudo labels are there from the first step on
        model.classifier.bias.copy_(torch.tensor([-0.3, 0.3]))
    memory = model.new_memory().double()
    memory.set_training_bags(torch.arange(6), torch.tensor(LABELS), torch.tensor(SIZES))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, gradients, states = torch.optim.SGD(parameters, lr=0.3), [], []
    for number, positions in enumerate(STEPS):
        torch.manual_seed(number)  # the same choice of instances on all processes
        terms = model.training_losses(taken(rank, world, positions), number / 5, memory)
        optimizer.zero_grad()
        torch.stack([*terms.values()]).sum().backward()
        if world > 1:  # what DDP does
            for parameter in parameters:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))
        optimizer.step()
        model.update_keys()
        states.append({n: v.clone() for n, v in memory.state_dict().items()})
    return gradients, states


def test_memory_and_gradients(processes, world):
    alone, ranks = processes.beside_one(world, course)
    gradients, states = alone
    assert not states[0]["queue_next"]
    assert all(len(set(s["queue_labels"].tolist())) > 1 for s in states[1:])
    assert not torch.equal(states[1]["targets"], states[2]["targets"])
    for found_gradients, found_states in ranks:
        for mine, wanted in zip(found_gradients, gradients, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-10)
        for number, (mine, wanted) in enumerate(zip(found_states, states, strict=True)):
            for name, value in wanted.items():
                torch.testing.assert_close(mine[name], value, rtol=0, atol=1e-10)
                assert torch.equal(mine[name], ranks[0][1][number][name]), name
