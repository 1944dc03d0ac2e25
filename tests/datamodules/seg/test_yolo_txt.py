import shutil

import numpy as np
import pytest
import torch

from datamodules.sampling.keys import SampleKey
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.unusable import UnusableData
from datamodules.seg.yolo_txt import YoloTxtDataModule
from evaluation.seg.coco import evaluate_results
from formats.files import write_json
from formats.yolo.convert import convert, yolo_to_coco
from structures import DataProblems

SQUARE = "1 .25 .25 .75 .25 .75 .75 .25 .75\n"


@pytest.fixture
def root(tmp_path, write_yolo):
    write_yolo(
        tmp_path,
        {
            "train": {"a.png": ((8, 12), SQUARE + "0 0 0 .5 0 .5 1 0 1\n"), "b.png": ((6, 6), "")},
            "val": {"c.png": ((4, 8), SQUARE), "d.png": ((4, 4), None)},
        },
    )
    return tmp_path


def test_a_batch(root):
    data = YoloTxtDataModule(root=root, batch_size=1)
    assert (data.num_classes, data.class_names) == (2, ["apple", "fig"])
    assert data.category_map.ids == (0, 1)
    sample = data.eval_dataset("train")[SampleKey(0)]
    assert sample.image_ids == (1,)
    assert sample.labels.tolist() == [1, 0]
    assert sample.boxes.tolist() == [[3, 2, 9, 6], [0, 0, 6, 8]]
    assert sample.masks.sum(dim=(1, 2)).tolist() == [24, 48]
    assert not sample.crowd.any()
    assert data.eval_dataset("train")[SampleKey(1)].boxes.shape == (0, 4)
    records = data.image_records("val")
    assert [r["path"] for r in records] == [str(root / f"images/val/{n}.png") for n in "cd"]
    assert len(list(data.val_dataloader())) == 2


def test_validation_stands_in_for_test(root):
    data = YoloTxtDataModule(root=root)
    assert data.source("test") is data.source("val") is data.source("predict")


def test_both_formats_give_the_same_batches_and_scores(root, tmp_path):
    """A set, and the COCO file made of it, mean the same to training and to evaluation."""
    ours = YoloTxtDataModule(root=root)
    for split in ("train", "val"):
        content, folder, _ = yolo_to_coco(root / "data.yaml", split)
        assert folder == root / "images" / split
        write_json(root / "annotations" / f"instances_{split}.json", content)
    theirs = CocoDataModule(root=root)
    assert theirs.category_map == ours.category_map
    for split in ("train", "val"):
        for k in range(2):
            one, two = (
                ours.eval_dataset(split)[SampleKey(k)],
                theirs.eval_dataset(split)[SampleKey(k)],
            )
            assert one.image_ids == two.image_ids
            for name in ("images", "boxes", "labels", "masks", "crowd"):
                assert torch.equal(getattr(one, name), getattr(two, name)), name
        assert ours.ground_truth(split) == theirs.ground_truth(split)
    rows = [  # shifted by a pixel of four: IoU 8 x 3 / (8 x 4 + 8) for the left half, and a miss
        {"image_id": 1, "category_id": 0, "score": 0.9, "bbox": [1, 0, 6, 8]},
        {"image_id": 1, "category_id": 1, "score": 0.8, "bbox": [3, 2, 6, 4]},
        {"image_id": 2, "category_id": 1, "score": 0.7, "bbox": [0, 0, 2, 2]},
    ]
    scores = [evaluate_results(d.ground_truth("train"), rows).metrics for d in (ours, theirs)]
    assert scores[0] == pytest.approx(scores[1], rel=0, abs=0, nan_ok=True)
    # Class 1 is found exactly. Class 0 overlaps by 5/7 = .714: 5 of the 10 thresholds .5, .55, ...
    assert scores[0]["box_map"] == pytest.approx((1 + 0.5) / 2, abs=1e-6)


