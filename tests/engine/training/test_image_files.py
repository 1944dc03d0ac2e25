"""Photos that EXIF turns, large images and telling data, with the commands that a user types."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from tests.faults import images, sets, yolo

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def photos(tmp_path):
    """Return a folder with an upright photo, and the same as a phone stores it."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    upright, tags = Image.fromarray(pixels), Image.Exif()
    tags[274] = 6
    folder = tmp_path / "photos"
    folder.mkdir()
    upright.save(folder / "a.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "b.png", exif=tags)
    return folder


def rows(folder, image_id):
    found = json.loads((folder / "predict.json").read_text())
    return [{**row, "image_id": 0} for row in found if row["image_id"] == image_id]


@pytest.mark.slow
def test_a_turned_photo_is_predicted_as_it_is_shown(tmp_path, photos):
    words = ["--ckpt_path", sets.seg_checkpoint(), "--data", photos, *sets.CPU]
    words += ["--runs_dir", tmp_path, "--model.init_args.model.init_args.score_thresh", 0]
    assert train.main([str(word) for word in ["predict", *words]]) == 0
    folder = tmp_path / "predict" / "version_0" / "predictions"
    records = json.loads((folder / "predict_images.json").read_text())
    assert [(r["height"], r["width"]) for r in records] == [(64, 96), (64, 96)]
    assert rows(folder, 1)
    assert rows(folder, 1) == rows(folder, 2)
    drawn = [np.asarray(Image.open(folder / "overlays" / f"{n}.png")) for n in "ab"]
    assert np.array_equal(*(image[:320] for image in drawn))  # the file's name is below


@pytest.mark.parametrize("layout", ["coco", pytest.param("yolo", marks=pytest.mark.slow)])
def test_training_starts_on_turned_photos(tmp_path, layout):
    words = [*sets.COCO[1:], "--data.root", str(tmp_path), "--runs_dir", str(tmp_path / "runs")]
    if layout == "coco":
        images.state(sets.write_coco(tmp_path), 20, 32)
    else:
        images.write_turned(yolo.write_yolo(tmp_path) / "images/train/14.jpg")
        words = [word.replace("data/coco.yaml", "data/yolo_txt.yaml") for word in words]
    assert train.main(words) == 0


@pytest.mark.slow
def test_crowded_images_and_rare_classes_are_told_before_training(tmp_path):
    root = sets.write_coco(tmp_path)
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}.json"
        data = json.loads(file.read_text())
        first = data["annotations"][0]
        data["annotations"] += [{**first, "id": 1000 + n} for n in range(150)]
        file.write_text(json.dumps(data))
    with pytest.warns(UserWarning) as warned:
        assert train.main([*sets.COCO[1:], "--data.root", str(root)]) == 0
    told = [str(w.message) for w in warned]
    (crowded,) = [text for text in told if "max_dets" in text]
    assert crowded.startswith("1 of 3 train images and 1 of 3 val images have more than 100")
    assert "(at most 152)" in crowded
    (rare,) = [text for text in told if "imbalanced" in text]
    assert "cell has 152 objects, but dot 1;" in rare


def test_a_batch_norm_with_one_value_names_the_image_and_the_remedy(tmp_path, capsys):
    root = sets.write_coco(tmp_path)
    words = [str(w).replace("quickstart/mask_rcnn", "quickstart/yolo") for w in sets.COCO[1:]]
    words += ["--data.root", str(root), "--data.batch_size", "1", "--data.scale", "1"]
    assert train.main(words) == 2
    message = capsys.readouterr().err
    assert "1 image(s) of 32 x 32 px" in message
    assert "data.batch_size 2 or more" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("workers", [0, 1])
def test_an_augmentation_that_fails_is_named_with_the_image(tmp_path, capsys, workers):
    root = sets.write_coco(tmp_path)
    entries = [{"name": "HorizontalFlip"}, {"name": "TextImage", "font_path": "x.ttf", "p": 1.0}]
    words = ["--data.root", str(root), "--data.augmentations", json.dumps(entries)]
    assert train.main([*sets.COCO[1:], *words, "--data.num_workers", str(workers)]) == 2
    message = capsys.readouterr().err
    assert "augmentations[1] (TextImage) failed with" in message
    assert "image 1" in message
    assert "leave it out (data.augmentations)" in message
    assert "Traceback" not in message
