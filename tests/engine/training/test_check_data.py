"""`evaluate.py check-data` on a folder with a fault of every kind, and on data without any."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluate
import train

ROOT = Path(__file__).resolve().parents[3]
SQUARE = [[2, 2, 8, 2, 8, 8, 2, 8]]
TINY = [
    "--config", "configs/quickstart/mask_rcnn.yaml", "--config", "configs/_base/data/coco.yaml",
    "--data.train_short_sides", "null", "--data.eval_short_side", "null", "--data.num_workers", "0",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def check(*arguments):
    return evaluate.main(["check-data", *map(str, arguments)])


def one(number, image, **change):
    shape = {"segmentation": SQUARE, "bbox": [2, 2, 6, 6], "area": 36}
    return {"id": number, "image_id": image, "category_id": 1, "iscrowd": 0} | shape | change


def write(root, split, annotations, categories, count=8):
    """Write images 1 to 8 of 32 x 40 px, drawn but for what the test then spoils."""
    folder = root / "images" / split
    folder.mkdir(parents=True)
    images = [
        {"id": n, "file_name": f"{n}.png", "height": 32, "width": 40} for n in range(1, count + 1)
    ]
    for image in images:
        pixels = np.random.default_rng(image["id"]).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"])
    file = root / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def faulty(tmp_path):
    """Write a set with every kind of fault that can be left out; return its two files."""
    annotations = [
        one(1, 1),
        one(2, 2, segmentation=[[1, 1, 4, 4]]),
        one(3, 2, segmentation=[[100, 100, 120, 100, 120, 120]]),
        one(4, 1, bbox=[2, 2, 0, 5]),
        one(5, 1, segmentation={"size": [40, 32], "counts": [1280]}),
        one(6, 1, category_id=9),
        one(7, 99),
        one(1, 6),  # an id that was there
        one(8, 6, segmentation=[]),
        one(9, 4),  # of images that cannot be used
        one(10, 5),
        one(11, 6, segmentation={"size": [32, 40], "counts": "5"}),
        one(12, 3, area=float("nan")),
    ]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    train_file = write(tmp_path, "train", annotations, categories)
    val_file = write(tmp_path, "val", [one(1, 1), one(2, 1, iscrowd=7)], categories, count=3)
    folder = tmp_path / "images" / "train"
    (folder / "4.png").unlink()
    whole = (folder / "5.png").read_bytes()
    (folder / "5.png").write_bytes(whole[: len(whole) // 2])
    (folder / "7.png").write_text("no image")
    Image.new("RGB", (9, 9)).save(folder / "8.png")
    return train_file, val_file


EXPECTED = [  # item, annotation, part of the reason
    (4, None, "4.png is missing"),
    (5, None, "5.png cannot be read: image file is truncated"),
    (7, None, "7.png cannot be read"),
    (8, None, "8.png is 9 px high and 9 px wide, but the annotations say 32 and 40"),
    (6, 1, "annotation id 1 occurs twice"),
    (2, 2, "4 numbers, fewer than 6"),
    (2, 3, "lies outside the image"),
    (1, 4, "bbox [2, 2, 0, 5] has no area"),
    (1, 5, "run-length mask of size [40, 32] in an image of [32, 40]"),
    (1, 6, "category 9 is not declared"),
    (99, 7, "no such image"),
    (6, 8, "has no polygon"),
    (6, 11, "run lengths cover 5 of 1280 pixels"),
    (3, 12, "area is nan"),
]


def matches(record, file, item, annotation, reason):
    place = record["file"], record["item"], record["annotation"]
    return place == (str(file), item, annotation) and reason in record["reason"]


def test_every_fault_of_every_split_is_listed(faulty, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert check(*TINY, "--data.root", tmp_path, "--out", out) == 2
    shown, errors = capsys.readouterr()
    record = json.loads(out.read_text())
    expected = [(faulty[0], *row) for row in EXPECTED] + [(faulty[1], 1, 2, "iscrowd is 7")]
    assert len(record["problems"]) == len(expected)
    for found, row in zip(record["problems"], expected, strict=True):
        assert matches(found, *row)
        assert found["remedy"]
        assert str(row[1]) in shown
    assert record["passed"] is False
    assert record["counts"] == {
        "train": {
            "pictures": 8,
            "annotations": 13,
            "categories": 2,
            "left_out_pictures": 4,
            "left_out_annotations": 12,
        },
        "val": {
            "pictures": 3,
            "annotations": 2,
            "categories": 2,
            "left_out_pictures": 0,
            "left_out_annotations": 1,
        },
    }
    assert "error: 15 problem(s)" in errors
    assert "--data.bad_data skip" in errors
    assert "configs/quickstart/mask_rcnn.yaml" in record["files"]


def test_what_cannot_be_left_out_is_listed_beside_the_rest(faulty, tmp_path, capsys):
    content = json.loads(faulty[1].read_text())
    content["categories"][1]["name"] = "z"
    faulty[1].write_text(json.dumps(content))
    out = tmp_path / "out.json"
    skip = ["--bad-data", "skip", "--out", out]
    assert check(*TINY, "--data.root", tmp_path, *skip) == 2
    problems = json.loads(out.read_text())["problems"]
    assert len(problems) == 16  # the truncated image is still found
    assert "category id 2 is 'z' here and 'b' in" in problems[-1]["reason"]
    assert "error: 16 problem(s), listed above; fix them\n" in capsys.readouterr().err


def test_repair_keeps_what_skip_leaves_out(faulty, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert check(*TINY, "--data.root", tmp_path, "--out", out) == 2
    assert "mend what can be mended by --data.bad_data repair" in capsys.readouterr().err
    remedies = [p["remedy"] for p in json.loads(out.read_text())["problems"]]
    assert sum("or use bad_data: repair" in remedy for remedy in remedies) == 2
    words = ["--data.root", tmp_path, "--data.bad_data", "repair", "--out", out]
    assert check(*TINY, *words) == 0
    shown = capsys.readouterr().out
    assert "repaired: 1 x bbox ... has no area; 1 x area is ..." in shown
    assert "repaired: computed the box" in shown and "not repaired: " in shown
    record = json.loads(out.read_text())
    assert record["counts"]["train"]["left_out_annotations"] == 10
    assert record["counts"]["train"]["repaired_annotations"] == 2
    mended = [p["annotation"] for p in record["problems"] if p.get("repaired")]
    assert mended == [4, 12]


def test_boxes_of_coco_without_area_do_not_stop_a_run(tmp_path, capsys):
    """The two of train2017, as they are there but for their place."""
    first = {"segmentation": [[9.5, 8.33, 9.5, 8.33, 10.53, 8.33, 10.53, 8.33]], "area": 0.0}
    second = {"segmentation": [[9.98, 18.56, 15.52, 18.56, 15.52, 18.56, 11.09, 18.56]]}
    flat = [
        one(918, 1, **first, bbox=[9.5, 8.33, 1.03, 0.0]),
        one(2206849, 2, **second, bbox=[9.98, 18.56, 5.54, 0.0], area=0.0),
    ]
    categories = [{"id": 1, "name": "a"}]
    train_file = write(tmp_path, "train", [one(1, 1), *flat], categories)
    write(tmp_path, "val", [one(1, 1)], categories)
    out = tmp_path / "out.json"
    assert check(*TINY, "--data.root", tmp_path, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "no problem found" in shown
    text = "2 annotation(s) whose box and mask have no area are left out: 918, 2206849"
    record = json.loads(out.read_text())
    assert record["notes"] == [f"{train_file}: {text}"]
    assert record["counts"]["train"]["left_out_annotations"] == 2
    assert text in shown


@pytest.mark.slow
def test_training_stops_at_the_same_faults_and_goes_on_without_them(faulty, tmp_path, capsys):
    fit = ["fit", *TINY, "--data.root", str(tmp_path), "--runs_dir", str(tmp_path)]
    fit += ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
    assert train.main(fit) == 2
    shown = capsys.readouterr().err
    assert shown.count(str(faulty[0]) + ", ") == 14
    assert "annotation 2: iscrowd is 7" in shown
    assert check(*TINY, "--data.root", tmp_path, "--bad-data", "skip") == 0
    assert train.main([*fit, "--data.bad_data", "skip"]) == 0


def test_an_image_that_breaks_after_the_checks_ends_with_code_2(tmp_path, damage_png, capsys):
    categories = [{"id": 1, "name": "a"}]
    write(tmp_path, "train", [one(1, 1)], categories, count=2)
    write(tmp_path, "val", [one(1, 1)], categories, count=1)
    for number in (1, 2):
        file = tmp_path / "images" / "train" / f"{number}.png"
        damage_png(file)
    fit = ["fit", *TINY, "--data.root", str(tmp_path), "--runs_dir", str(tmp_path)]
    fit += ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
    assert train.main(fit) == 2
    shown = capsys.readouterr().err
    assert "error: image " in shown
    assert ".png cannot be read: " in shown
    assert "Traceback" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("limit", [5000, 0])
@pytest.mark.parametrize("form", ["coco", "yolo_txt"])
def test_images_that_all_turn_out_broken_cannot_be_skipped(
    tmp_path, damage_png, monkeypatch, form, limit
):
    for module in ("coco_files", "yolo_txt"):  # 0: only the check of all pixels finds it
        monkeypatch.setattr(f"datamodules.seg.{module}.HEADER_LIMIT", limit)
    recipe = [word.replace("data/coco", f"data/{form}") for word in TINY]
    for split in ("train", "val"):
        write(tmp_path, split, [one(1, 1)], [{"id": 1, "name": "a"}], count=2)
        labels = tmp_path / "labels" / split
        labels.mkdir(parents=True)
        (labels / "1.txt").write_text("0 .1 .1 .8 .1 .8 .8\n")
    (tmp_path / "data.yaml").write_text("{train: images/train, val: images/val, names: [a]}")
    assert check(*recipe, "--data.root", tmp_path) == 0
    for number in (2, 1):  # the first has the only object
        file = tmp_path / "images" / "val" / f"{number}.png"
        damage_png(file)
        skip = ["--data.root", tmp_path, "--bad-data", "skip"]
        assert check(*recipe, *skip) == (0 if number == 2 else 2)


def test_the_policy_of_the_recipe_counts(tmp_path, capsys):
    write(tmp_path, "train", [one(1, 1), one(2, 1, iscrowd=7)], [{"id": 1, "name": "a"}])
    write(tmp_path, "val", [one(1, 1)], [{"id": 1, "name": "a"}])
    assert check(*TINY, "--data.root", tmp_path) == 2
    assert "--data.bad_data skip" in capsys.readouterr().err
    assert check(*TINY, "--data.root", tmp_path, "--data.bad_data", "skip") == 0
    assert "iscrowd is 7" in capsys.readouterr().out


def test_a_missing_file_or_folder(tmp_path, capsys):
    assert check(*TINY, "--data.root", tmp_path / "nowhere") == 2
    assert "nowhere" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "recipe",
    [
        ["--config", "configs/quickstart/abmil.yaml"],
        ["--config", "configs/quickstart/mask_rcnn.yaml", "--data.test_scenes", "7"],
    ],
)
def test_generated_data_pass(tmp_path, capsys, recipe):
    assert check(*recipe, "--out", tmp_path / "out.json") == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["passed"] is True
    assert record["problems"] == []
    test = record["counts"]["test"]
    assert (test.get("bags"), test.get("pictures")) in ((500, None), (None, 7))
    assert "no problem found" in capsys.readouterr().out


def test_a_wrong_augmentation_is_told_without_training(capsys):
    recipe = ["--config", "configs/quickstart/mask_rcnn.yaml"]
    assert check(*recipe, "--data.augmentations", '[{"name": "Flipp"}]') == 2
    assert "Flipp" in capsys.readouterr().err