def test_the_same_predictions_score_alike_against_a_coco_set_and_its_yolo_form(
    shared_data, tmp_path
):
    source = shared_data("coco_small")
    annotations = source / "annotations" / "instances_val.json"
    images = source / "images" / "val"
    convert(
        "coco",
        "yolo",
        tmp_path,
        annotations=annotations,
        images=images,
        skip_crowds=True,
        placing="link",
    )
    text = (tmp_path / "data.yaml").read_text()
    (tmp_path / "data.yaml").write_text(text + "train: images/val\n")
    yolo = YoloTxtDataModule(root=tmp_path).ground_truth("val")
    coco = CocoDataModule(train_annotations=annotations, train_images=images).ground_truth("train")
    coco["annotations"] = [a for a in coco["annotations"] if not a["iscrowd"]]
    for annotation in coco["annotations"]:  # COCO states the areas of the polygons
        annotation["area"] = None
    numbers = {c["id"]: k for k, c in enumerate(coco["categories"])}
    ids = {i["file_name"]: i["id"] for i in yolo["images"]}
    files = {i["id"]: ids[i["file_name"]] for i in coco["images"]}
    sizes = {a["id"]: a["area"] for a in yolo["annotations"]}
    rng = np.random.default_rng(0)
    rows, other = [], []
    for annotation, twin in zip(
        coco["annotations"],
        sorted(yolo["annotations"], key=lambda a: a["id"]),
        strict=True,
    ):
        assert annotation["segmentation"] == twin["segmentation"]
        annotation["area"] = sizes[twin["id"]]
        moved = coco["annotations"][rng.integers(len(coco["annotations"]))]
        taken = annotation if rng.random() < 0.7 else moved | {"image_id": annotation["image_id"]}
        if taken["segmentation"]["size"] != annotation["segmentation"]["size"]:
            continue
        row = {k: taken[k] for k in ("image_id", "category_id", "segmentation")}
        row["score"] = float(rng.random())
        rows.append(row)
        other.append(
            row
            | {
                "image_id": files[row["image_id"]],
                "category_id": numbers[row["category_id"]],
            }
        )
    one = evaluate_results(coco, rows).metrics
    two = evaluate_results(yolo, other).metrics
    assert 0.3 < one["segm_map"] < 0.9
    assert one == pytest.approx(two, rel=0, abs=0, nan_ok=True)


def test_all_problems_of_all_splits_are_told_at_once(root):
    (root / "labels" / "train" / "a.txt").write_text("5 .1 .1 .2 .2 .3 .1\n")
    (root / "labels" / "val" / "c.txt").write_text("0 3 3 20 3 20 10\n" + SQUARE)
    with pytest.raises(UnusableData) as error:
        YoloTxtDataModule(root=root)
    assert [p.item for p in error.value.problems] == ["a.png", "c.png", None]
    assert "class 5" in str(error.value)
    assert "the coordinate 20 is outside" in str(error.value)
    assert "no object of train is left: nothing can be learnt" in str(error.value)
    assert error.value.datamodule.check() == list(error.value.problems)


