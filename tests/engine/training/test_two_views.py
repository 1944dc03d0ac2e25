"""A training on pairs of views as a user types it: logs, rates, four channels, scores."""

import csv
import json
import os
from pathlib import Path

import pytest
import yaml

import evaluate
import train
from datamodules.seg.digit_scenes import DigitScenesDataModule

ROOT = Path(__file__).resolve().parents[3]
OVERLAY = {
    "model": {
        "init_args": {
            "lr_mult": {"*.kernel": 2.0, "*awd*": 2.0},
            "model": {"init_args": {"score_thresh": 0.0}},
        }
    },
    "data": {"init_args": {"low_light": {"input": "raw4"}, "val_scenes": 4, "seed": 3}},
    "trainer": {
        "limit_train_batches": 3,
        "max_epochs": 1,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
    },
}


@pytest.mark.slow
def test_pairs_of_four_channels_from_recipe_to_scores(tmp_path):
    os.chdir(ROOT)
    overlay, out = tmp_path / "more.yaml", tmp_path / "out.json"
    overlay.write_text(yaml.safe_dump(OVERLAY))
    words = ["--config", "configs/quickstart/low_light.yaml", "--config", str(overlay)]
    assert train.main(["fit", *words, "--runs_dir", str(tmp_path), "--name", "two"]) == 0
    run = tmp_path / "two" / "version_0"
    with (run / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for name in ("train/loss_dsl", "train/dsl_clamped", "train/loss_mask"):
        assert len([row for row in rows if row[name]]) == 3
    rates = [row for row in rows if row.get("lr-AdamW/backbone_x2")]
    for row in rates:
        twice = 2 * float(row["lr-AdamW/backbone"])
        assert float(row["lr-AdamW/backbone_x2"]) == pytest.approx(twice)
    assert rates
    checkpoint = run / "checkpoints" / "last.ckpt"
    images, annotations = DigitScenesDataModule(val_scenes=4).write_split("val", tmp_path / "val")
    words = ["coco", "--ckpt", checkpoint, "--annotations", annotations, "--images", images]
    assert evaluate.main([str(word) for word in (*words, "--out", out)]) == 0
    scores = json.loads(out.read_text())["metrics"]
    logged = [row for row in rows if row["val/box_map"]][-1]
    assert float(logged["val/box_map"]) == scores["box_map"]
    assert float(logged["val/segm_map"]) == scores["segm_map"]
    # continuing finds the same groups of parameters
    again = ["fit", "--ckpt_path", str(checkpoint), "--trainer.max_epochs", "2"]
    assert train.main(again) == 0
    assert len([r for r in csv.DictReader((run / "metrics.csv").open()) if r["train/loss"]]) == 6
