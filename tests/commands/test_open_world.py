"""`evaluate.py open-world` and `make-split` as a user types them."""

import json

import pytest

import evaluate
from datamodules.seg.digit_scenes import DigitScenesDataModule
from evaluation.open_world.protocols import PROTOCOLS, evaluate_protocol
from formats.coco.splits import CategorySplit, shipped_split
from tests.support.open_world import KNOWN, make_scenes
from tests.support.tiny_checkpoints import MASK_RCNN, write_checkpoint


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


@pytest.fixture
def files(tmp_path):
    truth, rows = make_scenes(1)
    files = tmp_path / "truth.json", tmp_path / "found.json"
    for file, content in zip(files, (truth, rows), strict=True):
        file.write_text(json.dumps(content))
    return files


def score(files, tmp_path, *more):
    out = tmp_path / "scores.json"
    sources = ["--annotations", files[0], "--predictions", files[1]]
    assert run("open-world", *sources, *more, "--out", out) == 0
    return json.loads(out.read_text())


def test_one_protocol(files, tmp_path, capsys):
    known = [str(i) for i in KNOWN]
    record = score(files, tmp_path, "--protocol", "exclude-known", "--known", *known)
    truth, rows = make_scenes(1)
    split = CategorySplit("ids", KNOWN)
    wanted = evaluate_protocol("exclude-known", truth, rows, split)
    found = record["metrics"]
    assert {k: v for k, v in found.items() if v is not None} == pytest.approx(
        {k: v for k, v in wanted.items() if v == v}
    )
    assert {"segm_map", "segm_map_75", "segm_ar_large", "box_ar_1500", "box_f1"} < set(found)
    assert record["known"] == {"name": "ids", "ids": [*KNOWN], "sha256": split.sha256}
    assert record["max_dets"] == [1, 10, 20, 30, 50, 100, 300, 500, 1000, 1500]
    assert set(record["kept"]) == {"most", "median"}
    assert "exclude-known" in capsys.readouterr().out


def test_several_protocols_caps_and_one_kind(files, tmp_path):
    protocols = ["novel-only", "class-wise", "all"]
    options = ["--max-dets", 5, 50, "--iou-type", "bbox", "--known", "c0", "c4", "--drop-empty"]
    record = score(files, tmp_path, "--protocol", *protocols, *options)
    assert list(record["metrics"]) == record["protocol"] == protocols
    assert set(record["metrics"]["class-wise"]) == {"box_ar_5", "box_ar_50"}
    assert record["metrics"]["all"]["box_auc"] is None
    assert record["max_dets"]["all"] == [5, 50]


def test_all_needs_no_known_categories(files, tmp_path):
    assert score(files, tmp_path, "--protocol", "all")["known"] is None


def test_lvis_ow_from_a_file(files, tmp_path):
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"name": "four", "known": [0, 4], "seen": [3], "unseen": [7]}))
    record = score(files, tmp_path, "--protocol", "lvis-ow", "--known", split)
    assert record["max_dets"] == [100]
    assert {"segm_ar_100", "segm_ar_100_unseen", "box_ar_100_seen"} <= set(record["metrics"])
    assert record["known"]["name"] == "four"


@pytest.fixture(scope="module")
def closed_world(tmp_path_factory):
    """Return a checkpoint of the ten digits, and scenes that have other objects too."""
    folder = tmp_path_factory.mktemp("closed")
    checkpoint = write_checkpoint(folder / "tiny.ckpt", MASK_RCNN)
    images, annotations = DigitScenesDataModule(val_scenes=3).write_split("val", folder)
    truth = json.loads(annotations.read_text())
    truth["categories"].append({"id": 50, "name": "letter"})
    truth["annotations"][0]["category_id"] = 50
    annotations.write_text(json.dumps(truth))
    return checkpoint, images, annotations


def test_a_model_of_known_classes_meets_all_objects(closed_world, tmp_path):
    """Objects of categories that the checkpoint does not know are novel ones, not left out."""
    checkpoint, images, annotations = closed_world
    out, found = tmp_path / "scores.json", tmp_path / "found.json"
    sources = ["--annotations", annotations, "--known", *range(1, 11)]
    words = ["--protocol", "exclude-known", "--iou-type", "bbox", "--out", out]
    of_checkpoint = ["--ckpt", checkpoint, "--images", images, "--save-predictions", found]
    assert run("open-world", *words, *sources, *of_checkpoint) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics["box_ar_100"] is not None  # there is a novel object
    assert run("open-world", *words, *sources, "--predictions", found) == 0
    assert json.loads(out.read_text())["metrics"] == metrics


def test_a_checkpoint_without_a_split_needs_known_categories(closed_world, capsys):
    checkpoint, images, annotations = closed_world
    words = ["--ckpt", checkpoint, "--images", images, "--annotations", annotations]
    assert run("open-world", "--protocol", "exclude-known", *words) == 2
    message = capsys.readouterr().err
    assert "tiny.ckpt: was trained without known categories; name them" in message


def test_rows_that_end_at_a_cap_are_warned_about(files, tmp_path):
    _, rows = make_scenes(1)
    image = max({row["image_id"] for row in rows}, key=[r["image_id"] for r in rows].count)
    most = sum(row["image_id"] == image for row in rows)
    with pytest.warns(UserWarning, match=f"at most {most} detections, exactly a cap"):
        score(files, tmp_path, "--protocol", "all", "--max-dets", 1, most)


def test_the_command_names_all_protocols():
    from commands.open_world import PROTOCOLS as NAMED

    assert NAMED == PROTOCOLS


def test_make_split_writes_a_data_set(tmp_path, capsys):
    names = shipped_split("lvis-ow").names
    content = {
        "images": [{"id": i, "height": 9, "width": 9, "file_name": f"{i}.jpg"} for i in (1, 2)],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 793, "bbox": [0, 0, 4, 4], "area": 16},
            {"id": 6, "image_id": 2, "category_id": 2, "bbox": [0, 0, 4, 4], "area": 16},
        ],
        "categories": [{"id": i, "name": name} for i, name in names.items()],
    }
    val = dict(content, images=[dict(content["images"][0], id=3)], annotations=[])
    for name, part in (("train", content), ("val", val)):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    words = ["--train", tmp_path / "train.json", "--val", tmp_path / "val.json"]
    assert run("make-split", "--name", "lvis-ow", *words, "--out", tmp_path / "ow") == 0
    written = json.loads((tmp_path / "ow/annotations/instances_train.json").read_text())
    assert [a["id"] for a in written["annotations"]] == [5]
    assert "moved_images" in capsys.readouterr().out


def test_make_split_replaces_no_input(tmp_path, capsys):
    file = tmp_path / "annotations" / "instances_train.json"
    file.parent.mkdir()
    file.write_text("{}")
    words = ["--train", file, "--val", file, "--out", tmp_path]
    assert run("make-split", "--name", "lvis-ow", *words) == 2
    assert "would replace" in capsys.readouterr().err
    assert file.read_text() == "{}"
