"""Confusion of classes with the background, on rectangles whose overlaps are counted by hand."""

import numpy as np
import pytest

from evaluation.seg.confusion import detection_confusion, pair_detections

SIZE = (20, 40)
CATEGORIES = [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}]


def rectangle(x, y, w, h):
    return {
        "bbox": [x, y, w, h],
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    }


def truth(number, category, x, y, w, h, crowd=0, image=1):
    record = {"id": number, "image_id": image, "category_id": category, "iscrowd": crowd}
    return record | rectangle(x, y, w, h) | {"area": w * h}


def found(category, score, x, y, w, h, image=1):
    record = {"image_id": image, "category_id": category, "score": score}
    box = rectangle(x, y, w, h)
    from pycocotools import mask

    box["segmentation"] = mask.merge(mask.frPyObjects(box["segmentation"], *SIZE))
    return record | box


def data(annotations, images=(1, 2)):
    return {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in images],
        "annotations": annotations,
        "categories": CATEGORIES,
    }


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_every_cell_by_hand(kind):
    annotations = [
        truth(1, 3, 0, 0, 10, 10),  # a, found as a
        truth(2, 3, 20, 0, 10, 10),  # a, taken for b
        truth(3, 7, 0, 10, 10, 10),  # b, missed: the overlap is 1/3
        truth(4, 7, 0, 0, 10, 10, image=2),  # b in an image without detections
    ]
    results = [
        found(3, 0.9, 0, 0, 10, 10),
        found(7, 0.8, 20, 0, 10, 10),
        found(7, 0.7, 5, 10, 10, 10),  # intersection 50, union 150
        found(3, 0.6, 30, 10, 5, 5),  # of nothing
        found(3, 0.4, 0, 10, 10, 10),  # below the confidence
    ]
    matrix, names = detection_confusion(data(annotations), results, 0.5, 0.5, kind)
    assert names == ["a", "b", "background"]
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 0, 2], [1, 1, 0]])
    lower, _ = detection_confusion(data(annotations), results, 0.5, 1 / 3 - 1e-6, kind)
    np.testing.assert_array_equal(lower, [[1, 1, 0], [0, 1, 1], [1, 0, 0]])
    all_of_them, _ = detection_confusion(data(annotations), results, 0.4, 0.5, kind)
    np.testing.assert_array_equal(all_of_them, [[1, 1, 0], [1, 0, 1], [1, 1, 0]])


def test_the_better_score_takes_the_truth_whatever_its_class():
    annotations = [truth(1, 3, 0, 0, 10, 10)]
    results = [found(3, 0.6, 0, 0, 10, 10), found(7, 0.9, 1, 0, 10, 10)]
    matrix, _ = detection_confusion(data(annotations), results)
    np.testing.assert_array_equal(matrix, [[0, 1, 0], [0, 0, 0], [1, 0, 0]])


def test_the_larger_overlap_is_taken():
    pairs = pair_detections(
        [truth(1, 3, 0, 0, 10, 10), truth(2, 7, 2, 0, 10, 10)],
        [found(3, 0.9, 3, 0, 10, 10)],
        SIZE,
    )
    assert (pairs.truth.tolist(), pairs.found.tolist(), pairs.missed.tolist()) == ([1], [0], [0])
    assert pairs.overlap[0] == pytest.approx(90 / 110)


def test_crowd_regions_are_neither_found_nor_missed_nor_wrong():
    annotations = [truth(1, 3, 0, 0, 20, 20, crowd=1)]
    results = [found(7, 0.9, 0, 0, 10, 10), found(7, 0.8, 30, 0, 5, 5)]
    matrix, _ = detection_confusion(data(annotations), results, iou_type="bbox")
    np.testing.assert_array_equal(matrix, [[0, 0, 0], [0, 0, 0], [0, 1, 0]])


def test_nothing_at_all():
    matrix, names = detection_confusion(data([]), [])
    assert matrix.sum() == 0
    assert len(names) == 3
    pairs = pair_detections([], [], SIZE)
    assert pairs.overlap.shape == (0,)


def test_truths_found_plus_missed_are_all_truths_on_random_images():
    rng = np.random.default_rng(0)
    for _ in range(20):
        annotations, results = [], []
        for k in range(int(rng.integers(0, 8))):
            x, y, w, h = (int(v) for v in rng.integers(1, 15, 4))
            annotations.append(truth(k + 1, int(rng.choice([3, 7])), x, y % 8, w, min(h, 10)))
        for _ in range(int(rng.integers(0, 8))):
            x, y, w, h = (int(v) for v in rng.integers(1, 15, 4))
            row = found(int(rng.choice([3, 7])), float(rng.random()), x, y % 8, w, min(h, 10))
            results.append(row)
        matrix, _ = detection_confusion(data(annotations), results, 0.3, 0.3, "bbox")
        of_class = [sum(a["category_id"] == c for a in annotations) for c in (3, 7)]
        says = [sum(r["category_id"] == c and r["score"] >= 0.3 for r in results) for c in (3, 7)]
        assert matrix[:2].sum(axis=1).tolist() == of_class
        assert matrix[:, :2].sum(axis=0).tolist() == says
