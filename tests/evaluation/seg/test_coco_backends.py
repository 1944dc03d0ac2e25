"""Both engines against COCO's published numbers, against each other and against raw pycocotools."""

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.seg.coco import evaluate_results
from evaluation.seg.coco_backends import accumulate
from structures import rle

FIXTURE = Path(__file__).parents[3] / ".." / "shared" / "data" / "coco_eval_fixture"
BACKENDS = ("fast", "pycocotools")


def as_rle(mask):
    return {"size": list(mask.shape), "counts": rle.to_bytes(rle.encode(mask)).decode()}


def box_of(mask):
    x1, y1, x2, y2 = rle.bounding_box(rle.encode(mask), mask.shape)
    return [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]


def random_mask(rng, height, width):
    mask = np.zeros((height, width), dtype=bool)
    if rng.random() < 0.25 and min(height, width) >= 32:  # 1024 or 1023 px: the edge of a size bin
        y, x = rng.integers(0, height - 31), rng.integers(0, width - 31)
        mask[y : y + 32, x : x + 32] = True
        mask[y, x] = rng.random() < 0.5
        return mask
    for _ in range(rng.integers(1, 3)):
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[y : y + rng.integers(1, height), x : x + rng.integers(1, width)] = True
    return mask


def random_truth(rng, image, categories, number):
    mask = random_mask(rng, image["height"], image["width"])
    x, y, w, h = box_of(mask)
    crowd = int(rng.random() < 0.15)
    kind = rng.random()
    if kind < 0.4 and not crowd:
        segmentation = [[x + 0.3, y + 0.1, x + w - 0.4, y, x + w, y + h - 0.2, x, y + h]]
    elif kind < 0.6:
        segmentation = {"size": list(mask.shape), "counts": rle.encode(mask).tolist()}
    else:
        segmentation = as_rle(mask)
    annotation = {
        "id": number,
        "image_id": image["id"],
        "category_id": int(rng.choice(categories)),
        "area": int(mask.sum()),
        "bbox": [x, y, w, h],
        "iscrowd": crowd,
        "segmentation": segmentation,
    }
    return annotation, mask


def random_case(seed):
    """Images without truth or results, crowds, ties, ids with gaps and > 100 detections."""
    rng = np.random.default_rng(seed)
    categories = sorted(rng.choice(400, size=rng.integers(1, 6), replace=False).tolist())
    images, annotations, rows = [], [], []
    number = seed % 2  # annotation id 0 in every other case
    for identifier in rng.choice(10**6, size=rng.integers(3, 10), replace=False).tolist():
        height, width = rng.integers(20, 160, size=2).tolist()
        image = {"id": identifier, "height": height, "width": width}
        images.append(image)
        masks = []
        for _ in range(0 if rng.random() < 0.25 else rng.integers(1, 8)):
            annotation, mask = random_truth(rng, image, categories, number)
            annotations.append(annotation)
            masks.append(mask)
            number += 1
        found = 0 if rng.random() < 0.2 else rng.integers(1, 15) if rng.random() < 0.8 else 130
        for _ in range(found):
            if masks and rng.random() < 0.6:
                mask = np.roll(masks[rng.integers(len(masks))], rng.integers(-3, 4), axis=1)
            else:
                mask = random_mask(rng, height, width)
            rows.append(
                {
                    "image_id": identifier,
                    "category_id": int(rng.choice(categories)),
                    "score": float(np.round(rng.random(), 1 if rng.random() < 0.7 else 6)),
                    "bbox": [v + 0.3 * float(rng.random() < 0.3) for v in box_of(mask)],
                    "segmentation": as_rle(mask),
                }
            )
    categories = [{"id": c, "name": f"class {c}"} for c in categories]
    return {"images": images, "annotations": annotations, "categories": categories}, rows


