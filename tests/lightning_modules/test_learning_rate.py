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
    assert describe_scaling("learning rate", 0.02, 16, trainer()) == (
        "learning rate: 0.03 for 24 = 2 x 4 x 3 (batch x processes x accumulated batches), "
        "from 0.02 for 16 images per step"
    )


def test_groups_are_scaled_alike(monkeypatch):
    module = make_module(lr_per_images=16)
    monkeypatch.setattr(type(module), "trainer", trainer(4, 1, 1))
    rates = {g["name"]: g["lr"] for g in module.build_optimizer().param_groups}
    assert rates["head"] == pytest.approx(0.5 * 4 / 16)
    assert rates["backbone"] == pytest.approx(0.1 * 0.5 * 4 / 16)


def test_the_loss_follows_the_images_of_a_step(monkeypatch):
    """Weights for 64 images: 8 images count an eighth, 64 leave every bit as it is."""
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(0.1)}
    module = make_module(loss_weights={"a": 480.0}, loss_per_images=64)
    monkeypatch.setattr(type(module), "trainer", trainer(2, 1, 4))
    assert module.weighted_sum(terms) == pytest.approx((2 * 480 + 0.1) / 8)
    monkeypatch.setattr(type(module), "trainer", trainer(16, 1, 4))
    plain = make_module(loss_weights={"a": 480.0})
    assert torch.equal(module.weighted_sum(terms), plain.weighted_sum(terms))
    monkeypatch.setattr(type(module), "trainer", None)
    assert plain.weighted_sum(terms) == pytest.approx(960.1)


def test_what_cannot_be_scaled():
    with pytest.raises(ValueError, match="datamodule with batch_size; set them to null"):
        images_per_step(trainer(batch_size=None))
    with pytest.raises(ValueError, match="lr_per_images must be at least 1, got 0"):
        make_module(lr_per_images=0)
    with pytest.raises(ValueError, match="loss_per_images must be at least 1, got -1"):
        make_module(loss_per_images=-1)
    assert isinstance(make_module().build_optimizer(), torch.optim.AdamW)
