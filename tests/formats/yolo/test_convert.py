import json

import pytest

import evaluate
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.yolo_txt import YoloTxtDataModule
from formats.yolo.convert import convert, yolo_to_coco
from structures import DataProblems
from structures.rle import RLEMasks

TEXT = {
    "a.png": ((48, 64), "1 0.1 0.1 0.523438 0.11 0.5 0.771 0.12 0.6\n0 0 0 1 0 1 1\n"),
    "deep/b.png": ((33, 57), "0 0.333333 0.25 0.666667 0.5 0.4 0.875\n"),
    "c.png": ((20, 20), None),
}


@pytest.fixture
def yolo(tmp_path, write_yolo):
    return write_yolo(tmp_path / "yolo", {"train": TEXT, "val": TEXT})


def test_the_coco_dictionary(yolo):
    content, folder, counts = yolo_to_coco(yolo, "train")
    assert folder == yolo.parent / "images" / "train"
    assert counts == {
        "pictures": 3,
        "pictures_without_objects": 1,
        "objects": 3,
        "objects_without_pixel": 0,
        "problems_left_out": 0,
    }
    assert [i["file_name"] for i in content["images"]] == ["a.png", "c.png", "deep/b.png"]
    upper = content["annotations"][1]  # the upper right half of 64 x 48
    assert upper["segmentation"] == [[0, 0, 64, 0, 64, 48]]
    assert upper["bbox"] == [0, 0, 64, 48]
    # The area is that of the mask. Row j of column x is in where j + .5 < .75 (x + .5), so
    # columns 4k to 4k + 3 hold 3k, 3k + 1, 3k + 2 and 3k + 3 pixels: 16 x 6 + 12 (0 + ... + 15).
    assert upper["area"] == 1536


def test_lines_come_back_up_to_rounding(yolo, tmp_path):
    content, folder, _ = yolo_to_coco(yolo, "train")
    file = tmp_path / "instances_train.json"
    file.write_text(json.dumps(content))
    out = tmp_path / "back"
    convert("coco", "yolo", out, annotations=file, images=folder)
    for name, (_, text) in TEXT.items():
        lines = (out / "labels/train" / name).with_suffix(".txt").read_text().splitlines()
        for line, old in zip(lines, (text or "").splitlines(), strict=True):
            words, before = line.split(), old.split()
            assert words[0] == before[0]
            # 5e-7 pixels of rounding, as a fraction of at least 20 pixels
            assert [*map(float, words[1:])] == pytest.approx([*map(float, before[1:])], abs=3e-8)
    again = convert("yolo", "coco", out, data_yaml=out / "data.yaml", split="train").content
    assert again["annotations"] == content["annotations"]
    assert again["images"] == content["images"]


@pytest.mark.slow
def test_coco_sets_come_back_with_their_masks(shared_data, tmp_path):
    """195 + 120 images of COCO, and nuclei as run lengths: every mask is the same to the bit."""
    for name, split, kinds in (
        ("coco_small", "val", {"kept": 1030, "joined": 73, "traced": 5, "crowds_left_out": 13}),
        ("dsb2018_fluo", "val", {"kept": 0, "joined": 0, "traced": 2090, "crowds_left_out": 0}),
    ):
        source = shared_data(name)
        annotations = source / "annotations" / f"instances_{split}.json"
        images = source / "images" / split
        out = tmp_path / name
        done = convert(
            "coco",
            "yolo",
            out,
            annotations=annotations,
            images=images,
            skip_crowds=True,
            placing="link",
        )
        assert {k: done.counts[k] for k in kinds} == kinds
        (out / "data.yaml").write_text((out / "data.yaml").read_text() + "train: images/val\n")
        after = YoloTxtDataModule(root=out).source("val").store
        before = (
            CocoDataModule(train_annotations=annotations, train_images=images).source("train").store
        )
        numbers = {after.name(k): k for k in range(len(after))}
        for k in range(len(before)):
            old, new = before.image(k), after.image(numbers[before.name(k)])
            kept = (~old.crowd).nonzero()[0]
            assert old.labels[kept].tolist() == new.labels.tolist()
            assert RLEMasks.to_coco(old.masks.select(kept)) == RLEMasks.to_coco(new.masks)


def test_arguments_that_are_missing(yolo, tmp_path):
    with pytest.raises(ValueError, match="changes nothing"):
        convert("yolo", "yolo", tmp_path)
    with pytest.raises(ValueError, match="needs --annotations"):
        convert("coco", "yolo", tmp_path, annotations=yolo)
    with pytest.raises(ValueError, match="needs --data"):
        convert("yolo", "coco", tmp_path, data_yaml=yolo)


def test_bad_lines(yolo):
    (yolo.parent / "labels/train/c.txt").write_text("0 1 2 3 4 5 6\n0 0 0 1 0 1 1\n")
    with pytest.raises(DataProblems, match=r"image c\.png, line 1: the coordinate 6 is outside"):
        yolo_to_coco(yolo, "train")
    content, _, counts = yolo_to_coco(yolo, "train", bad_data="skip")
    assert (counts["objects"], counts["problems_left_out"]) == (4, 1)
    assert len(content["annotations"]) == 4
    with pytest.raises(DataProblems, match="has no test split"):
        yolo_to_coco(yolo, "test", bad_data="skip")


def test_command_line(yolo, tmp_path, capsys):
    """There and back through the command, and the way in which faults leave it."""
    file, out = tmp_path / "instances_val.json", tmp_path / "back"
    there = ["convert", "--from", "yolo", "--to", "coco", "--data", str(yolo), "--split", "val"]
    report = tmp_path / "report.json"
    assert evaluate.main([*there, "--out", str(file), "--report", str(report)]) == 0
    assert "pictures_without_objects" in capsys.readouterr().out
    assert json.loads(report.read_text())["metrics"]["objects"] == 3
    back = ["convert", "--from", "coco", "--to", "yolo", "--annotations", str(file)]
    back += ["--images", str(yolo.parent / "images/val"), "--out", str(out)]
    assert evaluate.main(back) == 0
    lines = (out / "labels/val/deep/b.txt").read_text()
    assert lines == TEXT["deep/b.png"][1]
    capsys.readouterr()
    assert evaluate.main(back) == 2
    assert "already has a val split" in capsys.readouterr().err
    assert evaluate.main([*there[:-1], "nope", "--out", str(file)]) == 2
    assert "has no nope split, only train, val" in capsys.readouterr().err