def test_skip_leaves_out_and_counts(root, caplog):
    (root / "labels" / "train" / "a.txt").write_text("5 .1 .1 .2 .2 .3 .1\n" + SQUARE)
    (root / "images" / "val" / "c.png").write_bytes(b"broken")
    (root / "labels" / "val" / "d.txt").write_text(SQUARE)
    with pytest.raises(DataProblems):
        YoloTxtDataModule(root=root)
    data = YoloTxtDataModule(root=root, bad_data="skip")
    assert [p.item for p in data.problems] == ["a.png", "c.png"]
    assert data.eval_dataset("train")[SampleKey(0)].labels.tolist() == [1]
    assert data.eval_dataset("val")[SampleKey(0)].image_ids == (2,)
    assert data.summary() == {
        "train": {
            "pictures": 2,
            "annotations": 2,
            "unlabelled": 0,
            "left_out_pictures": 0,
            "left_out_annotations": 1,
            "categories": 2,
        },
        "val": {
            "pictures": 2,
            "annotations": 1,
            "unlabelled": 0,
            "left_out_pictures": 1,
            "left_out_annotations": 0,
            "categories": 2,
        },
    }
    assert "1 problem(s) skipped" in caplog.text


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_what_skip_cannot_leave_out(root, policy):
    (root / "labels" / "train" / "a.txt").write_text("")
    with pytest.raises(UnusableData, match="no image of train has an object"):
        YoloTxtDataModule(root=root, bad_data=policy)
    (root / "labels" / "train" / "a.txt").write_text(SQUARE)
    (root / "labels" / "val" / "c.txt").write_text("")
    with pytest.raises(UnusableData, match="no image of val has an object: nothing can be scored"):
        YoloTxtDataModule(root=root, bad_data=policy)
    for name in "cd":
        (root / "images" / "val" / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(UnusableData, match="no image of val is left"):
        YoloTxtDataModule(root=root, bad_data=policy)
    shutil.rmtree(root / "images" / "val")
    with pytest.raises(UnusableData, match="there is no .*images/val") as error:
        YoloTxtDataModule(root=root, bad_data=policy)
    assert len(error.value.problems) == 1


def test_a_split_that_skipping_has_emptied_is_refused(root):
    (root / "images" / "val" / "c.png").write_bytes(b"broken")
    with pytest.raises(UnusableData, match="no object of val is left: nothing can be scored"):
        YoloTxtDataModule(root=root, bad_data="skip")


def test_polygons_that_reach_out_are_clipped(root):
    lines = ["1 .5 .5 1.5 .5 1.5 .75 .5 .75", "0 0 0 .5 0 .5 1.2", "1 1.5 0 1.9 0 1.9 1", "0 .1 .1"]
    (root / "labels" / "train" / "a.txt").write_text("\n".join(lines))
    with pytest.raises(UnusableData, match="outside 0 to 1.*, or use bad_data: repair") as error:
        YoloTxtDataModule(root=root)
    assert len(error.value.problems) == 5  # four lines, and that nothing would be left
    data = YoloTxtDataModule(root=root, bad_data="repair")
    assert data.eval_dataset("train")[SampleKey(0)].boxes.tolist() == [[6, 4, 12, 6], [0, 0, 6, 8]]
    assert [(p.annotation, p.repaired) for p in data.problems] == [
        (1, True), (2, True), (3, False), (4, False),
    ]  # fmt: skip
    counts = data.summary()["train"]
    names = ("annotations", "left_out_annotations", "repaired_annotations")
    assert [counts[name] for name in names] == [4, 2, 2]
    truth = data.ground_truth("train")["annotations"]
    assert truth[0]["bbox"] == [6, 4, 6, 2]


def test_pixels_are_not_taken_for_polygons_that_reach_out(root):
    (root / "labels" / "train" / "a.txt").write_text(SQUARE + "1 0 0 8 0 8 6 0 6\n")
    data = YoloTxtDataModule(root=root, bad_data="repair")
    assert [(p.annotation, p.repaired) for p in data.problems] == [(2, False)]


def test_a_damaged_image_is_found_by_the_thorough_check(root, write_yolo, damage_png):
    write_yolo(root, {"train": {"z.png": ((64, 64), SQUARE)}, "val": {}})
    file = root / "images" / "train" / "z.png"
    damage_png(file)
    data = YoloTxtDataModule(root=root)
    assert data.check() == []
    assert [p.item for p in data.check(thorough=True)] == ["z.png"]
    with pytest.raises(ValueError, match=r"z\.png"):
        data.eval_dataset("train")[SampleKey(2)]


def test_a_damaged_image_is_skipped_before_it_is_counted_on(
    root, write_yolo, damage_png, monkeypatch
):
    write_yolo(root, {"train": {"z.png": ((64, 64), SQUARE)}, "val": {}})
    file = root / "images" / "train" / "z.png"
    damage_png(file)
    whole = YoloTxtDataModule(root=root).source("train")
    data = YoloTxtDataModule(root=root, bad_data="skip")
    assert [p.item for p in data.problems] == ["z.png"]
    names = [r["file_name"] for r in data.image_records("train")]
    assert len(names) == len(whole) - 1 and "z.png" not in names
    monkeypatch.setattr("datamodules.seg.yolo_txt.HEADER_LIMIT", 2)  # as with COCO files
    assert len(YoloTxtDataModule(root=root, bad_data="skip").source("train")) == len(whole)


def test_a_checkpoint_needs_no_training_files(root):
    known = YoloTxtDataModule(root=root).category_map.to_dict()
    shutil.rmtree(root / "images" / "train")
    data = YoloTxtDataModule(root=root, category_map=known)
    assert len(data.source("test")) == 2
    with pytest.raises(UnusableData, match="images/train"):
        data.source("train")
    with pytest.raises(ValueError, match=r"id 0 is 'apple' in .*data\.yaml.* and 'pear'"):
        YoloTxtDataModule(root=root, category_map={"ids": [0, 1], "names": ["pear", "fig"]})


def test_boxes_as_masks(root):
    (root / "labels" / "val" / "c.txt").write_text("0 .5 .5 .5 .5\n")
    with pytest.raises(UnusableData, match="boxes_as_masks: true"):
        YoloTxtDataModule(root=root)
    data = YoloTxtDataModule(root=root, boxes_as_masks=True)
    assert data.eval_dataset("val")[SampleKey(0)].boxes.tolist() == [[2, 1, 6, 3]]


def test_named_files(root, tmp_path):
    file = tmp_path / "other.yaml"
    shutil.copy(root / "data.yaml", file)
    assert len(YoloTxtDataModule(data_yaml=file).source("val")) == 2
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    data = YoloTxtDataModule(root=moved, data_yaml=file)
    assert data.image_records("val")[0]["path"] == str(moved / "images" / "val" / "c.png")
    with pytest.raises(ValueError, match="give --data.root DIR"):
        YoloTxtDataModule()
