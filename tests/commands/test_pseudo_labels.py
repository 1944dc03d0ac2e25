"""`evaluate.py pseudo-labels` as a user types it, and training data made of what it writes."""

import json

import pytest

import evaluate
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.digit_scenes import DigitScenesDataModule
from models.seg.mask_rcnn import MaskRCNN
from tests.support.open_world import KNOWN, make_scenes
from tests.support.tiny_checkpoints import MASK_RCNN as TINY
from tests.support.tiny_checkpoints import write_checkpoint


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


@pytest.fixture
def files(tmp_path):
    truth, rows = make_scenes(1)
    files = tmp_path / "truth.json", tmp_path / "found.json"
    for file, content in zip(files, (truth, rows), strict=True):
        file.write_text(json.dumps(content))
    return files


def make(files, tmp_path, *more, known=KNOWN):
    out = tmp_path / "made.json"
    sources = ["--annotations", files[0], "--predictions", files[1], "--known", *known]
    assert run("pseudo-labels", *sources, *more, "--out", out) == 0
    return json.loads(out.read_text())


def test_known_annotations_and_pseudo_labels_are_written(files, tmp_path, capsys):
    report = tmp_path / "counts.json"
    made = make(files, tmp_path, "--score", 0.3, "--report", report)
    truth = json.loads(files[0].read_text())
    known = [a for a in truth["annotations"] if a["category_id"] in KNOWN]
    new = made["annotations"][len(known) :]
    assert made["annotations"][: len(known)] == known
    assert new
    assert all(a["is_pseudo"] == 1 and a["score"] >= 0.3 for a in new)
    record = json.loads(report.read_text())
    assert record["metrics"]["pseudo_labels"] == len(new)
    assert record["metrics"]["detections"] == len(make_scenes(1)[1])
    assert record["known"]["ids"] == [*KNOWN]
    assert "pseudo_labels" in capsys.readouterr().out


def test_novel_annotations_are_never_looked_at(files, tmp_path):
    made = make(files, tmp_path, "--score", 0.3)
    truth = json.loads(files[0].read_text())
    for annotation in truth["annotations"]:
        if annotation["category_id"] not in KNOWN:
            annotation.update(id=10**6, segmentation="nothing", bbox=None, image_id="no image")
    files[0].write_text(json.dumps(truth))
    assert make(files, tmp_path, "--score", 0.3) == made
    files[0].write_text(json.dumps(made))  # a second round starts from the known ones, too
    assert make(files, tmp_path, "--score", 0.3) == made


def test_scores_below_the_threshold_are_named(files, tmp_path):
    rows = [row | {"score": 0.3 * row["score"]} for row in json.loads(files[1].read_text())]
    files[1].write_text(json.dumps(rows))
    with pytest.warns(
        UserWarning, match=r"no detection has a score of 0\.5: the highest is 0\.\d+"
    ):
        made = make(files, tmp_path, "--score", 0.5)
    assert not any(a.get("is_pseudo") for a in made["annotations"])


def test_everything_may_be_known(files, tmp_path):
    made = make(files, tmp_path, known=["c0", "c3", "c4", "c7"])
    assert len(made["categories"]) == 5


def test_of_a_checkpoint_and_training_data_with_them(tmp_path, capsys, monkeypatch):
    """The digits 0 to 4 are known; the labels of the others come from a checkpoint."""
    checkpoint = write_checkpoint(tmp_path / "tiny.ckpt", TINY)
    images, annotations = DigitScenesDataModule(train_scenes=3).write_split("train", tmp_path)
    sources = ["--annotations", annotations, "--ckpt", checkpoint, "--images", images]
    rules = ["--score", 0, "--max-iou", 1, "--nms", 1, "--per-image", 2]
    made = tmp_path / "made.json"
    assert run("pseudo-labels", *sources, *rules, "--out", made) == 2
    assert "tiny.ckpt was trained without any; give --known" in capsys.readouterr().err
    words = ["pseudo-labels", *sources, *rules, "--out", made, "--known", *range(1, 6)]
    with monkeypatch.context() as patch:
        patch.setattr(MaskRCNN, "predicts_masks", False, raising=False)
        assert run(*words) == 2
    assert "tiny.ckpt: its MaskRCNN predicts boxes without masks" in capsys.readouterr().err
    assert run(*words) == 0
    labels = [a for a in json.loads(made.read_text())["annotations"] if a.get("is_pseudo")]
    assert labels
    data = {"train_images": images, "train_annotations": made}
    data |= {"val_images": images, "val_annotations": annotations}
    known = [1, 2, 3, 4, 5]
    learnt = CocoDataModule(**data, known=known, pseudo=True, class_agnostic=True)
    plain = CocoDataModule(**data, known=known, class_agnostic=True)
    number = [len(part.source("train").store.ids) for part in (learnt, plain)]
    assert number[0] - number[1] == len(labels)
    assert learnt.known_split == plain.known_split
