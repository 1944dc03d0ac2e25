"""Ground truth and detections with every kind of error, from numpy and pycocotools alone.

`benchmarks/parity/tide_golden.py` makes the same ones in an environment without this project.
"""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as coco_mask

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
FIXTURE = SHARED / "coco_eval_fixture"
NUCLEI = SHARED / "dsb2018_fluo" / "annotations" / "instances_val.json"
SIZE = (150, 180)


def random_scenes(seed, images=7):
    """Return ellipses of three classes, some of them crowds, and detections with ties in score.

    Every class that is detected has an object. Ids of annotations start at 0.
    """
    rng = np.random.default_rng(seed)
    truth = _document(images, (2, 5, 9))
    rows = []
    for number in rng.permutation(images).tolist():
        own = [_ellipse(rng) for _ in range(rng.integers(0, 7) if number % 4 else 0)]
        for shape in own:
            _annotate(truth, number, shape, int(rng.choice([2, 5, 9])), rng.random() < 0.15)
        for _ in range(0 if number % 5 == 1 else rng.integers(0, 25)):
            shape = _ellipse(rng)
            if own and rng.random() < 0.75:
                y, x, a, b = own[rng.integers(len(own))]
                y, x = (y, x) + rng.normal(size=2) * a * rng.choice([0.05, 0.3, 0.8])
                shape = (y, x, a * rng.uniform(0.7, 1.3), b)
            score = round(float(rng.random()), int(rng.choice([1, 6])))
            rows.append(_row(number, shape, int(rng.choice([2, 5, 9])), score))
    return _with_objects(truth, [row for row in rows if row["area"] > 0])


def nuclei():
    """Return `dsb2018_fluo` (val) and detections made of its nuclei: moved, missed or doubled."""
    truth = json.loads(NUCLEI.read_text())
    rng = np.random.default_rng(7)
    rows = []
    for annotation in truth["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"])
        for _ in range(int(rng.choice([0, 1, 2], p=[0.1, 0.8, 0.1]))):
            moved = np.roll(mask, rng.normal(size=2).round().astype(int) * 2, axis=(0, 1))
            far = rng.random() < 0.1
            moved = np.roll(moved, 40, axis=1) if far else moved
            score = rng.beta(2, 3) if far else rng.beta(4, 2)
            row = _of_mask(moved) | {"score": round(float(score), 3)}
            rows.append(row | {"image_id": annotation["image_id"],
                               "category_id": annotation["category_id"]})  # fmt: skip
    return truth, rows


def coco_fixture(kind):
    """Return the truth and the results of the COCO API's own test, of ``bbox`` or ``segm``."""
    truth = json.loads((FIXTURE / "instances_val2014_100.json").read_text())
    name = f"instances_val2014_fake{kind}100_results.json"
    return truth, json.loads((FIXTURE / name).read_text())


def _document(images, categories):
    height, width = SIZE
    return {
        "images": [{"id": n, "height": height, "width": width} for n in range(images)],
        "annotations": [],
        "categories": [{"id": c, "name": f"c{c}"} for c in categories],
    }


def _ellipse(rng):
    """Centre and half axes: small, medium or large."""
    half = rng.choice([9, 25, 60])
    return (*rng.uniform(20, 130, 2), half * rng.uniform(0.7, 1), half * rng.uniform(0.7, 1))


def _mask(shape):
    y, x, a, b = shape
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 <= 1).astype(np.uint8)


def _of_mask(mask):
    code = coco_mask.encode(np.asfortranarray(mask))
    return {
        "segmentation": {"size": list(mask.shape), "counts": code["counts"].decode()},
        "bbox": coco_mask.toBbox(code).tolist(),
        "area": float(coco_mask.area(code)),
    }


def _annotate(truth, image, shape, category, crowd):
    record = _of_mask(_mask(shape)) | {"id": len(truth["annotations"]), "image_id": image}
    truth["annotations"].append(record | {"category_id": category, "iscrowd": int(crowd)})


def _row(image, shape, category, score):
    return _of_mask(_mask(shape)) | {"image_id": image, "category_id": category, "score": score}


def _with_objects(truth, rows):
    known = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
    return truth, [row for row in rows if row["category_id"] in known]
