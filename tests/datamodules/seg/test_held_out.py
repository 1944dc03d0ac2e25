"""Validation images held out of the only annotation file of a set."""

import csv
import json
from pathlib import Path

import pytest
import torch

import train
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.held_out import divide_images
from datamodules.seg.yolo_txt import YoloTxtDataModule

QUIET = [f"--callbacks.{n}=false" for n in ("curves", "confusion", "gallery", "progress")]


def numbered(count, empty=0):
    images = [{"id": k, "file_name": f"{k}.png"} for k in range(count)]
    objects = [{"id": 100 + k, "image_id": k, "category_id": 1} for k in range(empty, count)]
    return {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}


def ids(data):
    return [image["id"] for image in data["images"]]


def test_a_set_of_one_file_is_divided_by_image():
    whole = numbered(40, empty=20)
    kept, held = divide_images(whole, 0.25, seed=3)
    assert (len(ids(kept)), len(ids(held))) == (30, 10)
    assert sorted(ids(kept) + ids(held)) == ids(whole)
    assert sum(k >= 20 for k in ids(held)) == 5  # as many with objects as without
    for part in (kept, held):
        assert ids(part) == sorted(ids(part))
        assert [a["image_id"] for a in part["annotations"]] == [k for k in ids(part) if k >= 20]
    assert ids(divide_images(whole, 0.25, seed=3)[1]) == ids(held)
    assert ids(divide_images(whole, 0.25, seed=4)[1]) != ids(held)


def test_no_image_to_hold_out():
    with pytest.raises(ValueError, match=r"0.1 of 9 images with objects is no image; raise it"):
        divide_images(numbered(9), 0.1, seed=0)
    with pytest.raises(ValueError, match="of 1 images with objects is no image"):
        divide_images(numbered(9, empty=8), 0.5, seed=0)


@pytest.fixture
def one_file(write_coco, tmp_path):
    """Return arguments that name the eight images of a set with one annotation file."""
    square = [[4, 4, 40, 4, 40, 40, 4, 40]]
    images = [{"id": k, "file_name": f"{k}.png", "height": 64, "width": 64} for k in range(8)]
    objects = [
        {"id": k, "image_id": k, "category_id": 1, "iscrowd": 0, "segmentation": square,
         "area": 36 * 36, "bbox": [4, 4, 36, 36]}
        for k in range(8)
    ]  # fmt: skip
    classes = [{"id": 1, "name": "cell"}]
    folder, file = write_coco(
        tmp_path / "set", "all", images=images, annotations=objects, categories=classes
    )
    return {"train_images": str(folder), "train_annotations": str(file)}


def test_the_datamodule_divides_its_training_file(one_file):
    data = CocoDataModule(**one_file, val_fraction=0.25, seed=1)
    parts = {s: [r["id"] for r in data.image_records(s)] for s in ("train", "val", "test")}
    assert len(parts["train"]) == 6
    assert parts["val"] == parts["test"]  # there is no test split
    assert not {*parts["train"]} & {*parts["val"]}
    truth = data.ground_truth("val")
    assert {a["image_id"] for a in truth["annotations"]} == {*parts["val"]}
    pictures = {split: counts["pictures"] for split, counts in data.summary().items()}
    assert pictures == {"train": 6, "val": 2}
    assert data.check() == []
    assert data.object_counts("val").by_image.size == 2
    known = data.category_map.to_dict()
    later = CocoDataModule(**one_file, val_fraction=0.25, seed=1, category_map=known)
    assert [r["id"] for r in later.image_records("val")] == parts["val"]


def test_problems_are_reported_once(one_file, damage_png):
    folder = Path(one_file["train_images"])
    damage_png(sorted(folder.iterdir())[0])
    data = CocoDataModule(**one_file, val_fraction=0.25, bad_data="skip")
    assert len(data.problems) == 1
    counts = data.summary()
    assert counts["train"]["left_out_pictures"] == 1
    assert counts["train"]["pictures"] + counts["val"]["pictures"] == 8


@pytest.mark.slow
def test_fit_and_test_use_the_same_images(one_file, tmp_path):
    words = ["--config", "configs/quickstart/mask_rcnn.yaml"]
    words += ["--config", "configs/_base/data/coco.yaml", "--data.train_short_sides", "[64]"]
    words += ["--data.eval_short_side", "64", "--data.num_workers", "0"]
    words += [f"--data.{name}={value}" for name, value in one_file.items()]
    words += ["--data.val_fraction", "0.25", "--trainer.max_epochs", "1"]
    runs = ["--runs_dir", str(tmp_path / "runs"), *QUIET]
    assert train.main(["fit", *words, *runs]) == 0
    run = tmp_path / "runs" / "mask_rcnn" / "version_0"
    with (run / "splits.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["split"] for row in rows] == ["train"] * 6 + ["val"] * 2
    held = [int(row["image_id"]) for row in rows if row["split"] == "val"]
    last = run / "checkpoints" / "last.ckpt"
    assert train.main(["test", "--ckpt_path", str(last), *runs, "--name", "test"]) == 0
    scored = next((tmp_path / "runs" / "test").rglob("test.json"), None)
    assert scored is not None
    assert {row["image_id"] for row in json.loads(scored.read_text())} <= {*held}
    assert torch.load(last, weights_only=True)["global_step"] == 3


def test_a_yolo_set_without_validation_images(write_yolo, tmp_path):
    line = "0 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6\n"
    files = {f"{k}.png": ((64, 64), line if k < 6 else None) for k in range(8)}
    file = write_yolo(tmp_path, {"train": files})
    data = YoloTxtDataModule(data_yaml=file, val_fraction=0.5, seed=1)
    parts = {s: [r["id"] for r in data.image_records(s)] for s in ("train", "val", "test")}
    assert sorted(parts["train"] + parts["val"]) == list(range(1, 9))
    assert parts["val"] == parts["test"]
    pictures = {s: (c["pictures"], c["annotations"]) for s, c in data.summary().items()}
    assert pictures == {"train": (4, 3), "val": (4, 3)}
    assert data.check() == []
    assert data.object_counts("val").by_image.sum() == 3
    known = data.category_map.to_dict()
    later = YoloTxtDataModule(data_yaml=file, val_fraction=0.5, seed=1, category_map=known)
    assert [r["id"] for r in later.image_records("val")] == parts["val"]
    with pytest.raises(ValueError, match=r"has no val split.*hold out .* data.val_fraction 0.2"):
        YoloTxtDataModule(data_yaml=file).source("val")
    both = write_yolo(tmp_path / "both", {"train": files, "val": files})
    with pytest.raises(ValueError, match="there is a validation split, images/val; leave"):
        YoloTxtDataModule(data_yaml=both, val_fraction=0.5)
