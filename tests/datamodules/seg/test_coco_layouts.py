"""The folder of a set is enough, whatever tool has written it; named files win."""

import json
import shutil

import pytest

from datamodules.seg.coco import CocoDataModule
from datamodules.seg.coco_layouts import SPLITS, fitting, locate

NOTHING = dict.fromkeys(SPLITS, (None, None))


def place(root, annotations, images):
    file = root / annotations
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    (root / images).mkdir(parents=True, exist_ok=True)


def relative(root, found):
    return {
        split: pair and tuple(str(path.relative_to(root)) for path in pair)
        for split, pair in found.items()
    }


@pytest.mark.parametrize(
    ("layout", "train", "val"),
    [
        (
            "segmil",
            ("images/train", "annotations/instances_train.json"),
            ("images/val", "annotations/instances_val.json"),
        ),
        (
            "COCO 2017",
            ("train2017", "annotations/instances_train2017.json"),
            ("val2017", "annotations/instances_val2017.json"),
        ),
        (
            "COCO 2014",
            ("images/train2014", "annotations/instances_train2014.json"),
            ("images/val2014", "annotations/instances_val2014.json"),
        ),
        (
            "Roboflow",
            ("train", "train/_annotations.coco.json"),
            ("valid", "valid/_annotations.coco.json"),
        ),
    ],
)
def test_each_layout_is_found(tmp_path, layout, train, val):
    for images, annotations in (train, val):
        place(tmp_path, annotations, images)
    assert [found.name for found in fitting(tmp_path)] == [layout]
    found = relative(tmp_path, locate(tmp_path, NOTHING)[0])
    assert found == {"train": train, "val": val, "test": None}


def test_several_layouts_are_named(tmp_path):
    place(tmp_path, "annotations/instances_train.json", "images/train")
    place(tmp_path, "annotations/instances_val2017.json", "val2017")
    message = (
        r"has the files of 2 layouts: annotations/instances_train\.json \(segmil\); annotations/"
        r"instances_val2017\.json \(COCO 2017\); name those to use by data\.train_annotations"
    )
    with pytest.raises(ValueError, match=message):
        locate(tmp_path, NOTHING)
    shutil.rmtree(tmp_path / "val2017")  # of the other layout only the annotations are there
    assert relative(tmp_path, locate(tmp_path, NOTHING)[0])["val"] is None


def test_named_files_win(tmp_path):
    place(tmp_path, "train/_annotations.coco.json", "train")
    place(tmp_path, "valid/_annotations.coco.json", "valid")
    named = tmp_path / "other.json"
    found, _ = locate(tmp_path, NOTHING | {"val": (None, named)})
    assert found["val"] == (tmp_path / "valid", named)
    found, _ = locate(tmp_path, NOTHING | {"val": (tmp_path / "a", None)})
    assert found["val"] == (tmp_path / "a", tmp_path / "valid" / "_annotations.coco.json")
    found, looked = locate(None, {"train": ("a", "b.json")})
    assert looked == {}
    assert [str(path) for path in found["train"]] == ["a", "b.json"]


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ("..", "did you mean {root}?"),  # one level too high
        ("annotations", "did you mean {root}?"),  # one level too low
        ("yolo", "add --config configs/_base/data/yolo_txt.yaml"),
        ("empty", "name the files by data.train_annotations"),
    ],
)
def test_a_wrong_folder_is_told_with_what_was_looked_for(tmp_path, where, hint):
    root = tmp_path / "set"
    place(root, "annotations/instances_train.json", "images/train")
    for name in ("yolo", "empty"):
        (root / "images" / name).mkdir()
    (root / "images" / "yolo" / "data.yaml").touch()
    folder = root / where if where in ("..", "annotations") else root / "images" / where
    with pytest.raises(ValueError, match="no annotation file in a known place") as error:
        locate(folder.resolve(), NOTHING)
    for text in ("instances_train.json", "instances_train2017.json", "train/_annotations.coco"):
        assert text in str(error.value)
    assert hint.format(root=root) in str(error.value)


def test_a_roboflow_set_gives_what_our_layout_does(tmp_path, write_coco, small_coco):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for split, name in (("train", "train"), ("val", "valid")):
        write_coco(ours, split, **small_coco)
        shutil.copytree(ours / "images" / split, theirs / name)
        content = json.loads((ours / "annotations" / f"instances_{split}.json").read_text())
        if split == "train":
            one = content["categories"]
        (theirs / name / "_annotations.coco.json").write_text(json.dumps(content))
    first, second = CocoDataModule(root=ours), CocoDataModule(root=theirs)
    assert first.category_map == second.category_map
    assert len(first.category_map) == len(one)
    assert first.ground_truth("val") == second.ground_truth("val")
