"""`evaluate.py` on files with many faults at once: all are told, exit code 2; or skipped."""

import json
from argparse import Namespace

import pytest

import evaluate
from commands._sources import ground_truth
from datamodules.seg.digit_scenes import DigitScenesDataModule

IMAGE = {"height": 10, "width": 10}
OBJECT = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}
HIT = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "score": 0.9}
TRUTH = {
    "images": [{"id": 1, "file_name": "a.png"} | IMAGE, {"id": 2, "file_name": "b.png"} | IMAGE],
    "categories": [{"id": 3, "name": "a"}],
    "annotations": [OBJECT | {"id": 1}],
}
BAD_ROWS = [
    HIT | {"score": None},
    HIT | {"image_id": 7},
    HIT | {"category_id": 0},
    HIT | {"segmentation": {"size": [4, 4], "counts": [16]}},
]


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


@pytest.fixture
def write(tmp_path):
    def save(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return save


@pytest.mark.parametrize("command", ["coco", "operating-point"])
def test_predictions(write, tmp_path, capsys, command):
    truth = write("truth.json", TRUTH)
    found = write("found.json", [HIT, *BAD_ROWS])
    out = tmp_path / "out.json"
    arguments = [command, "--predictions", found, "--annotations", truth, "--out", out]
    assert run(*arguments) == 2
    shown = capsys.readouterr().err
    for row, reason in enumerate(
        ["score is None", "image_id 7", "category_id 0", "RLE of size [4, 4]"], start=1
    ):
        assert f"row {row}: {reason}" in shown
    assert shown.count(str(found)) == 4
    assert "Traceback" not in shown
    assert not out.exists()
    assert run(*arguments, "--bad-data", "skip") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"skipped: 4 problem(s) of {found}" in shown
    record = json.loads(out.read_text())
    assert record["skipped"] == {str(found): 4}
    metrics = record["metrics"].get(str(found), record["metrics"])
    value = metrics["box_map" if command == "coco" else "micro_precision"]
    assert value == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("content", ["{", "null", "{}", "7", '"rows"', json.dumps(TRUTH)])
def test_predictions_that_are_no_list(write, capsys, content):
    truth, found = write("truth.json", TRUTH), write("found.json", content)
    for policy in ("error", "skip"):
        arguments = ["--annotations", truth, "--bad-data", policy]
        assert run("coco", "--predictions", found, *arguments) == 2
        shown = capsys.readouterr().err
        assert shown.startswith(f"error: {found}: ")
        assert "Traceback" not in shown


def test_class_agnostic_scoring_still_wants_known_images(write, capsys):
    truth = write("truth.json", TRUTH)
    found = write("found.json", [HIT | {"category_id": 99}, HIT | {"image_id": 7}])
    arguments = ["coco", "--predictions", found, "--annotations", truth, "--class-agnostic"]
    assert run(*arguments) == 2
    shown = capsys.readouterr().err
    assert "row 1: image_id 7" in shown
    assert "category_id 99" not in shown


def test_ground_truth_and_its_images(write, tmp_path, capsys):
    bad = [
        OBJECT | {"id": 2, "bbox": [0, 0, 0, 4]},
        OBJECT | {"id": 3, "category_id": 8},
        OBJECT | {"id": 4, "image_id": 9},
        OBJECT | {"id": 5, "segmentation": [[50, 50, 60, 50, 60, 60]]},
    ]
    truth = write("truth.json", TRUTH | {"annotations": [OBJECT | {"id": 1}, *bad]})
    found = write("found.json", [HIT, HIT | {"image_id": 2}])
    arguments = ["coco", "--predictions", found, "--annotations", truth]
    assert run(*arguments) == 2
    shown = capsys.readouterr().err
    for number, reason in ((2, "has no area"), (3, "category 8"), (4, "no such imag"), (5, "outs")):
        assert f"annotation {number}: " in shown
        assert reason in shown
    assert run(*arguments, "--bad-data", "skip") == 0
    capsys.readouterr()
    from PIL import Image

    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert run(*arguments, "--images", tmp_path) == 2
    assert f"image 2: image file {tmp_path / 'b.png'} is missing" in capsys.readouterr().err
    out = tmp_path / "out.json"
    skip = ["--images", tmp_path, "--bad-data", "skip", "--out", out]
    assert run(*arguments, *skip) == 0  # the detection in the missing image is left out as well
    assert json.loads(out.read_text())["skipped"] == {str(truth): 5, str(found): 1}


def test_bag_tables(write, tmp_path, capsys):
    lines = ["a,1,0.9", "b,0,0.2", "c,1,nan", "d,5,0.5", "a,1,0.9", "e,1,0.7", "f,0,0.1", "g,,0.4"]
    table = write("bags.csv", "bag_id,label,score\n" + "\n".join(lines) + "\n")
    out = tmp_path / "out.json"
    arguments = ["mil", "--predictions", table, "--draws", 20, "--out", out]
    assert run(*arguments) == 2
    shown = capsys.readouterr().err
    for text in (
        "line 4: score is 'nan'",
        "line 5: label is '5'",
        "line 6: bag a",
        "line 9: label",
    ):
        assert text in shown
    assert run(*arguments, "--bad-data", "skip") == 0
    record = json.loads(out.read_text())
    assert [bag["bag_id"] for bag in record["bags"]] == ["a", "b", "e", "f"]
    assert record["skipped"] == {str(table): 4}
    assert record["metrics"]["bag_auroc"] == 1.0


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_bag_tables_of_several_classes(write, tmp_path, task):
    head = "label" if task == "multiclass" else "label_0,label_1,label_2"
    label = {"multiclass": "{0}", "multilabel": "{1},{2},{3}"}[task]
    lines = [
        f"b{k}," + label.format(k % 3, *(int(k % 3 == c) for c in range(3)))
        + "".join(f",{0.8 if k % 3 == c else 0.1}" for c in range(3))
        for k in range(12)
    ]  # fmt: skip
    header = f"bag_id,{head},score_0,score_1,score_2\n"
    table, out = write("bags.csv", header + "\n".join(lines) + "\n"), tmp_path / "out.json"
    assert run("mil", "--predictions", table, "--draws", 20, "--out", out) == 0
    assert json.loads(out.read_text())["metrics"]["bag_auroc"] == 1.0


def test_our_own_files_pass_every_check(tmp_path):
    DigitScenesDataModule(val_scenes=3).write_split("val", tmp_path)
    truth = tmp_path / "annotations" / "instances_val.json"
    rows = [
        {k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 1.0}
        for a in json.loads(truth.read_text())["annotations"]
    ]
    found, out = tmp_path / "found.json", tmp_path / "out.json"
    found.write_text(json.dumps(rows))
    images = tmp_path / "images" / "val"
    arguments = ["--annotations", truth, "--images", images, "--out", out]
    assert run("coco", "--predictions", found, *arguments) == 0
    record = json.loads(out.read_text())
    assert record["skipped"] == {}
    assert record["metrics"]["segm_map"] == 1.0


def test_flags_of_a_recipe_belong_to_check_data_alone(capsys):
    assert run("mil", "--predictions", "a.csv", "--data.root", "b") == 2
    assert "unrecognized arguments: --data.root b" in capsys.readouterr().err


def test_the_truth_for_a_checkpoint_lacks_the_images_that_prediction_leaves_out(tmp_path):
    DigitScenesDataModule(val_scenes=3).write_split("val", tmp_path)
    truth = tmp_path / "annotations" / "instances_val.json"
    broken = tmp_path / "images" / "val" / json.loads(truth.read_text())["images"][1]["file_name"]
    broken.write_bytes(broken.read_bytes()[:2000])
    given = {"annotations": truth, "images": None, "bad_data": "skip"}
    content, skipped = ground_truth(Namespace(ckpt=[tmp_path / "a.ckpt"], **given))
    assert [image["id"] for image in content["images"]] == [1, 3]
    assert {a["image_id"] for a in content["annotations"]} == {1, 3}
    assert [problem.item for problem in skipped] == [2]
    content, skipped = ground_truth(Namespace(ckpt=None, **given))
    assert (len(content["images"]), skipped) == (3, ())
