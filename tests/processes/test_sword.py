"""SWORD on several processes: losses and queue of each step are those of one process."""

import dataclasses

import torch
import torch.distributed as dist

from models.backbones.timm_features import TimmFeatures
from models.seg.sword import SWORD
from tests.processes.test_query_models import COUNTS, join, scenes

STEPS = 3


def course(rank, world):
    """Return losses of four images and the queue after each step; the last process has no object.

    The queue holds fewer rows than a step has positives.
    """
    torch.manual_seed(0)
    model = SWORD(
        1,
        TimmFeatures("resnet10t", norm="frozen_bn"),
        negatives="outside",  # near none of the objects: they are there from the first step on
        queue_size=4,
        num_queries=10,
        width=64,
        num_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        ffn=32,
        dropout=0.0,
    ).double()
    batch = scenes()
    batch = dataclasses.replace(batch, labels=torch.zeros_like(batch.labels))
    own = [n for n in range(4) if world == 1 or (COUNTS[n] == 0) == (rank == world - 1)]
    if world > 2 and rank < world - 1:  # the first images on the second process
        own = own[::-1][rank :: world - 1]
    optimizer, found, states = torch.optim.SGD(model.parameters(), lr=0.01), [], []
    for step in range(STEPS):
        losses = model.losses(join([batch.image(number) for number in own]), key=step)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        values = torch.stack([losses[name].detach() for name in sorted(losses)])
        if world > 1:  # what DDP does
            for tensor in (values, *(p.grad for p in model.parameters())):
                dist.all_reduce(tensor)
                tensor.div_(world)
        optimizer.step()
        model.update_after_step()
        found.append(values.tolist())
        states.append({name: value.clone() for name, value in model.queue.state_dict().items()})
    return sorted(losses), found, states


def test_losses_and_queue_are_those_of_one_process(processes, world):
    (names, values, states), ranks = processes.beside_one(world, course)
    contrast = [step[names.index("contrast")] for step in values]
    assert contrast[0] == 0
    assert min(contrast[1:]) > 0
    assert [int(state["pushed"]) for state in states] == [4, 8, 12]
    for _, found, theirs in ranks:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(values), rtol=1e-5, atol=1e-8)
        for number, (queue, wanted) in enumerate(zip(theirs, states, strict=True)):
            for name, value in wanted.items():
                torch.testing.assert_close(queue[name], value, rtol=1e-5, atol=1e-8)
                assert torch.equal(queue[name], ranks[0][2][number][name])
