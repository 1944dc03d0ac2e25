"""Tests that the module tells models how far the training is, and when a step has been made."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.seg.digit_scenes import DigitScenesDataModule
from lightning_modules.segmentation import SegmentationModule


class Follower(nn.Module):
    max_dets = 1

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.told = []
        self.seen = []
        self.kept = []
        self.updates = []

    def set_progress(self, progress):
        self.told.append(progress)

    def losses(self, batch, reduction="mean", key=0):
        self.seen.append((key, self.told[-1]))
        self.kept.append(batch.index.tolist())
        return {"weight": self.weight.sum()}

    def update_after_step(self):
        self.updates.append((self.kept, self.weight.item()))
        self.kept = []

    def predict(self, batch):
        raise AssertionError


def fit(steps, ckpt_path=None, callbacks=()):
    module = SegmentationModule(Follower(), lambda g: torch.optim.SGD(g, lr=0.1))
    trainer = pl.Trainer(
        max_steps=steps,
        limit_val_batches=0,
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    data = DigitScenesDataModule(batch_size=1)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return module.model, trainer


class SaveAt(pl.Callback):
    """Save a checkpoint within an epoch, where Lightning's own callback does."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.step and not self.path.exists():
            self.told = module.model.told[-1]
            trainer.save_checkpoint(self.path)


def test_a_model_is_told_after_each_optimizer_step_and_when_resumed(tmp_path):
    save = SaveAt(2, tmp_path / "two.ckpt")
    whole, _ = fit(4, callbacks=[save])
    assert whole.told == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert whole.seen == [(step, step / 4) for step in range(4) for _ in range(2)]
    assert save.told == 0.5
    rest, _ = fit(4, ckpt_path=tmp_path / "two.ckpt")
    assert rest.told == [0.5, 0.75, 1.0]


def test_the_memory_is_updated_once_after_each_optimizer_step():
    """It sees the batches of the step, two for each, and the weights after it."""
    model, _ = fit(3)
    assert [len(kept) for kept, _ in model.updates] == [2, 2, 2]
    assert [weight for _, weight in model.updates] == pytest.approx([0.9, 0.8, 0.7])
