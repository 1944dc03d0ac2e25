"""Each protocol equals the COCO tools, changed as the protocol says, and a slow matcher."""

import numpy as np
import pytest

from evaluation.open_world.protocols import evaluate_protocol, kept_detections
from evaluation.open_world.scores import area_under_recalls
from evaluation.seg.coco import score_results
from formats.coco.results import merge_categories
from formats.coco.splits import CategorySplit
from tests.support.open_world import CATEGORIES, KNOWN, coco_arrays, make_scenes, mean_of

CAPS = (1, 5, 10, 100)
SPLIT = CategorySplit("ids", KNOWN)
KIND = {"segm": "segm", "bbox": "box"}
every_kind = pytest.mark.parametrize("kind", ["segm", "bbox"])


def expected(truth, rows, kind, known=()):
    precision, recall = coco_arrays(truth, rows, kind, CAPS, known)
    name = KIND[kind]
    values = {
        f"{name}_map": precision[:, :, 0, -1],
        f"{name}_map_50": precision[0, :, 0, -1],
        f"{name}_map_75": precision[5, :, 0, -1],
        **{f"{name}_ar_{cap}": recall[:, 0, m] for m, cap in enumerate(CAPS)},
    }
    for a, area in enumerate(("small", "medium", "large"), start=1):
        values[f"{name}_map_{area}"] = precision[:, :, a, -1]
        values[f"{name}_ar_{area}"] = recall[:, a, -1]
    return {key: mean_of(value) for key, value in values.items()}


def novel_part(truth):
    return {
        **truth,
        "annotations": [a for a in truth["annotations"] if a["category_id"] not in KNOWN],
    }


def assert_equal(found, wanted):
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


@every_kind
@pytest.mark.parametrize("seed", range(6))
def test_exclude_known_is_the_column_filter_of_the_coco_tools(kind, seed):
    truth, rows = make_scenes(seed)
    found = evaluate_protocol("exclude-known", truth, rows, SPLIT, caps=CAPS, iou_types=[kind])
    assert_equal(found, expected(truth, rows, kind, KNOWN))


@every_kind
@pytest.mark.parametrize("seed", range(3))
def test_all_and_novel_only_are_the_coco_tools(kind, seed):
    truth, rows = make_scenes(seed + 10)
    options = {"caps": CAPS, "iou_types": [kind]}
    assert_equal(evaluate_protocol("all", truth, rows, **options), expected(truth, rows, kind))
    found = evaluate_protocol("novel-only", truth, rows, SPLIT, **options)
    assert_equal(found, expected(novel_part(truth), rows, kind))


@every_kind
@pytest.mark.parametrize("protocol", ["all", "novel-only"])
def test_both_are_the_class_agnostic_scores_of_the_coco_command(kind, protocol):
    truth, rows = make_scenes(20)
    found = evaluate_protocol(protocol, truth, rows, SPLIT, caps=CAPS, iou_types=[kind])
    scored = truth if protocol == "all" else novel_part(truth)
    agnostic = score_results(*merge_categories(scored, rows), max_dets=CAPS, iou_types=[kind])
    assert_equal(found, agnostic.metrics)


def test_images_without_novel_objects_can_be_dropped_which_raises_precision_alone():
    truth, rows = make_scenes(30, images=12)
    kept = evaluate_protocol("novel-only", truth, rows, SPLIT)
    dropped = evaluate_protocol("novel-only", truth, rows, SPLIT, drop_empty=True)
    assert dropped["segm_map"] > kept["segm_map"]
    assert dropped["segm_ar_100"] == kept["segm_ar_100"]


