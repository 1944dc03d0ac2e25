"""What becomes of a faulty COCO data set: told as a whole, or left out and counted."""

import json
import logging

import pytest
from PIL import Image

from datamodules.sampling.keys import SampleKey
from datamodules.seg import coco_files
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.digit_scenes import DigitScenesDataModule
from datamodules.seg.unusable import UnusableData
from structures import DataProblems


@pytest.fixture
def root(tmp_path, write_coco, small_coco):
    triangle = {"segmentation": [[1, 1, 5, 1, 5, 5]], "bbox": [1, 1, 4, 4], "area": 8}
    one_more = {"id": 50, "image_id": 11, "category_id": 8, "iscrowd": 0}
    small_coco["annotations"].append(one_more | triangle)
    for split in ("train", "val", "test"):
        write_coco(tmp_path, split, **small_coco)
    return tmp_path


def edit(root, split, change):
    file = root / "annotations" / f"instances_{split}.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return file


def spoil(root):
    """Two faults in training, one in validation, one in testing."""
    (root / "images" / "train" / "three.png").unlink()
    train = edit(root, "train", lambda d: d["annotations"][0].update(segmentation=[[1, 2]]))
    val = edit(root, "val", lambda d: d["annotations"][1].update(bbox=[1, 5, 0, 5]))
    Image.new("RGB", (5, 4)).save(root / "images" / "test" / "eleven.png")
    return train, val, root / "annotations" / "instances_test.json"


def test_all_faults_of_all_splits_come_as_one_error(root):
    train, val, test = spoil(root)
    with pytest.raises(DataProblems) as error:
        CocoDataModule(root=root)
    found = [(p.file, p.item, p.annotation) for p in error.value.problems]
    assert found == [(train, 3, None), (train, 7, 40), (val, 3, 12), (test, 11, None)]
    assert "three.png is missing; add the file" in str(error.value)
    assert "4 px high and 5 px wide" in str(error.value)


def test_skip_leaves_faults_out_and_counts_them(root, caplog):
    train, val, test = spoil(root)
    with caplog.at_level(logging.INFO):
        data = CocoDataModule(root=root, bad_data="skip")
    assert [(p.file, p.item) for p in data.problems] == [
        (train, 3),
        (train, 7),
        (val, 3),
        (test, 11),
    ]
    # image 3 of training is gone with its object 12; object 40 of image 7 is gone alone
    assert [r["id"] for r in data.image_records("train")] == [7, 11]
    assert [a["id"] for a in data.ground_truth("train")["annotations"]] == [13, 50]
    assert data.eval_dataset("train")[SampleKey(0)].labels.tolist() == [1]
    assert [r["id"] for r in data.image_records("val")] == [3, 7, 11]
    assert [a["id"] for a in data.ground_truth("val")["annotations"]] == [13, 40, 50]
    assert [r["id"] for r in data.image_records("test")] == [3, 7]
    for file, count in ((train, 2), (val, 1), (test, 1)):
        assert f"{file}: {count} problem(s) skipped" in caplog.text
    assert f"{train}: left out 1 of 3 images and 2 of 4 annotations" in caplog.text


def test_sound_data_say_nothing(root, caplog):
    for policy in ("error", "skip"):
        assert CocoDataModule(root=root, bad_data=policy).problems == ()
    assert "left out" not in caplog.text


def test_a_damaged_image_is_left_out_before_training_meets_it(root, damage_png):
    damage_png(root / "images" / "train" / "seven.png")
    data = CocoDataModule(root=root, bad_data="skip")
    assert [p.item for p in data.problems] == [7]
    assert sum(len(batch) for batch in data.train_dataloader()) == 2
    # headers alone don't tell, so with `error` the image stops the run with its id and name
    with pytest.raises(ValueError, match=r"image 7: image file .*seven\.png cannot be read"):
        list(CocoDataModule(root=root, batch_size=3).train_dataloader())


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize(
    ("split", "change", "reason"),
    [
        (
            "val",
            lambda d: d["categories"][0].update(name="kiwi"),
            "id 11 is 'kiwi' here and 'plum'",
        ),
        ("test", lambda d: d["categories"].append({"id": 99, "name": "x"}), "and 'absent' in"),
        (
            "train",
            lambda d: [a.update(iscrowd=1) for a in d["annotations"]],
            "all 4 annotations ar",
        ),
        ("train", lambda d: d["categories"].append({"id": 0, "name": "x"}), "id 0 occurs twice"),
        ("train", lambda d: d["categories"].clear(), "declares no category"),
        ("val", lambda d: d["images"].clear(), "lists no image"),
        ("val", lambda d: [i.update(height=0) for i in d["images"]], "no image is left"),
        ("val", lambda d: d.pop("annotations"), "has no list 'annotations'"),
    ],
)
def test_what_cannot_be_left_out_is_an_error_under_both(root, policy, split, change, reason):
    file = edit(root, split, change)
    with pytest.raises(UnusableData) as error:
        CocoDataModule(root=root, bad_data=policy)
    if policy == "error" and reason == "no image is left":
        reason = "has size (0, 16)"
    assert any(p.file == file and reason in p.reason for p in error.value.problems)


