"""SWORD in a training: its queue is filled after each optimizer step and survives a resume."""

import pytest
import pytorch_lightning as pl
import torch

from datamodules.seg.digit_scenes import DigitScenesDataModule
from lightning_modules.segmentation import SegmentationModule
from models.backbones.timm_features import TimmFeatures
from models.seg.sword import SWORD


def module():
    torch.manual_seed(0)
    model = SWORD(
        1,
        TimmFeatures("resnet10t", norm="frozen_bn"),
        queue_size=12,  # less than the positives of the training
        num_queries=10,
        width=32,
        num_heads=2,
        encoder_layers=1,
        decoder_layers=1,
        ffn=32,
        dropout=0.1,
    )
    return SegmentationModule(model, lambda groups: torch.optim.AdamW(groups, lr=1e-3))


class Note(pl.Callback):
    """Note the length of the queue after each batch, and save a checkpoint after a step."""

    def __init__(self, path):
        self.path, self.pushed = path, []

    def on_train_batch_end(self, trainer, module, *_):
        self.pushed.append(int(module.model.queue.pushed))
        if trainer.global_step == 2 and not self.path.exists():
            trainer.save_checkpoint(self.path)


def fit(path, ckpt_path=None):
    pl.seed_everything(0)
    note, trained = Note(path), module()
    trainer = pl.Trainer(
        max_steps=4,
        limit_val_batches=0,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[note],
    )
    data = DigitScenesDataModule(batch_size=2, class_agnostic=True, size=64, train_scenes=16)
    trainer.fit(trained, data, ckpt_path=ckpt_path)
    return trained.model.state_dict(), note.pushed


@pytest.mark.slow
def test_the_queue_is_filled_after_steps_and_resumed_bit_for_bit(tmp_path):
    whole, pushed = fit(tmp_path / "two.ckpt")
    assert pushed[0] == 0 < pushed[1] == pushed[2] < pushed[3] == pushed[4]
    assert pushed[-1] > 12
    rest, later = fit(tmp_path / "two.ckpt", ckpt_path=tmp_path / "two.ckpt")
    assert later == pushed[4:]
    assert all(torch.equal(rest[name], value) for name, value in whole.items())