@every_kind
@pytest.mark.parametrize("seed", range(3))
def test_class_wise_is_one_evaluation_for_each_novel_category(kind, seed):
    truth, rows = make_scenes(seed + 40)
    recalls = []
    for category in (3, 7):
        own = [a for a in truth["annotations"] if a["category_id"] == category]
        _, recall = coco_arrays({**truth, "annotations": own}, rows, kind, CAPS)
        if (recall[:, 0] > -1).all():
            recalls.append(recall[:, 0].mean(axis=0))
    found = evaluate_protocol("class-wise", truth, rows, SPLIT, caps=CAPS, iou_types=[kind])
    wanted = dict(zip(CAPS, np.mean(recalls, axis=0), strict=True))
    assert found == pytest.approx({f"{KIND[kind]}_ar_{cap}": v for cap, v in wanted.items()})


def test_lvis_ow_has_a_mean_for_each_set_of_categories():
    truth, rows = make_scenes(50, images=20)
    split = CategorySplit("mine", known=(0, 4), seen=(3,), unseen=(7,))
    found = evaluate_protocol("lvis-ow", truth, rows, split, iou_types=["segm"])
    assert set(found) == {f"segm_ar_100{end}" for end in ("", "_known", "_seen", "_unseen")}
    each = {}
    for category in (0, 3, 4, 7):
        own = [a for a in truth["annotations"] if a["category_id"] == category]
        each[category] = coco_arrays({**truth, "annotations": own}, rows, "segm", (100,))[1].mean(
            axis=(0, 2)
        )[0]
    assert found["segm_ar_100_known"] == pytest.approx((each[0] + each[4]) / 2)
    assert found["segm_ar_100_seen"] == pytest.approx(each[3])
    assert found["segm_ar_100_unseen"] == pytest.approx(each[7])
    assert found["segm_ar_100"] == pytest.approx(np.mean(list(each.values())))


def scene(objects, found):
    """Return one image with boxes (category, x, crowd) of 40 pixels, and rows (x, score)."""
    annotations = [
        {
            **{"id": n, "image_id": 1, "category_id": category, "iscrowd": crowd, "area": 1600.0},
            "bbox": [x, 0, 40, 40],
        }
        for n, (category, x, crowd) in enumerate(objects)
    ]
    truth = {
        "images": [{"id": 1, "height": 50, "width": 400}],
        "annotations": annotations,
        "categories": CATEGORIES,
    }
    rows = [
        {"image_id": 1, "category_id": 0, "score": score, "bbox": [x, 0, 40, 40]}
        for x, score in found
    ]
    return truth, rows


def test_an_image_that_scores_differently_under_each_protocol():
    objects = [(0, 0, 0), (3, 100, 0), (3, 200, 0), (7, 300, 0)]
    truth, rows = scene(objects, [(0, 0.9), (100, 0.8), (200, 0.7), (300, 0.6)])
    wanted = {"exclude-known": 2 / 3, "novel-only": 1 / 3, "all": 1 / 2, "class-wise": 1 / 4}
    for protocol, recall in wanted.items():
        options = {"caps": (1, 2, 4), "iou_types": ["bbox"]}
        found = evaluate_protocol(protocol, truth, rows, SPLIT, **options)
        assert found["box_ar_2"] == pytest.approx(recall), protocol


def boxes(truth, rows, caps=(1, 2, 3)):
    return evaluate_protocol("exclude-known", truth, rows, SPLIT, caps=caps, iou_types=["bbox"])


def test_what_finds_a_known_object_leaves_the_budget_and_its_second_detection_does_not():
    truth, rows = scene([(0, 0, 0), (3, 100, 0)], [(0, 0.9), (0, 0.8), (100, 0.7)])
    found = boxes(truth, rows)
    assert (found["box_ar_1"], found["box_ar_2"], found["box_map"]) == (0, 1, pytest.approx(0.5))


def test_a_known_crowd_takes_all_its_detections_and_a_novel_one_takes_budget():
    truth, rows = scene([(0, 0, 1), (3, 100, 0)], [(0, 0.9), (0, 0.8), (100, 0.7)])
    assert boxes(truth, rows)["box_ar_1"] == 1
    truth, rows = scene([(3, 0, 1), (3, 100, 0)], [(0, 0.9), (0, 0.8), (100, 0.7)])
    found = boxes(truth, rows)
    assert (found["box_ar_1"], found["box_ar_3"], found["box_map"]) == (0, 1, pytest.approx(1))


