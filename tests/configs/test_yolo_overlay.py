"""A recipe on a YOLO set is the same run as on the COCO set that it was made from."""

import csv
import json
from pathlib import Path

import pytest
import torch

import evaluate
import train
from datamodules.seg.digit_scenes import DigitScenesDataModule
from formats.yolo.convert import convert

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Six training and three validation scenes as COCO and as YOLO set."""
    base = tmp_path_factory.mktemp("sets")
    scenes = DigitScenesDataModule(train_scenes=6, val_scenes=3, size=64)
    for split in ("train", "val"):
        images, annotations = scenes.write_split(split, base / "coco")
        convert("coco", "yolo", base / "yolo", annotations=annotations, images=images)
    return base


def fit(overlay, root, runs, *more):
    arguments = ["fit", "--config", str(ROOT / "configs/quickstart/mask_rcnn.yaml")]
    arguments += ["--config", str(ROOT / f"configs/_base/data/{overlay}.yaml")]
    arguments += ["--data.root", str(root), "--runs_dir", str(runs), "--name", overlay]
    arguments += ["--data.train_short_sides", "[64]", "--data.eval_short_side", "64"]
    arguments += ["--data.num_workers", "0", "--trainer.max_epochs", "1"]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    return train.main([*arguments, *more])


@pytest.mark.slow
def test_one_epoch_on_both_forms(sets, tmp_path):
    weights, scores = [], []
    for overlay, folder in (("coco", "coco"), ("yolo_txt", "yolo")):
        assert fit(overlay, sets / folder, tmp_path) == 0
        run = tmp_path / overlay / "version_0"
        checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        weights.append(checkpoint["state_dict"])
        rows = list(csv.DictReader((run / "metrics.csv").open()))
        timed = ("time/", "memory/", "throughput/")
        scores.append([{k: v for k, v in r.items() if not k.startswith(timed)} for r in rows])
    assert scores[0] == scores[1]
    assert any(row.get("val/segm_map") for row in scores[0])
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_wrong_labels_end_the_run_before_it_begins(sets, tmp_path, capsys):
    label = sets / "yolo" / "labels" / "val" / "val_00001.txt"
    good = label.read_text()
    label.write_text(good + "3 10 10 40 10 40 50\n12 .1 .1 .4 .1 .4 .5\n")
    try:
        assert fit("yolo_txt", sets / "yolo", tmp_path) == 2
    finally:
        label.write_text(good)
    message = capsys.readouterr().err
    number = len(good.splitlines()) + 1
    assert f"{label}, image val_00001.png, line {number}: the coordinate 50 is outside" in message
    assert f"line {number + 1}: class 12 is not declared" in message
    assert "Traceback" not in message
    assert not list(tmp_path.rglob("*.ckpt"))


def test_check_data_lists_every_line(sets, tmp_path, capsys):
    label = sets / "yolo" / "labels" / "train" / "train_00002.txt"
    good = label.read_text()
    label.write_text("0 .1 .1 .4\n" + good)
    out = tmp_path / "check.json"
    arguments = ["check-data", "--config", str(ROOT / "configs/quickstart/mask_rcnn.yaml")]
    arguments += ["--config", str(ROOT / "configs/_base/data/yolo_txt.yaml")]
    arguments += ["--data.root", str(sets / "yolo"), "--out", str(out)]
    try:
        assert evaluate.main(arguments) == 2
    finally:
        label.write_text(good)
    (problem,) = json.loads(out.read_text())["problems"]
    assert (problem["item"], problem["annotation"]) == ("train_00002.png", 1)
    assert "which are not pairs" in problem["reason"]
    capsys.readouterr()
    assert evaluate.main(arguments) == 0
