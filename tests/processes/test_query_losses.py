"""Losses of queries on several processes against those of the whole batch on one."""

import torch
import torch.distributed as dist

from models.seg.queries.mask_classification import MaskLossOptions, mask_classification_losses
from models.seg.queries.output import QueryOutput
from tests.processes.test_yolo_losses import COUNTS, beside, join


def step(rank, world):
    """Return losses and gradients of six images, averaged over the processes."""
    batch, *_ = beside("models/seg/conftest.py").make_scene([(64, 64)] * 6, instances=COUNTS)
    single = beside("models/seg/queries/test_mask_classification.py")
    output = single.predictions(6, dtype=torch.float64)
    own = range(6)
    if world > 1:  # the last process has all images without an object
        own = [n for n in own if (COUNTS[n] == 0) == (rank == world - 1)]
        own = own if rank == world - 1 else own[rank :: world - 1]
    images = torch.tensor(list(own))
    losses = mask_classification_losses(
        QueryOutput(*([one[images] for one in part] for part in output[:2])),
        join([batch.image(number) for number in own]),
        (64, 64),
        MaskLossOptions(num_points=200),
        key=3,
    )
    found = torch.autograd.grad(sum(losses.values()), output.class_logits + output.mask_logits)
    values = torch.stack([losses[name].detach() for name in sorted(losses)])
    if world > 1:
        for tensor in (*found, values):
            dist.all_reduce(tensor)
            tensor.div_(world)
    return values.tolist(), [gradient.numpy() for gradient in found]


def test_averaged_gradients_are_those_of_one_process(processes, world):
    """The last process has no object at all; a denominator of its own would weigh it wrongly."""
    (values, gradients), ranks = processes.beside_one(world, step)
    for found, theirs in ranks:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(values))
        for one, other in zip(theirs, gradients, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(one), torch.from_numpy(other), rtol=1e-6, atol=1e-9
            )
