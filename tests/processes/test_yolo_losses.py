"""Losses of one-stage segmentation on several processes against those of the whole batch on one."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from models.seg.yolo.losses import yolo_losses
from structures import SegBatch

COUNTS = [4, 0, 2, 0, 0, 3]


def beside(path):
    """Import a file of the tests by its path; processes have no test collection."""
    where = Path(__file__).parents[1] / path
    spec = importlib.util.spec_from_file_location(where.stem, where)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def step(rank, world, weights=None):
    """Return losses and gradients of six images, averaged over the processes."""
    scenes, single = beside("models/seg/conftest.py"), beside("models/seg/yolo/test_losses.py")
    batch, _, _ = scenes.make_scene([(64, 64)] * 6, instances=COUNTS, seed=5)
    output = single.outputs(6, seed=4)
    own = range(6)
    if world > 1:  # the last process has all images without an object
        own = [n for n in own if (COUNTS[n] == 0) == (rank == world - 1)]
        own = own if rank == world - 1 else own[rank :: world - 1]
    images = torch.tensor(list(own))
    part = join([batch.image(number) for number in own])
    losses = yolo_losses(
        output._replace(**{n: getattr(output, n)[images] for n in output._fields[:4]}),
        part,
        3,
        class_weights=None if weights is None else torch.tensor(weights),
    )
    found = torch.autograd.grad(sum(losses.values()), tuple(output[:4]))
    values = torch.stack([losses[name].detach() for name in sorted(losses)])
    if world > 1:
        for tensor in (*found, values):
            dist.all_reduce(tensor)
            tensor.div_(world)
    return values.tolist(), [gradient.numpy() for gradient in found]


def join(parts):
    joined = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(SegBatch)
        if isinstance(getattr(parts[0], field.name), torch.Tensor)
    }
    return dataclasses.replace(parts[0], **joined, image_ids=sum((p.image_ids for p in parts), ()))


@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 5.0]], ids=["plain", "weighted classes"])
def test_averaged_gradients_are_those_of_one_process(processes, world, weights):
    """The last process has no object at all; a denominator of its own would weigh it wrongly."""
    (values, gradients), ranks = processes.beside_one(world, step, weights=weights)
    for found, theirs in ranks:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(values))
        for one, other in zip(theirs, gradients, strict=True):
            torch.testing.assert_close(torch.from_numpy(one), torch.from_numpy(other))
