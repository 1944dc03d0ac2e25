"""Test images of the study: other data sets have the same objects where they should."""

import json

import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image

from benchmarks.robustness import images
from benchmarks.robustness.plan import DIGITS, NUCLEI


def content(one):
    """Return the content of the annotations."""
    return json.loads(one.annotations.read_text())


def test_digit_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "SCENES", 2)
    found = images.images_of(DIGITS, tmp_path, None)
    assert list(found) == [None, *images.DOMAINS]
    plain, dark, larger = (content(found[name]) for name in (None, "dark", images.LARGER))
    assert plain["annotations"] == dark["annotations"]
    assert {image["height"] for image in larger["images"]} == {192}
    for small, large in zip(plain["annotations"], larger["annotations"], strict=True):
        assert small["category_id"] == large["category_id"]
        np.testing.assert_allclose(large["bbox"], np.multiply(1.5, small["bbox"]), atol=1.5)
        assert large["area"] == coco_mask.area(large["segmentation"])
        assert abs(large["area"] / small["area"] - 2.25) < 0.2
    for name in found:
        for image in content(found[name])["images"]:
            with Image.open(found[name].images / image["file_name"]) as pixels:
                assert pixels.size == (image["width"], image["height"])
    times = [one.annotations.stat().st_mtime_ns for one in found.values()]
    again = images.images_of(DIGITS, tmp_path, None)
    assert [one.annotations.stat().st_mtime_ns for one in again.values()] == times


def test_every_second_small_image_of_nuclei(tmp_path):
    sizes = [(64, 48), (32, 400), (48, 64), (360, 40), (40, 40)]
    truth = {
        "images": [
            {"id": k, "file_name": f"{k}.jpg", "height": h, "width": w}
            for k, (h, w) in enumerate(sizes, start=1)
        ],
        "annotations": [
            {
                "id": 10 + k, "image_id": k, "category_id": 1, "bbox": [0, 0, 8, 8], "area": 64,
                "iscrowd": 0, "segmentation": [[0, 0, 8, 0, 8, 8, 0, 8]],
            }
            for k in range(1, 6)
        ],
        "categories": [{"id": 1, "name": "nucleus"}],
    }  # fmt: skip
    folder = tmp_path / "data/images/val"
    folder.mkdir(parents=True)
    for image in truth["images"]:
        size = image["width"], image["height"]
        Image.new("RGB", size).save(folder / image["file_name"])
    (tmp_path / "data/annotations").mkdir()
    (tmp_path / "data/annotations/instances_val.json").write_text(json.dumps(truth))
    found = images.images_of(NUCLEI, tmp_path / "study", tmp_path / "data")
    assert list(found) == [None, images.LARGER]
    assert [image["id"] for image in content(found[None])["images"]] == [1, 4]
    assert [one["image_id"] for one in content(found[None])["annotations"]] == [1, 4]
    larger = content(found[images.LARGER])["images"][0]
    assert (larger["file_name"], larger["height"], larger["width"]) == ("1.png", 96, 72)
    assert (found[images.LARGER].images / "1.png").is_file()
