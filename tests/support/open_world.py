"""Random detections and objects, and slow evaluations of them after the COCO tools."""

import contextlib
import io

import numpy as np
import pycocotools.mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CATEGORIES = [{"id": i, "name": f"c{i}"} for i in (0, 3, 4, 7)]
KNOWN = (0, 4)


def make_scenes(seed, images=8, found=30, objects=5):
    """Return annotations and results with crowds, ties, empty images, id 0 and polygons."""
    rng = np.random.default_rng(seed)
    truth = {"images": [], "annotations": [], "categories": CATEGORIES}
    rows = []
    for number in rng.permutation(images).tolist():
        truth["images"].append({"id": number, "height": 160, "width": 200})
        boxes = [_box(rng) for _ in range(rng.integers(0, objects + 1) if number % 4 else 0)]
        for box in boxes:
            truth["annotations"].append(_annotation(rng, len(truth["annotations"]), number, box))
        for _ in range(0 if number % 5 == 1 else rng.integers(0, found)):
            near = bool(boxes) and rng.random() < 0.7
            box = _box(rng)
            if near:
                box = boxes[rng.integers(len(boxes))] + rng.integers(-6, 7, 4) * rng.integers(0, 2)
            rows.append(_row(rng, number, np.maximum(box, [0, 0, 1, 1])))
    return truth, rows


def _box(rng):
    side = rng.choice([12, 40, 110])
    return np.array([*rng.integers(0, 60, 2), *(side - rng.integers(0, 10, 2))])


def _annotation(rng, identifier, image, box):
    x, y, w, h = (int(v) for v in box)
    crowd = int(rng.random() < 0.2)
    polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    compressed = _mask(box)
    return {
        "id": identifier,
        "image_id": image,
        "category_id": int(rng.choice([c["id"] for c in CATEGORIES])),
        "bbox": [x, y, w, h],
        "area": float(w * h),
        "iscrowd": crowd,
        "segmentation": compressed if crowd or rng.random() < 0.5 else polygon,
    }


def _mask(box):
    x, y, w, h = (int(v) for v in box)
    dense = np.zeros((160, 200), dtype=np.uint8, order="F")
    dense[y : y + h, x : x + w] = 1
    found = coco_mask.encode(dense)
    return {"size": found["size"], "counts": found["counts"].decode()}


def _row(rng, image, box):
    return {
        "image_id": image,
        "category_id": int(rng.choice([0, 3, 99])),  # pooled whatever they are
        "score": round(float(rng.random()), 1),  # many ties
        "bbox": [float(v) for v in box],
        "segmentation": _mask(box),
    }


class ExcludeKnown(COCOeval):
    """The COCO evaluation, and then the columns of what ended on known objects are dropped."""

    def __init__(self, *args, known=()):
        super().__init__(*args)
        self.known = set(known)

    def _prepare(self):
        super()._prepare()
        for annotations in self._gts.values():
            for one in annotations:
                one["ignore"] = one["ignore"] or one["true_category"] in self.known

    def drop_known(self):
        ids = {
            a["id"] for a in self.cocoGt.dataset["annotations"] if a["true_category"] in self.known
        }
        for one in self.evalImgs:
            if one is None:
                continue
            keep = [i for i, m in enumerate(one["dtMatches"][0]) if int(m) not in ids]
            one["dtIds"] = [one["dtIds"][i] for i in keep]
            one["dtScores"] = [one["dtScores"][i] for i in keep]
            one["dtMatches"], one["dtIgnore"] = one["dtMatches"][:, keep], one["dtIgnore"][:, keep]


def coco_arrays(truth, rows, iou_type, caps, known=()):
    """Return precision (T, R, A, M) and recall (T, A, M) of pooled categories by pycocotools."""
    annotations = [
        {**a, "id": n, "true_category": a["category_id"], "category_id": 1}
        for n, a in enumerate(truth["annotations"], start=1)
    ]
    results = [dict(row, category_id=1) for row in rows]
    for n, row in enumerate(results, start=1):
        area = row["bbox"][2] * row["bbox"][3]
        if iou_type == "segm":
            area = float(coco_mask.area(row["segmentation"]))
        row.update(id=n, area=area, iscrowd=0)
    shared = {"images": truth["images"], "categories": [{"id": 1, "name": "object"}]}
    with contextlib.redirect_stdout(io.StringIO()):
        sides = COCO(), COCO()
        for side, records in zip(sides, (annotations, results), strict=True):
            side.dataset = {**shared, "annotations": records}
            side.createIndex()
        evaluation = ExcludeKnown(*sides, iou_type, known=known)
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(caps)
        evaluation.evaluate()
        evaluation.drop_known()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0], evaluation.eval["recall"][:, 0]


def mean_of(values):
    """Return the mean of the values above -1, NaN if there are none."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else float("nan")
