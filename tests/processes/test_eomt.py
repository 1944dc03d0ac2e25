"""Gradients of a whole EoMT on several processes against those of one, within the annealing."""

import dataclasses
import importlib.util
from pathlib import Path

import torch
import torch.distributed as dist

from models.backbones.timm_vit import TimmViT
from models.seg.eomt import EoMT
from models.seg.queries.mask_classification import MaskLossOptions

COUNTS = [3, 0, 2, 0]


def scenes():
    """Import the scenes by their path; processes have no test collection."""
    where = Path(__file__).parents[1] / "models/seg/conftest.py"
    spec = importlib.util.spec_from_file_location(where.stem, where)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    batch, _, _ = module.make_scene([(64, 64), (64, 50), (64, 64), (40, 64)], COUNTS, seed=5)
    return dataclasses.replace(batch, images=batch.images.double())


def step(rank, world):
    """Return losses and gradients of four images, averaged over the processes."""
    torch.manual_seed(0)
    options = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    vit = TimmViT("vit_small_patch14_reg4_dinov2", 64, 16, options=options)
    loss = MaskLossOptions(num_points=32)
    model = EoMT(3, vit, num_queries=5, num_blocks=1, loss=loss).double().train()
    model.set_progress(0.45)
    batch = scenes()
    own = [n for n in range(4) if world == 1 or (COUNTS[n] == 0) == (rank == world - 1)]
    if world > 2 and rank < world - 1:  # the last process has all images without an object
        own = own[rank :: world - 1]
    losses = model.losses(join([batch.image(number) for number in own]), key=3)
    sum(losses.values()).backward()
    found = [parameter.grad for parameter in model.parameters()]
    values = torch.stack([losses[name].detach() for name in sorted(losses)])
    if world > 1:
        for tensor in (*found, values):
            dist.all_reduce(tensor)
            tensor.div_(world)
    return values.tolist(), [gradient.numpy() for gradient in found]


def join(parts):
    joined = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(parts[0])
        if isinstance(getattr(parts[0], field.name), torch.Tensor)
    }
    return dataclasses.replace(parts[0], **joined, image_ids=sum((p.image_ids for p in parts), ()))


def test_averaged_gradients_are_those_of_one_process(processes, world):
    (values, gradients), ranks = processes.beside_one(world, step)
    for found, theirs in ranks:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(values), rtol=1e-6, atol=1e-9)
        for one, other in zip(theirs, gradients, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(one), torch.from_numpy(other), rtol=1e-6, atol=1e-9
            )
