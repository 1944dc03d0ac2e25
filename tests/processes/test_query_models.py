"""Gradients of whole models with queries on several processes against those of one."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from models.backbones.timm_features import TimmFeatures
from models.backbones.timm_vit import TimmViT
from models.seg.deformable_detr import DeformableDETR
from models.seg.eomt import EoMT
from models.seg.mask2former import Mask2Former
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


def eomt():
    """Return a model within the annealing."""
    options = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    vit = TimmViT("vit_small_patch14_reg4_dinov2", 64, 16, options=options)
    model = EoMT(3, vit, num_queries=5, num_blocks=1, loss=MaskLossOptions(num_points=32))
    model.set_progress(0.45)
    return model


_SMALL = {"num_queries": 6, "width": 32, "num_heads": 2, "encoder_layers": 1}
BUILDERS = {
    "eomt": eomt,
    "mask2former": lambda: Mask2Former(
        3,
        TimmFeatures("resnet10t", norm="frozen_bn", strides=(4, 8, 16, 32)),
        **_SMALL,
        encoder_ffn=32,
        decoder_layers=2,
        decoder_ffn=32,
        num_points=32,
    ),
    "deformable_detr": lambda: DeformableDETR(
        3,
        TimmFeatures("resnet10t", norm="frozen_bn"),
        **_SMALL | {"width": 64},  # its level of stride 64 has one cell, a norm needs two values
        decoder_layers=2,
        ffn=32,
        dropout=0.0,
    ),
}


def step(rank, world, name):
    """Return losses and gradients of four images, averaged over the processes."""
    torch.manual_seed(0)
    model = BUILDERS[name]().double().train()
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


@pytest.mark.parametrize("name", BUILDERS)
def test_averaged_gradients_are_those_of_one_process(processes, world, name):
    """The last process has all images without an object."""
    (values, gradients), ranks = processes.beside_one(world, step, name=name)
    for found, theirs in ranks:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(values), rtol=1e-6, atol=1e-9)
        for one, other in zip(theirs, gradients, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(one), torch.from_numpy(other), rtol=1e-6, atol=1e-9
            )
