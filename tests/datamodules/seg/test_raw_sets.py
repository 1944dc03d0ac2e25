"""COCO sets whose images are RAW files: read as `predict` reads them, and what is refused."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import segmil
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.image_folder import ImageFolderDataModule
from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.transforms.raw.low_light import LowLightOptions
from tests.support.dng import scene, write_dng
from tests.support.tiny_checkpoints import YOLO, write_checkpoint

CATEGORIES = {"ids": [1], "names": ["0"]}
FORMS = (None, {"input": "raw3"}, {"input": "srgb"})


@pytest.fixture
def raw_set(tmp_path):
    """Return a folder with two DNG files and their annotations."""
    folder = tmp_path / "images"
    folder.mkdir()
    names = ("a.dng", "b.DNG")
    for number, name in enumerate(names):
        levels = scene() / 4
        levels[8:16, 8 + number : 20] *= 3
        write_dng(folder / name, levels)
    images = [{"id": n, "file_name": f, "height": 24, "width": 32} for n, f in enumerate(names, 1)]
    square = [8, 8, 20, 8, 20, 16, 8, 16]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [8, 8, 12, 8], "area": 96, "iscrowd": 0,
         "segmentation": [square]}
        for n in (1, 2)
    ]  # fmt: skip
    categories = [{"id": 1, "name": "0"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "set.json").write_text(json.dumps(document))
    return tmp_path


def paths(root, *splits):
    kinds = {"images": root / "images", "annotations": root / "set.json"}
    return {f"{split}_{kind}": path for split in splits for kind, path in kinds.items()}


def change(root, **values):
    file = root / "set.json"
    content = json.loads(file.read_text())
    content["images"][1].update(values)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("form", FORMS)
def test_a_set_is_read_as_a_folder_to_predict(raw_set, form):
    data = CocoDataModule(**paths(raw_set, "train", "val"), low_light=form)
    folder = ImageFolderDataModule(raw_set / "images", CATEGORIES, low_light=form)
    read, expected = next(iter(data.val_dataloader())), next(iter(folder.predict_dataloader()))
    assert torch.equal(read.images, expected.images)
    levels = read.images * 255
    assert ((levels - levels.round()).abs().max() > 0.1) == (form == {"input": "raw3"})
    assert data.on_after_batch_transfer(read, 0) is read  # no noise is added
    assert data.check(thorough=True) == []


def photographs(root):
    """Return the paths of a training split of ordinary images, with the annotations of a set."""
    document = json.loads((root / "set.json").read_text())
    for record in document["images"]:
        record["file_name"] = f"{record['id']}.png"
        pixels = np.full((24, 32, 3), 120, dtype=np.uint8)
        Image.fromarray(pixels).save(root / record["file_name"])
    (root / "photographs.json").write_text(json.dumps(document))
    return {"train_images": root, "train_annotations": root / "photographs.json"}


def test_raw_files_of_one_split_leave_the_others_alone(raw_set):
    """As for a model that is trained on darkened photographs and tested on RAW files."""
    light = {"input": "raw3", "clean": True, "evaluate": "normal"}
    data = CocoDataModule(**photographs(raw_set), **paths(raw_set, "val"), low_light=light)
    assert data.gives_pairs
    read, tested = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    data.trainer = SimpleNamespace(training=True, current_epoch=0)
    assert data.on_after_batch_transfer(read, 0).clean_images is not None
    data.trainer = SimpleNamespace(current_epoch=0)
    assert data.on_after_batch_transfer(tested, 0) is tested
    assert data.shows_dark("val")
    assert data.dark_image("val", 0) is None
    data = CocoDataModule(**paths(raw_set, "train", "val"), low_light=light)
    assert not data.gives_pairs


def test_training_images_are_augmented_with_all_their_bits(raw_set):
    data = CocoDataModule(
        **paths(raw_set, "train", "val"),
        low_light={"input": "raw3"},
        augmentations=[{"name": "HorizontalFlip", "p": 1.0},
                       {"name": "RandomBrightnessContrast", "brightness_limit": [0, 0],
                        "contrast_limit": [1, 1], "p": 1.0}],
    )  # fmt: skip
    batch = next(iter(data.train_dataloader()))
    for n, index in enumerate(batch.index.tolist()):
        read = torch.from_numpy(data.source("train").read(index).image / 255).permute(2, 0, 1)
        found = batch.images[n, :, :24, :32].flip(-1)
        torch.testing.assert_close(found, (2 * read).clamp(max=1), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="mosaic composes images of 8 bits"):
        CocoDataModule(
            **paths(raw_set, "train", "val"), low_light={"input": "raw3"}, mosaic=MosaicOptions()
        )


def checked(root, capsys, *more):
    """Run `check-data` and return its exit code and the problems or the message."""
    words = ["check-data", "--config", "configs/quickstart/mask_rcnn.yaml"]
    words += ["--config", "configs/_base/data/coco.yaml", "--out", str(root / "out.json"), *more]
    for name, path in paths(root, "train", "val").items():
        words += [f"--data.{name}", str(path)]
    code = evaluate.main(words)
    text = capsys.readouterr().err
    if (root / "out.json").is_file():
        text += (root / "out.json").read_text()
    return code, text


@pytest.mark.parametrize(
    ("edit", "more", "expected"),
    [
        ({}, (), '"passed": true'),
        ({"height": 25}, (), "b.DNG is 24 px high and 32 px wide, but the annotations say 25"),
        ({}, ("--data.low_light", "{input: raw4}"), "set.json has RAW files, which are read as"),
        ({"file_name": "c.png"}, (), "1 RAW files beside 1 other images; keep them in data sets"),
        ({"file_name": "broken.nef"}, (), "broken.nef cannot be read"),
    ],
)
def test_check_data(raw_set, capsys, edit, more, expected):
    (raw_set / "images" / "broken.nef").write_bytes(b"II*")
    Image.new("RGB", (32, 24)).save(raw_set / "images" / "c.png")
    change(raw_set, **edit)
    code, text = checked(raw_set, capsys, *more)
    assert expected in text
    assert code == (0 if "passed" in expected else 2)


def test_without_rawpy_the_extra_is_named(raw_set, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    code, text = checked(raw_set, capsys)
    assert code == 2
    assert "RAW files need rawpy" in text
    assert ".[raw]" in text


def test_a_checkpoint_scores_and_predicts_them(raw_set, tmp_path, capsys):
    light = {"low_light": LowLightOptions().record(), "seed": 0}
    checkpoint = write_checkpoint(tmp_path / "y.ckpt", YOLO, liven=1.0, preprocessing=light)
    rows = tmp_path / "rows.json"
    words = ["coco", "--ckpt", checkpoint, "--annotations", raw_set / "set.json", "--images",
             raw_set / "images", "--save-predictions", rows]  # fmt: skip
    assert evaluate.main([str(word) for word in words]) == 0
    scores = [row["score"] for row in json.loads(rows.read_text()) if row["image_id"] == 1]
    model = segmil.load(checkpoint, "cpu")
    found = model.predict(raw_set / "images" / "a.dng")
    np.testing.assert_allclose(sorted(scores), sorted(found.scores.tolist()), atol=1e-6)
    drawn = model.draw(raw_set / "images" / "a.dng", found, score=1.0)
    assert drawn.dtype == np.uint8
    assert evaluate.main([str(word) for word in (*words[:7], "--light", "dark")]) == 2
    assert "their light cannot be changed" in capsys.readouterr().err
