"""Losses, gradients and the bank of SegPrompt on several processes against those of one."""

import importlib.util
from pathlib import Path

import torch
import torch.distributed as dist

from models.backbones.timm_features import TimmFeatures
from models.seg.segprompt import SegPrompt


def shared():
    """Import the batches of the other models with queries by their path."""
    where = Path(__file__).with_name("test_query_models.py")
    spec = importlib.util.spec_from_file_location(where.stem, where)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def steps(rank, world):
    """Return losses and gradients of four images, and the bank after two updates."""
    scenes = shared()
    torch.manual_seed(0)
    model = SegPrompt(
        3,
        TimmFeatures("resnet10t", norm="frozen_bn", strides=(4, 8, 16, 32)),
        **scenes._SMALL,
        encoder_ffn=32,
        decoder_layers=2,
        decoder_ffn=32,
        num_points=32,
        prompt_categories=3,
        repeat=2,
        examples=2,
    ).double()
    counts = scenes.COUNTS
    own = [n for n in range(4) if world == 1 or (counts[n] == 0) == (rank == world - 1)]
    if world > 2 and rank < world - 1:
        own = own[rank :: world - 1]
    batch = scenes.scenes()
    part = scenes.join([batch.image(number) for number in own])
    for key in range(2):
        model.zero_grad()
        losses = model.losses(part, key=key)
        sum(losses.values()).backward()
        model.update_after_step()
    values = torch.stack([losses[name].detach() for name in sorted(losses)])
    found = [parameter.grad for parameter in model.parameters()]
    if world > 1:
        for tensor in (*found, values):
            dist.all_reduce(tensor)
            tensor.div_(world)
    return values.numpy(), [one.numpy() for one in found], model.prompts.bank.numpy()


def test_several_processes_equal_one(processes, world):
    """The last process has all images without an object; banks are equal bit for bit."""
    (values, gradients, bank), ranks = processes.beside_one(world, steps)
    for found, theirs, own in ranks:
        assert (own == ranks[0][2]).all()
        pairs = zip((found, *theirs, own), (values, *gradients, bank), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(
                torch.from_numpy(one), torch.from_numpy(other), rtol=1e-6, atol=1e-9
            )
    assert bank.any(axis=1).sum() >= 2
