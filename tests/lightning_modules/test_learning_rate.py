"""Rates that are given for a number of images per step."""

from types import SimpleNamespace

import pytest
import torch

from lightning_modules.learning_rate import describe_scaling, images_per_step
from tests.lightning_modules.test_base import make_module


def trainer(batch_size=2, world_size=4, accumulate_grad_batches=3):
    data = SimpleNamespace(batch_size=batch_size)
    return SimpleNamespace(
        datamodule=data, world_size=world_size, accumulate_grad_batches=accumulate_grad_batches
    )


def test_images_of_all_processes_and_accumulated_batches():
    assert images_per_step(trainer()) == 24
    assert describe_scaling(0.02, 16, trainer()) == (
        "learning rate: 0.03 for 24 = 2 x 4 x 3 (batch x processes x accumulated batches), "
        "from 0.02 for 16 images per step"
    )


def test_groups_are_scaled_alike(monkeypatch):
    module = make_module(lr_per_images=16)
    monkeypatch.setattr(type(module), "trainer", trainer(4, 1, 1))
    rates = {g["name"]: g["lr"] for g in module.build_optimizer().param_groups}
    assert rates["head"] == pytest.approx(0.5 * 4 / 16)
    assert rates["backbone"] == pytest.approx(0.1 * 0.5 * 4 / 16)


def test_what_cannot_be_scaled():
    with pytest.raises(ValueError, match="datamodule with batch_size; set lr_per_images: null"):
        images_per_step(trainer(batch_size=None))
    with pytest.raises(ValueError, match="lr_per_images must be at least 1, got 0"):
        make_module(lr_per_images=0)
    assert isinstance(make_module().build_optimizer(), torch.optim.AdamW)