def raw_pycocotools(truth, rows, iou_type):
    """The API as a user calls it; for segm without boxes, so that areas are those of masks."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = copy.deepcopy(rows)
    for row in rows:
        row.pop("bbox" if iou_type == "segm" else "segmentation")
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = copy.deepcopy(truth)
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(rows), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.fixture(scope="module")
def published():
    if not FIXTURE.is_dir():
        pytest.skip("needs ../shared/data/coco_eval_fixture")
    return {
        "truth": json.loads((FIXTURE / "instances_val2014_100.json").read_text()),
        "stats": json.loads((FIXTURE / "expected_stats.json").read_text()),
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("iou_type", "kind"), [("segm", "segm"), ("bbox", "box")])
def test_coco_published_numbers(published, backend, iou_type, kind):
    rows = json.loads((FIXTURE / f"instances_val2014_fake{iou_type}100_results.json").read_text())
    scores = evaluate_results(published["truth"], rows, backend=backend)
    suffixes = ["map", "map_50", "map_75", "map_small", "map_medium", "map_large"]
    suffixes += ["ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"]
    assert list(scores.metrics) == [f"{kind}_{suffix}" for suffix in suffixes]
    np.testing.assert_allclose(
        list(scores.metrics.values()), published["stats"][iou_type], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("seed", range(12))
def test_backends_agree_on_every_array(seed):
    truth, rows = random_case(seed)
    for iou_type in ("bbox", "segm"):
        fast, reference = (
            accumulate(truth, rows, iou_type, (1, 10, 100, 300), backend) for backend in BACKENDS
        )
        for ours, theirs in zip(fast, reference, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", [1, 3, 5, 7])  # odd: no annotation id 0, which the API mistreats
def test_summary_equals_the_api(seed, backend):
    truth, rows = random_case(seed)
    scores = evaluate_results(truth, rows, backend=backend)
    for iou_type, kind in (("bbox", "box"), ("segm", "segm")):
        theirs = raw_pycocotools(truth, rows, iou_type)
        ours = [value for name, value in scores.metrics.items() if name.startswith(kind)]
        np.testing.assert_allclose(ours, np.where(theirs == -1, np.nan, theirs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_annotation_id_zero_can_be_found(backend):
    truth, rows = one_image([(2, 2, 6, 6)], [((2, 2, 6, 6), 0.9)])
    truth["annotations"][0]["id"] = 0
    assert evaluate_results(truth, rows, backend=backend).metrics["segm_map"] == pytest.approx(1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_are_left_alone_and_nothing_is_printed(backend, capfd):
    truth, rows = random_case(2)
    before = copy.deepcopy((truth, rows))
    evaluate_results(truth, rows, backend=backend)
    assert (truth, rows) == before
    assert capfd.readouterr() == ("", "")


def one_image(truths, found, size=(64, 64), category=7):
    """Ground truth and rows of rectangles (x1, y1, x2, y2) in one image."""

    def filled(rectangle):
        x1, y1, x2, y2 = rectangle
        mask = np.zeros(size, dtype=bool)
        mask[y1:y2, x1:x2] = True
        return mask

    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": category,
            "bbox": box_of(filled(rectangle)),
            "area": int(filled(rectangle).sum()),
            "iscrowd": 0,
            "segmentation": as_rle(filled(rectangle)),
        }
        for number, rectangle in enumerate(truths, start=1)
    ]
    rows = [
        {
            "image_id": 1,
            "category_id": category,
            "score": score,
            "bbox": box_of(filled(rectangle)),
            "segmentation": as_rle(filled(rectangle)),
        }
        for rectangle, score in found
    ]
    truth = {
        "images": [{"id": 1, "height": size[0], "width": size[1]}],
        "annotations": annotations,
        "categories": [{"id": category, "name": "thing"}],
    }
    return truth, rows


@pytest.mark.parametrize("backend", BACKENDS)
def test_average_precision_by_hand(backend):
    # hit .9, false .8, hit .7: precision 1 up to recall .5 (51 of 101 points), then 2/3
    truth, rows = one_image(
        [(0, 0, 10, 10), (20, 20, 30, 30)],
        [((0, 0, 10, 10), 0.9), ((40, 40, 50, 50), 0.8), ((20, 20, 30, 30), 0.7)],
    )
    metrics = evaluate_results(truth, rows, backend=backend).metrics
    for kind in ("box", "segm"):
        assert metrics[f"{kind}_map"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12)
        assert metrics[f"{kind}_ar_1"] == pytest.approx(0.5, abs=1e-12)
        assert metrics[f"{kind}_ar_10"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_thresholds_by_hand(backend):
    # 10 x 10 against 10 x 8: IoU .8 counts at .50 to .80, which is 7 of 10 thresholds
    truth, rows = one_image([(0, 0, 10, 10)], [((0, 0, 10, 8), 0.9)])
    metrics = evaluate_results(truth, rows, backend=backend).metrics
    assert metrics["segm_map"] == pytest.approx(0.7, abs=1e-12)
    assert metrics["segm_map_75"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_image_without_truth_counts(backend):
    # two images: a perfect one, and one without truth with a false positive of higher score
    truth, rows = one_image([(0, 0, 10, 10)], [((0, 0, 10, 10), 0.8)])
    truth["images"].append({"id": 2, "height": 64, "width": 64})
    rows.append({**rows[0], "image_id": 2, "score": 0.9})
    for row in rows:
        del row["bbox"]
    assert evaluate_results(truth, rows, backend=backend).metrics["segm_map"] == pytest.approx(
        0.5, abs=1e-12
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_size_bins_use_the_mask_although_the_row_has_a_box(backend):
    # Truth 20 x 20 (small), found; a false L of 79 px, small too, whose box covers 40 x 40.
    truth, rows = one_image([(0, 0, 20, 20)], [((0, 0, 20, 20), 0.5)])
    shape = np.zeros((64, 64), dtype=bool)
    shape[24, 24:64] = shape[24:64, 24] = True
    rows.append(
        {**rows[0], "score": 0.9, "bbox": [24.0, 24.0, 40.0, 40.0], "segmentation": as_rle(shape)}
    )
    metrics = evaluate_results(truth, rows, backend=backend).metrics
    assert metrics["segm_map_small"] == pytest.approx(0.5, abs=1e-12)  # the L is false and small
    assert metrics["box_map_small"] == pytest.approx(1.0, abs=1e-12)  # its box is not small
    assert np.isnan(metrics["segm_map_medium"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_than_100_detections(backend):
    # 120 squares all found: at a cap of 100 recall stops at 100/120, at 500 it is complete
    squares = [
        (4 * (k % 16), 4 * (k // 16), 4 * (k % 16) + 3, 4 * (k // 16) + 3) for k in range(120)
    ]
    truth, rows = one_image(squares, [(s, 1 - k / 1000) for k, s in enumerate(squares)])
    few = evaluate_results(truth, rows, backend=backend).metrics
    assert few["segm_ar_100"] == pytest.approx(100 / 120, abs=1e-12)
    assert few["segm_map"] == pytest.approx(84 / 101, abs=1e-12)  # recalls 0, .01, ..., .83
    many = evaluate_results(truth, rows, backend=backend, max_dets=500).metrics
    assert many["segm_map"] == pytest.approx(1, abs=1e-12)
    assert many["segm_ar_100"] == pytest.approx(100 / 120, abs=1e-12)
    assert many["segm_ar_500"] == many["segm_ar_small"] == pytest.approx(1, abs=1e-12)
    tens = evaluate_results(truth, rows, backend=backend, max_dets=(5, 20)).metrics
    assert tens["box_ar_5"] == pytest.approx(5 / 120, abs=1e-12)
    assert tens["box_ar_small"] == tens["box_ar_20"] == pytest.approx(20 / 120, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_score_is_nan_not_minus_one(backend):
    truth, rows = one_image([], [((0, 0, 5, 5), 0.5)])
    assert all(np.isnan(v) for v in evaluate_results(truth, rows, backend=backend).metrics.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detections_score_zero(backend):
    truth, _ = one_image([(0, 0, 5, 5)], [])
    metrics = evaluate_results(truth, [], backend=backend).metrics
    assert metrics["box_map"] == metrics["segm_map"] == metrics["segm_ar_100"] == 0


def test_masks_cannot_be_scored_against_boxes():
    truth, rows = one_image([(0, 0, 5, 5)], [((0, 0, 5, 5), 0.5)])
    truth["annotations"][0]["segmentation"] = []
    with pytest.raises(ValueError, match="annotation 1 of image 1 has no segmentation"):
        evaluate_results(truth, rows)
    with pytest.raises(ValueError, match="'fast' or 'pycocotools'"):
        evaluate_results(truth, rows, iou_types=("bbox",), backend="rust")