def test_skipping_all_single_objects_leaves_only_crowds(root):
    def change(data):
        for annotation in data["annotations"]:
            if not annotation["iscrowd"]:
                annotation["bbox"] = [0, 0, 0, 0]

    edit(root, "train", change)
    with pytest.raises(UnusableData, match="all 1 annotations that are valid are crowds"):
        CocoDataModule(root=root, bad_data="skip")


def test_a_missing_file_does_not_hide_the_faults_of_the_others(root):
    train, val, test = spoil(root)
    val.write_text("{")
    (root / "images" / "test").rename(root / "elsewhere")
    with pytest.raises(UnusableData) as error:
        CocoDataModule(root=root, bad_data="skip")
    assert {p.file for p in error.value.problems} == {train, val, test}


def test_check_decodes_and_summary_counts(root, damage_png):
    data = CocoDataModule(root=root)
    counts = {"pictures": 3, "annotations": 4, "categories": 4}
    none = {"left_out_pictures": 0, "left_out_annotations": 0}
    assert data.check(thorough=True) == data.check() == []
    assert data.summary() == dict.fromkeys(("train", "val", "test"), counts | none)
    file = root / "images" / "val" / "three.png"
    damage_png(file)
    assert data.check() == []
    (problem,) = data.check(thorough=True)
    assert (problem.item, problem.file.name) == (3, "instances_val.json")
    assert data.summary()["val"] == counts | {"left_out_pictures": 1, "left_out_annotations": 1}


def test_an_unusable_set_can_still_be_checked_to_the_end(root, damage_png):
    edit(root, "val", lambda d: d["categories"][0].update(name="kiwi"))
    file = root / "images" / "train" / "three.png"
    damage_png(file)
    with pytest.raises(UnusableData) as error:
        CocoDataModule(root=root)
    assert len(error.value.problems) == 1
    found = error.value.datamodule.check(thorough=True)
    assert [(p.item, p.file.name) for p in found] == [
        (3, "instances_train.json"),
        (None, "instances_val.json"),
    ]


def test_large_sets_are_checked_by_name_only(root, monkeypatch):
    spoil(root)
    monkeypatch.setattr(coco_files, "HEADER_LIMIT", 2)
    with pytest.raises(DataProblems) as error:
        CocoDataModule(root=root)
    # the size of test image 11 is compared when it is read
    assert [p.item for p in error.value.problems] == [3, 7, 3]
    assert [p.item for p in error.value.datamodule.check(thorough=True)] == [3, 7, 3, 11]


def test_a_checkpoint_reads_and_checks_only_what_it_uses(root):
    trained = CocoDataModule(root=root)
    train, _, test = spoil(root)
    data = CocoDataModule(root=root, category_map=trained.category_map.to_dict())
    with pytest.raises(DataProblems) as error:
        data.ground_truth("test")
    assert [p.file for p in error.value.problems] == [test]
    skip = CocoDataModule(root=root, category_map=trained.category_map.to_dict(), bad_data="skip")
    assert len(skip.ground_truth("test")["images"]) == 2
    assert [p.file for p in skip.problems] == [test]
    assert len(skip.check()) == 4
    assert set(skip.summary()) == {"train", "val", "test"}
    assert train in {p.file for p in skip.check()}


@pytest.mark.parametrize("name", ["coco_small", "dsb2018_fluo", "coco_native_demo"])
def test_real_data_have_no_problem(shared_data, name):
    folder = shared_data(name)
    paths = {"root": folder}
    if name == "coco_native_demo":  # one split, images in one folder
        file = folder / "annotations" / "instances_val.json"
        paths = {"train_images": folder / "images", "train_annotations": file}
    data = CocoDataModule(**paths)
    assert data.check(thorough=True) == []
    assert data.summary()["train"]["pictures"] == len(data.source("train"))


def test_generated_data_have_no_problem():
    data = DigitScenesDataModule(train_scenes=4, val_scenes=2, test_scenes=3)
    assert data.check(thorough=True) == []
    assert data.summary() == {
        split: {"pictures": number, "categories": 10}
        for split, number in (("train", 4), ("val", 2), ("test", 3))
    }