def test_a_detection_prefers_a_free_novel_object_to_a_closer_known_one():
    truth, rows = scene([(0, 0, 0), (3, 12, 0)], [(2, 0.9)])  # IoU .90 and .60
    assert boxes(truth, rows, (1,))["box_ar_1"] == pytest.approx(0.3)
    # at IoU .50 it is matched to the novel one, so it stays, but at .65 to .90 it is ignored


def test_area_ranges_remove_what_ends_on_known_objects_by_themselves():
    truth, rows = scene([(0, 0, 0), (3, 100, 0)], [(0, 0.9), (100, 0.7)])
    truth["annotations"][1]["area"] = 100.0  # small
    found = boxes(truth, rows, (1, 2))
    assert (found["box_ar_small"], found["box_ar_1"]) == (1, 1)
    assert np.isnan(found["box_ar_medium"])
    # of a single kept detection nothing is left
    assert boxes(truth, rows, (1,))["box_ar_1"] == 0


def test_scores_without_novel_objects_or_without_detections():
    truth, rows = scene([(0, 0, 0)], [(0, 0.9)])
    assert all(np.isnan(value) for value in boxes(truth, rows).values())
    truth, _ = scene([(3, 0, 0)], [])
    found = boxes(truth, [])
    assert (found["box_map"], found["box_ar_3"], found["box_f1"]) == (0, 0, 0)
    assert np.isnan(found["box_auc"])


def test_the_area_under_the_recalls_of_the_published_row():
    row = (18.0, 26.5, 29.6, 33.4, 39.0, 41.5, 45.0)
    caps = (10, 30, 50, 100, 300, 500, 1000)
    area = area_under_recalls(dict(zip(caps, row, strict=True)))
    assert area == pytest.approx(24.85, abs=0.005)
    assert np.isnan(area_under_recalls(dict(zip(caps[1:], row[1:], strict=True))))
    measured = area_under_recalls({1: 12.0, **dict(zip(caps, row, strict=True))})
    assert measured == area  # AR at 1 counts as 0


@pytest.mark.parametrize(
    ("protocol", "split", "drop", "message"),
    [
        ("most", SPLIT, False, "there is no protocol 'most'; there are exclude-known"),
        ("class-wise", None, False, "class-wise needs the known categories"),
        ("lvis-ow", SPLIT, False, "needs seen and unseen categories, which the split ids lacks"),
        ("all", SPLIT, True, "--drop-empty belongs to the protocol novel-only"),
    ],
)
def test_what_a_protocol_needs_is_named(protocol, split, drop, message):
    with pytest.raises(ValueError, match=message):
        evaluate_protocol(protocol, *make_scenes(0), split, drop_empty=drop)


def test_rows_of_an_image_are_counted():
    truth, rows = make_scenes(0)
    counts = [sum(r["image_id"] == i["id"] for r in rows) for i in truth["images"]]
    assert kept_detections(truth, rows) == {"most": max(counts), "median": np.median(counts)}


def test_images_may_have_hundreds_of_masks():
    truth, rows = make_scenes(70, images=1, found=1)
    image = truth["images"][0]["id"]
    _, more = make_scenes(71, images=10, found=80)
    rows = [dict(row, image_id=image) for row in more]
    assert len(rows) > 255
    found = evaluate_protocol("all", truth, rows, caps=CAPS, iou_types=["segm"])
    assert_equal(found, expected(truth, rows, "segm"))


def test_of_two_equal_overlaps_the_last_object_is_taken():
    truth, rows = scene([(3, 0, 0), (3, 20, 0)], [(10, 0.9), (0, 0.8)])  # IoU .6 with both
    found = evaluate_protocol("all", truth, rows, caps=(1, 2), iou_types=["bbox"])
    assert found["box_ar_2"] == pytest.approx((2 * 3 + 1 * 7) / 20)
