"""Errors by kind against tidecv, and against scenes whose errors are known."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.report.errors import (
    KINDS,
    calibration_of_matches,
    detection_errors,
    error_summary,
    matched_scores,
)
from formats.coco.results import check_results
from tests.support import error_scenes

GOLDEN = Path(__file__).parent / "data" / "tide.json"  # benchmarks/parity/tide_golden.py
IOU_TYPES = {"segm": "segm", "box": "bbox"}


def summary(truth, rows, kind="box", **options):
    return error_summary(truth, detection_errors(truth, rows, IOU_TYPES[kind], **options))


def assert_equal(found, expected):
    assert found.counts == expected["counts"]
    assert found.gains == pytest.approx(expected["gains"], abs=1e-6)
    assert found.ap50 == pytest.approx(expected["ap50"], abs=1e-6)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def check_random(golden, seeds):
    for seed in seeds:
        truth, rows = error_scenes.random_scenes(seed)
        check_results(rows, truth)
        for kind in IOU_TYPES:
            assert_equal(summary(truth, rows, kind), golden[f"random_{seed}_{kind}"])


def test_random_scenes_equal_tidecv(golden):
    check_random(golden, range(10))


@pytest.mark.slow
def test_more_random_scenes_equal_tidecv(golden):
    check_random(golden, range(10, 50))


@pytest.mark.slow
@pytest.mark.parametrize("kind", IOU_TYPES)
def test_nuclei_equal_tidecv(golden, kind):
    if not error_scenes.NUCLEI.is_file():
        pytest.skip("needs ../shared/data/dsb2018_fluo")
    assert_equal(summary(*error_scenes.nuclei(), kind), golden[f"nuclei_{kind}"])


@pytest.mark.parametrize("kind", IOU_TYPES)
def test_coco_fixture_equals_tidecv_over_classes_with_objects(golden, kind):
    if not error_scenes.FIXTURE.is_dir():
        pytest.skip("needs ../shared/data/coco_eval_fixture")
    found = summary(*error_scenes.coco_fixture(IOU_TYPES[kind]), kind)
    assert_equal(found, golden[f"coco_{kind}"]["with_objects"])
    own = golden[f"coco_{kind}"]["own"]  # also has an AP of 0 for classes without objects
    assert found.counts == own["counts"] and own["ap50"] < found.ap50 - 0.01


def scene(objects, detections, images=1):
    """objects: (image, class, box[, crowd]); detections: (image, class, box, score)."""
    truth = {
        "images": [{"id": n, "height": 200, "width": 400} for n in range(images)],
        "categories": [{"id": c, "name": str(c)} for c in (1, 2, 3)],
        "annotations": [
            {"id": 10 * n, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3],
             "iscrowd": int(bool(crowd))}
            for n, (i, c, box, *crowd) in enumerate(objects)
        ],
    }  # fmt: skip
    rows = [
        {"image_id": i, "category_id": c, "bbox": box, "score": s} for i, c, box, s in detections
    ]
    return truth, rows


A, B, C, D = ([10 + 100 * n, 10, 40, 40] for n in range(4))


def moved(box, dx):
    return [box[0] + dx, *box[1:]]


def test_each_kind_in_one_image():
    objects = [(0, 1, A), (0, 1, B), (0, 2, C), (0, 2, D)]
    detections = [
        (0, 1, moved(A, 4), 0.9),  # match
        (0, 1, A, 0.8),  # dupe
        (0, 1, moved(B, 20), 0.7),  # loc, IoU 1/3
        (0, 1, C, 0.6),  # cls
        (0, 1, moved(D, 20), 0.5),  # both
        (0, 3, [10, 120, 40, 40], 0.4),  # bkg
        (0, 2, moved(C, 16), 0.3),  # loc, after the cls error at the same object
    ]
    truth, rows = scene(objects, detections)
    [image] = detection_errors(truth, rows, "bbox")
    assert image.image_id == 0
    kinds = ["match", "dupe", "loc", "cls", "both", "bkg", "loc"]
    assert [d.kind for d in image.detections] == kinds
    assert [d.row for d in image.detections] == list(range(7))
    assert [d.truth for d in image.detections] == [0, 0, 1, 2, 3, None, 2]
    assert [d.truth_category_id for d in image.detections] == [1, 1, 1, 2, 2, None, 2]
    assert [d.fixable for d in image.detections] == [False, False, True, True, False, False, False]
    overlap = [36 / 44, 1, 1 / 3, 1, 1 / 3, 0, 24 / 56]
    assert [d.iou for d in image.detections] == pytest.approx(overlap)
    assert [o.kind for o in image.objects] == ["match", "loc", "cls", "miss"]
    assert [o.row for o in image.objects] == [0, 2, 3, None]
    assert [o.truth for o in image.missed] == [3] and image.missed[0].iou == pytest.approx(1 / 3)
    found = error_summary(truth, [image])
    assert found.counts == {"cls": 1, "loc": 2, "both": 1, "dupe": 1, "bkg": 1, "miss": 1}
    assert list(found.counts) == list(KINDS)
    # Class 1: a match and then four errors of two objects; class 2: a loc error of two.
    half = 51 / 101
    assert found.by_class[1]["ap50"] == pytest.approx(half) and found.by_class[2]["ap50"] == 0
    assert np.isnan(found.by_class[3]["ap50"])
    assert found.ap50 == pytest.approx(half / 2)
    by_class = found.by_class[2]["gains"]
    assert by_class["cls"] == pytest.approx(half)  # C is found, its loc error comes after
    assert by_class["loc"] == 0  # that of C is not the best
    assert by_class["fn"] == 0 and found.by_class[2]["counts"]["loc"] == 1
    assert found.gains["fp"] == 0 and found.gains["dupe"] == 0
    scores, matched = matched_scores([image])
    assert (
        scores.tolist() == [r["score"] for r in rows] and matched.tolist() == [True] + [False] * 6
    )


def test_crowds_and_images_without_objects_or_detections():
    objects = [(0, 1, A), (0, 1, [100, 0, 100, 100], True), (2, 1, B)]
    detections = [
        (0, 1, [110, 10, 20, 20], 0.9),  # in the crowd
        (0, 2, [110, 40, 20, 20], 0.8),  # in a crowd of another class
        (0, 1, A, 0.7),
        (1, 1, A, 0.6),
    ]
    truth, rows = scene(objects, detections, images=4)
    images = detection_errors(truth, rows, "bbox")
    assert [(len(i.detections), len(i.objects)) for i in images] == [(3, 1), (1, 0), (0, 1), (0, 0)]
    assert [d.crowd for d in images[0].detections] == [True, False, False]
    assert [d.kind for d in images[0].detections] == ["bkg", "bkg", "match"]
    assert images[1].detections[0].iou == 0 and images[2].objects[0].kind == "miss"
    found = error_summary(truth, images)
    assert found.counts["bkg"] == 3 and found.counts["miss"] == 1
    assert found.ap50 == pytest.approx(51 / 101)  # the detection in the crowd costs nothing
    assert found.gains["miss"] == pytest.approx(50 / 101) and found.gains["bkg"] == 0
    scores, matched = matched_scores(images)
    assert scores.tolist() == [0.8, 0.7, 0.6] and matched.tolist() == [False, True, False]


def test_nothing_found_or_nothing_there():
    truth, rows = scene([(0, 1, A)], [(0, 1, A, 0.5)])
    found = summary(truth, [])
    assert found.ap50 == 0 and found.counts["miss"] == 1
    assert np.isnan(found.gains["miss"]) and np.isnan(found.gains["fn"])  # nothing left to score
    assert found.gains["cls"] == 0
    empty = summary({**truth, "annotations": []}, rows)
    assert np.isnan(empty.ap50) and empty.counts["bkg"] == 1
    assert all(np.isnan(gain) for gain in empty.gains.values())


def test_gains_by_size_fix_errors_of_that_size_alone():
    small, large = [10, 10, 20, 20], [60, 10, 150, 120]
    objects = [(0, 1, small), (0, 1, large)]
    rows = [(0, 1, [10, 100, 20, 20], 0.9), (0, 1, moved(small, 10), 0.8), (0, 1, large, 0.7)]
    found = summary(*scene(objects, rows))
    assert found.counts["bkg"] == found.counts["loc"] == 1
    assert found.by_size["small"]["counts"] == found.counts
    assert found.by_size["small"]["gains"] == pytest.approx(found.gains)
    assert set(found.by_size["large"]["gains"].values()) == {0.0}
    assert sum(found.by_size["large"]["counts"].values()) == 0


def test_only_the_best_detections_of_an_image_count():
    truth, rows = scene([(0, 1, A)], [(0, 2, D, 0.9), (0, 1, A, 0.5), (0, 3, B, 0.5)])
    assert summary(truth, rows, max_dets=1).counts["miss"] == 1
    [image] = detection_errors(truth, rows, "bbox", max_dets=2)
    assert [d.row for d in image.detections] == [0, 1]  # a tie keeps its order


def test_an_image_with_more_masks_than_pycocotools_takes_at_once():
    truth, rows = scene([(0, 1, A)], [(0, 1, A, 0.9 - n / 1000) for n in range(300)])
    left, top, width, height = A
    outline = [left, top, left + width, top, left + width, top + height, left, top + height]
    for record in (*truth["annotations"], *rows):
        record["segmentation"] = [outline]
    found = summary(truth, rows, "segm", max_dets=300)
    assert found.counts == dict.fromkeys(KINDS, 0) | {"dupe": 299}
    [image] = detection_errors(truth, rows, "segm", max_dets=300)
    assert {d.area for d in image.detections} == {width * height}


def test_a_record_without_a_mask_is_refused():
    with pytest.raises(ValueError, match="has no 'segmentation'"):
        detection_errors(*scene([(0, 1, A)], [(0, 1, A, 0.5)]), "segm")


def test_calibration_of_detections():
    objects = [(0, 1, A), (0, 1, [100, 0, 100, 100], True)]
    detections = [(0, 1, A, 0.75), (0, 1, B, 0.25), (0, 1, [110, 110, 9, 9], 0.25)]
    detections[1] = (0, 1, [120, 10, 20, 20], 0.5)  # in the crowd: not counted
    images = detection_errors(*scene(objects, detections), "bbox")
    found = calibration_of_matches(images)
    assert found["ece"] == found["mce"] == pytest.approx(0.25)
    assert found["brier"] == pytest.approx(0.0625)
    assert found["log_loss"] == pytest.approx(-np.log(0.75))
    assert sum(row["count"] for row in found["bins"]) == 2
    assert np.isnan(found["temperature"]) and found["undefined"] == {}
    assert calibration_of_matches([]) is None
    above = [(0, 1, A, 1.5)]
    assert calibration_of_matches(detection_errors(*scene(objects, above), "bbox")) is None
