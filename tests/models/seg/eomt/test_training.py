"""Trainings of EoMT: four scenes learnt by heart, and one that is resumed within the annealing."""

import pytest
import pytorch_lightning as pl
import torch

import train
from callbacks.run.ema import EMA
from datamodules.seg.collate import collate_images
from datamodules.seg.digit_scenes import DigitScenesDataModule
from evaluation.seg.coco import CocoEvaluator
from lightning_modules.segmentation import SegmentationModule
from models.backbones.timm_vit import TimmViT
from models.seg.eomt import EoMT
from models.seg.queries.mask_classification import MaskLossOptions
from optim.schedules import Cosine
from tests.support.layers import ROOT

WEIGHTS = {"class": 2.0, "mask": 5.0, "dice": 5.0}


def make(width, depth, patch_size, num_points, num_queries):
    torch.manual_seed(0)
    options = {"embed_dim": width, "depth": depth, "num_heads": width // 32}
    vit = TimmViT("vit_tiny_patch16_224", 128, patch_size, options=options)
    loss = MaskLossOptions(num_points=num_points)
    return EoMT(10, vit, num_queries=num_queries, num_blocks=2, loss=loss)


@pytest.mark.slow
def test_it_learns_four_scenes_by_heart():
    steps, batch_size = 80, 4
    data = DigitScenesDataModule(train_scenes=4, batch_size=4)
    scenes = next(iter(data.train_dataloader()))
    model = make(192, 6, 8, 1024, 25).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = Cosine(optimizer, steps, warmup=0.05)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        model.set_progress(step / steps)
        chosen = torch.randperm(4, generator=generator)[:batch_size].tolist()
        terms = model.losses(collate_images([scenes.image(n) for n in chosen]), key=step)
        optimizer.zero_grad()
        sum(WEIGHTS[name] * term for name, term in terms.items()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.set_progress(1.0)
    evaluator = CocoEvaluator(data.category_map, max_dets=model.max_dets)
    for image_id, found in zip(scenes.image_ids, model.eval().predict(scenes), strict=True):
        evaluator.add(image_id, found)
    assert evaluator.compute(data.ground_truth("train")).metrics["segm_map"] >= 0.70


class SaveAt(pl.Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(callbacks=(), ckpt_path=None):
    pl.seed_everything(0)
    module = SegmentationModule(
        make(32, 3, 16, 64, 8),
        lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        Cosine,
        loss_weights=WEIGHTS,
        layer_decay=0.8,
    )
    trainer = pl.Trainer(
        max_steps=4,
        accelerator="cpu",
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        use_distributed_sampler=False,
    )
    trainer.fit(module, DigitScenesDataModule(batch_size=2, train_scenes=8), ckpt_path=ckpt_path)
    return module.model


def test_an_average_of_the_weights_is_unmasked_after_the_training():
    """An average of float shares would never become 0."""
    averaged = fit([EMA(decay=0.9, warmup_steps=0)])
    assert averaged.mask_parts.tolist() == [0, 0]


def test_half_precision_trains_with_losses_in_full(scene):
    model = make(32, 3, 16, 64, 8).train()
    batch = scene([(64, 96), (64, 96)], instances=[2, 0])[0]
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.losses(batch)
        outputs = model.network_outputs(batch)
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
    assert all(found.scores.dtype == torch.float32 for found in model.instances(outputs, batch))


def test_images_larger_than_the_square_end_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["fit", "--config", "configs/quickstart/eomt.yaml", "--data.size", "160"]
    words += ["--data.batch_size", "1", "--trainer.fast_dev_run", "true"]
    assert train.main([*words, "--runs_dir", str(tmp_path)]) != 0
    text = capsys.readouterr().err
    assert "images of 160 x 160 are larger than the square of 128 x 128" in text
    assert "image_size 160" in text


def test_a_resumed_training_ends_where_the_whole_one_does(tmp_path):
    """Both blocks' windows, 1/4 to 1/2 and 1/2 to 3/4, are in the rest of the training."""
    whole = fit([SaveAt(1, tmp_path / "one.ckpt")])
    state = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    assert state["model.mask_parts"].tolist() == [2**23, 2**23]
    resumed = fit(ckpt_path=tmp_path / "one.ckpt")
    assert resumed.mask_parts.tolist() == [0, 0]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
