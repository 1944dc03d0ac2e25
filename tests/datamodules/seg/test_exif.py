"""Images that their EXIF orientation turns, with their annotations, in every kind of data set."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.sampling.keys import SampleKey
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.image_folder import ImageFolderDataModule
from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.seg.unusable import UnusableData
from datamodules.seg.yolo_txt import YoloTxtDataModule
from formats.yolo.convert import convert, yolo_to_coco
from structures import DataProblems

MAP = {"ids": [1], "names": ["cell"]}
SHOWN = np.full((24, 40, 3), 30, dtype=np.uint8)
SHOWN[4:14, 6:30] = (250, 90, 10)  # the object
SHOWN[20:, 36:] = 120  # no symmetry
POLYGON = [6, 4, 30, 4, 30, 14, 6, 14]
# the operation that stores an image so that the tag turns it back
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def stored(orientation):
    image = Image.fromarray(SHOWN)
    return image if orientation == 1 else image.transpose(STORED[orientation])


def write(file, orientation):
    tags = Image.Exif()
    tags[274] = orientation
    file.parent.mkdir(parents=True, exist_ok=True)
    stored(orientation).save(file, exif=tags)


def write_coco(root, orientation, size=(24, 40)):
    for split in ("train", "val"):
        write(root / "images" / split / "a.png", orientation)
        image = {"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}
        record = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [POLYGON]}
        content = {
            "images": [image],
            "annotations": [record],
            "categories": [{"id": 1, "name": "cell"}],
        }
        file = root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return root


def write_yolo(root, orientation):
    points = [v / (40, 24)[n % 2] for n, v in enumerate(POLYGON)]
    for split in ("train", "val"):
        write(root / "images" / split / "a.png", orientation)
        file = root / "labels" / split / "a.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("0 " + " ".join(map(str, points)))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cell]\n")
    return root


def check_upright(sample):
    """The image is as it is shown, and the mask covers the object's pixels and no others."""
    image = torch.from_numpy(SHOWN).permute(2, 0, 1) / 255
    assert torch.equal(sample.images[0], image)
    assert torch.equal(sample.masks[0], image[0] > 0.9)
    assert sample.boxes.tolist() == [[6, 4, 30, 14]]


@pytest.mark.parametrize("orientation", STORED)
def test_objects_of_an_image_marked_as_it_is_shown(tmp_path, orientation):
    turns_by_itself = orientation >= 5  # the size says so
    exif = None if turns_by_itself else "apply"
    root = write_coco(tmp_path / "coco", orientation)
    data = CocoDataModule(root, exif=exif, batch_size=1)
    assert data.check(thorough=True) == []
    check_upright(data.eval_dataset("train")[SampleKey(0)])
    yolo = YoloTxtDataModule(write_yolo(tmp_path / "yolo", orientation), batch_size=1)
    assert yolo.check(thorough=True) == []
    check_upright(yolo.eval_dataset("train")[SampleKey(0)])
    assert yolo.image_records("val")[0]["height"] == 24


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_size_that_does_not_tell_leaves_coco_images_as_stored(tmp_path, orientation, caplog):
    data = CocoDataModule(write_coco(tmp_path, orientation), batch_size=1)
    pixels = torch.from_numpy(np.array(stored(orientation))).permute(2, 0, 1) / 255
    assert torch.equal(data.eval_dataset("train")[SampleKey(0)].images[0], pixels)
    assert caplog.text.count("set exif: apply") == 2  # once for each folder


@pytest.mark.parametrize("orientation", STORED)
def test_a_folder_is_predicted_as_it_is_shown(tmp_path, orientation):
    write(tmp_path / "a.png", orientation)
    data = ImageFolderDataModule(tmp_path, MAP, size_multiple=1)
    (batch,) = data.predict_dataloader()
    assert torch.equal(batch.images[0], torch.from_numpy(SHOWN).permute(2, 0, 1) / 255)
    assert batch.original_sizes.tolist() == [[24, 40]]
    (record,) = data.image_records("predict")
    assert (record["height"], record["width"]) == (24, 40)
    data = ImageFolderDataModule(tmp_path, MAP, size_multiple=1, exif="ignore")
    (batch,) = data.predict_dataloader()
    pixels = torch.from_numpy(np.array(stored(orientation))).permute(2, 0, 1) / 255
    assert torch.equal(batch.images[0], pixels)


@pytest.mark.parametrize("bad_data", ["error", "skip"])
def test_turned_images_can_be_refused(tmp_path, bad_data):
    write(tmp_path / "a.png", 6)
    write(tmp_path / "b.png", 1)
    if bad_data == "error":
        with pytest.raises(DataProblems, match="EXIF orientation 6"):
            ImageFolderDataModule(tmp_path, MAP, exif="error")
        with pytest.raises(UnusableData, match="EXIF orientation 6"):
            CocoDataModule(write_coco(tmp_path / "coco", 6), exif="error")
        return
    data = ImageFolderDataModule(tmp_path, MAP, exif="error", bad_data=bad_data)
    assert [r["file_name"] for r in data.image_records("predict")] == ["b.png"]


def test_mosaics_are_made_of_turned_images(tmp_path):
    mosaic = MosaicOptions(size=64, window=4, close_epochs=0)
    samples = []
    for orientation in (1, 6):
        root = write_coco(tmp_path / str(orientation), orientation)
        data = CocoDataModule(root, batch_size=1, mosaic=mosaic)
        samples.append(data.train_dataset()[SampleKey(0, neighbours=(0,))])
    assert torch.equal(samples[0].images, samples[1].images)
    assert torch.equal(samples[0].masks, samples[1].masks)


@pytest.mark.parametrize("orientation", STORED)
def test_conversion_keeps_objects_where_they_are_or_refuses(tmp_path, orientation):
    """The YOLO set is read as it is shown, so only what the size tells can go back and forth."""
    root = write_coco(tmp_path / "coco", orientation)
    source = {
        "annotations": root / "annotations" / "instances_train.json",
        "images": root / "images" / "train",
    }
    if orientation in (2, 3, 4):
        with pytest.raises(DataProblems, match="EXIF"):
            convert("coco", "yolo", tmp_path / "out", **source)
        with pytest.raises(DataProblems, match="EXIF"):
            yolo_to_coco(write_yolo(tmp_path / "yolo", orientation) / "data.yaml", "train")
        return
    convert("coco", "yolo", tmp_path / "out", **source)
    content, folder, _ = yolo_to_coco(tmp_path / "out" / "data.yaml", "train")
    assert (content["images"][0]["height"], content["images"][0]["width"]) == (24, 40)
    assert content["annotations"][0]["segmentation"] == [POLYGON]
    file = tmp_path / "back.json"
    file.write_text(json.dumps(content))
    data = CocoDataModule(train_images=folder, train_annotations=file, batch_size=1)
    check_upright(data.eval_dataset("train")[SampleKey(0)])


def test_what_was_chosen_goes_into_the_checkpoint(tmp_path):
    data = CocoDataModule(write_coco(tmp_path, 1))
    assert not {"exif", "max_megapixels"} & set(data.evaluation_arguments())
    data = CocoDataModule(tmp_path, exif="apply", max_megapixels=7.5)
    assert data.evaluation_arguments().items() >= {"exif": "apply", "max_megapixels": 7.5}.items()
