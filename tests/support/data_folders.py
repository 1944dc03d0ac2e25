"""Fixtures that write small COCO and YOLO data sets."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def shared_data():
    """Return a function that returns a folder of the shared real data or skips the test."""

    def folder(name):
        path = SHARED / name
        if not path.is_dir():
            pytest.skip(f"real data {name} are not in ../shared/data next to the checkout")
        return path

    return folder


@pytest.fixture
def write_coco():
    """Return a function that writes a split of a COCO data set and returns its two paths."""

    def write(root, split, *, images, annotations, categories, pixels=None):
        folder = Path(root) / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        for image in images:
            array = (pixels or {}).get(image["id"])
            if array is None:
                rng = np.random.default_rng(image["id"])
                shape = (image["height"], image["width"], 3)
                array = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(array).save(folder / image["file_name"])
        file = Path(root) / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        file.write_text(json.dumps(content))
        return folder, file

    return write


@pytest.fixture
def small_coco():
    """Return the records of a split of three images with every kind of annotation.

    Images 7 (12 x 16), 3 (20 x 10) and 11 (without objects) are not sorted by id, and neither are
    the categories 11, 5, 8 and 0.
    """
    square = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]  # columns 2-7, rows 2-7
    far = [10.0, 1.0, 14.0, 1.0, 14.0, 4.0, 10.0, 4.0]  # columns 10-13, rows 1-3
    # 20 x 10, columns of 20: column 1 has rows 5-9, column 2 rows 5-6 and 8-9 (a hole at 7)
    with_hole = {"size": [20, 10], "counts": [25, 5, 15, 2, 1, 2, 150]}
    crowd = {"size": [12, 16], "counts": [0, 24, 168]}  # columns 0 and 1
    return {
        "images": [
            {"id": 7, "file_name": "seven.png", "height": 12, "width": 16},
            {"id": 3, "file_name": "three.png", "height": 20, "width": 10},
            {"id": 11, "file_name": "eleven.png", "height": 9, "width": 9},
        ],
        "annotations": [
            {
                "id": 40,
                "image_id": 7,
                "category_id": 8,
                "iscrowd": 0,
                "segmentation": [square, far],
                "area": 48.0,
                "bbox": [2, 2, 12, 6],
            },
            {
                "id": 12,
                "image_id": 3,
                "category_id": 0,
                "iscrowd": 0,
                "segmentation": with_hole,
                "area": 9,
                "bbox": [1, 5, 2, 5],
            },
            {
                "id": 13,
                "image_id": 7,
                "category_id": 5,
                "iscrowd": 1,
                "segmentation": crowd,
                "area": 24,
                "bbox": [0, 0, 2, 12],
            },
        ],
        "categories": [
            {"id": 11, "name": "plum"},
            {"id": 5, "name": "fig"},
            {"id": 8, "name": "pear"},
            {"id": 0, "name": "apple"},
        ],
    }


@pytest.fixture
def write_yolo():
    """Return a function that writes a YOLO data set: split -> image name -> (size, label text).

    The text may be None, for an image without a label file. Returns the path of data.yaml.
    """

    def write(root, splits, names=("apple", "fig")):
        root = Path(root)
        for split, files in splits.items():
            for name, (size, text) in files.items():
                path = root / "images" / split / name
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng(len(name)).integers(0, 256, (*size, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(path)
                if text is not None:
                    labels = root / "labels" / split / Path(name).with_suffix(".txt")
                    labels.parent.mkdir(parents=True, exist_ok=True)
                    labels.write_text(text)
        content = {split: f"images/{split}" for split in splits} | {"names": list(names)}
        (root / "data.yaml").write_text(json.dumps(content))  # JSON is YAML
        return root / "data.yaml"

    return write
