"""Confusion cases by hand, curves against the point, a slow matcher, and the bootstrap."""

import warnings

import numpy as np
import pytest

from evaluation.seg.matching import match_detections
from evaluation.seg.operating_point import operating_point, paired_bootstrap
from structures import rle

SIZE = (40, 60)


def filled(x1, y1, x2, y2):
    mask = np.zeros(SIZE, dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


def record(image_id, category_id, corners):
    x1, y1, x2, y2 = corners
    runs = rle.encode(filled(*corners))
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "segmentation": {"size": list(SIZE), "counts": rle.to_bytes(runs).decode()},
    }


def truth_of(*truths, images=(1,), names=("trunk", "branch")):
    """truths: (image id, category id, corners[, iscrowd])."""
    return {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in images],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
        "annotations": [
            {**record(*t[:3]), "id": n, "area": 1.0, "iscrowd": t[3] if len(t) > 3 else 0}
            for n, t in enumerate(truths, start=1)
        ],
    }


def found_of(*found):
    """found: (image id, category id, corners, score)."""
    return [{**record(*f[:3]), "score": f[3]} for f in found]


def counts(truth, found, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        point = operating_point(truth, found, **options)
    return {row["category_id"]: (row["tp"], row["fp"], row["fn"]) for row in point.per_class()}


A, B = (0, 0, 10, 10), (20, 0, 30, 10)


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_a_duplicate_is_one_hit_and_one_false_alarm(iou_type):
    truth = truth_of((1, 1, A))
    found = found_of((1, 1, A, 0.9), (1, 1, A, 0.8))
    assert counts(truth, found, iou_type=iou_type)[1] == (1, 1, 0)


def test_a_wrong_class_is_a_false_alarm_and_a_miss():
    result = counts(truth_of((1, 1, A)), found_of((1, 2, A, 0.9)))
    assert result == {1: (0, 0, 1), 2: (0, 1, 0)}


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_overlap_and_score_of_exactly_one_half_count(iou_type):
    half, less = (0, 0, 10, 5), (0, 0, 10, 4)
    truth = truth_of((1, 1, A))
    assert counts(truth, found_of((1, 1, half, 0.5)), iou_type=iou_type)[1] == (1, 0, 0)
    assert counts(truth, found_of((1, 1, less, 0.5)), iou_type=iou_type)[1] == (0, 1, 1)
    assert counts(truth, found_of((1, 1, half, 0.4999)), iou_type=iou_type)[1] == (0, 0, 1)
    exact = counts(truth, found_of((1, 1, A, 0.5)), iou_type=iou_type, iou=1.0)
    assert exact[1] == (1, 0, 0)


def test_the_best_overlap_is_taken_and_the_best_score_chooses_first():
    # the better-scored detection takes the nearer truth, so the other gets the second one
    truth = truth_of((1, 1, (0, 0, 10, 10)), (1, 1, (3, 0, 13, 10)))
    found = found_of((1, 1, (1, 0, 11, 10), 0.9), (1, 1, (2, 0, 12, 10), 0.8))
    assert counts(truth, found)[1] == (2, 0, 0)
    # IoU with the first truth 9/11, with the second 9/11 and 8/12: swapped scores fail at .82
    assert counts(truth, found, iou=0.8)[1] == (2, 0, 0)
    greedy = found_of((1, 1, (1, 0, 11, 10), 0.8), (1, 1, (0, 0, 10, 10), 0.9))
    assert counts(truth, greedy, iou=0.8)[1] == (1, 1, 1)


def test_other_images_do_not_match():
    truth = truth_of((1, 1, A), images=(1, 2))
    assert counts(truth, found_of((2, 1, A, 0.9)))[1] == (0, 1, 1)


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_a_crowd_absorbs_without_penalty(iou_type):
    truth = truth_of((1, 1, (0, 0, 60, 20), 1), (1, 1, (0, 0, 10, 10)))
    found = found_of(
        (1, 1, A, 0.9),  # the single object first, although the crowd covers it wholly
        (1, 1, (30, 0, 40, 10), 0.8),  # two in the crowd
        (1, 1, (45, 5, 55, 15), 0.7),
        (1, 1, (30, 14, 40, 30), 0.6),  # 6 of 16 rows in the crowd: a false alarm
    )
    assert counts(truth, found, iou_type=iou_type)[1] == (1, 1, 0)


def test_only_the_best_detections_of_an_image_are_kept():
    truth = truth_of((1, 1, A), (1, 2, B))
    found = found_of((1, 1, (40, 0, 50, 9), 0.9), (1, 2, B, 0.8), (1, 1, A, 0.7))
    assert counts(truth, found, max_dets=2) == {1: (0, 1, 1), 2: (1, 0, 0)}
    assert counts(truth, found) == {1: (1, 1, 0), 2: (1, 0, 0)}


def test_rates_means_and_totals_by_hand():
    # class 1: 3 hits, 1 false, 0 missed; class 2: 1 hit, 0 false, 3 missed
    at = [(12 * k, 0, 12 * k + 10, 10) for k in range(4)]
    truth = truth_of(*((1, 1, c) for c in at[:3]), *((2, 2, c) for c in at), images=(1, 2))
    found = found_of(*((1, 1, c, 0.9) for c in at), (2, 2, at[0], 0.6))
    point = operating_point(truth, found)
    rows = {row["name"]: row for row in point.per_class()}
    assert rows["trunk"]["precision"] == pytest.approx(3 / 4)
    assert rows["trunk"]["recall"] == pytest.approx(1.0)
    assert rows["trunk"]["f1"] == pytest.approx(6 / 7)
    assert rows["branch"]["f1"] == pytest.approx(2 / 5)
    assert point.metrics() == pytest.approx(
        {
            "mean_precision": (3 / 4 + 1) / 2,
            "mean_recall": (1 + 1 / 4) / 2,
            "mean_f1": (6 / 7 + 2 / 5) / 2,
            "micro_precision": 4 / 5,
            "micro_recall": 4 / 7,
            "micro_f1": 8 / 12,
        }
    )
    assert point.counts.tolist() == [[[3, 1, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, 3]]]


def test_an_absent_class_is_nan_and_left_out_with_a_warning():
    truth = truth_of((1, 1, A))
    with pytest.warns(UserWarning, match="precision of branch, recall of branch, f1 of branch"):
        point = operating_point(truth, found_of((1, 1, A, 0.9)))
    assert np.isnan(point.per_class()[1]["recall"])
    assert point.metrics()["mean_recall"] == 1
    with pytest.warns(UserWarning, match="mean: recall of branch"):
        point = operating_point(truth, found_of((1, 1, A, 0.9), (1, 2, A, 0.9)))
    assert point.metrics()["mean_precision"] == 0.5  # a false alarm of an absent class counts
    assert point.metrics()["mean_recall"] == 1


def random_set(seed, images=12):
    rng = np.random.default_rng(seed)

    def corners():
        x, y = rng.integers(0, 45), rng.integers(0, 28)
        return (x, y, x + rng.integers(4, 14), y + rng.integers(4, 11))

    truths, found = [], []
    for i in range(1, images + 1):
        for _ in range(rng.integers(0, 6)):
            c, k = corners(), rng.integers(1, 3)
            truths.append((i, k, c, int(rng.random() < 0.15)))
            for _ in range(rng.integers(0, 3)):
                shift = rng.integers(-2, 3)
                moved = (max(c[0] + shift, 0), c[1], min(c[2] + shift, SIZE[1]), c[3])
                found.append((i, k, moved, float(round(rng.random(), 2))))
        for _ in range(rng.integers(0, 3)):
            found.append((i, rng.integers(1, 3), corners(), float(round(rng.random(), 2))))
    return truth_of(*truths, images=range(1, images + 1)), found_of(*found)


def slow_matches(truth, found, iou):
    """(image, category) -> (score, right) by dense masks and plain loops."""
    outcome = {}
    for image in truth["images"]:
        for category in truth["categories"]:
            key = (image["id"], category["id"])

            def mine(rows, key=key):
                return [r for r in rows if (r["image_id"], r["category_id"]) == key]

            truths, used, kept = mine(truth["annotations"]), set(), []
            for row in sorted(mine(found), key=lambda r: r["score"], reverse=True):
                mask, best, which, absorbed = dense(row), 0.0, None, False
                for number, one in enumerate(truths):
                    other = dense(one)
                    both = (mask & other).sum()
                    if one["iscrowd"]:
                        absorbed |= both / mask.sum() >= iou
                    elif number not in used and both / (mask | other).sum() > best:
                        best, which = both / (mask | other).sum(), number
                if best >= iou:
                    used.add(which)
                    kept.append((row["score"], True))
                elif not absorbed:
                    kept.append((row["score"], False))
            outcome[key] = (kept, sum(not t["iscrowd"] for t in truths))
    return outcome


def dense(row):
    return rle.decode(rle.from_bytes(row["segmentation"]["counts"]), SIZE)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("iou", [0.5, 0.8])
def test_matching_equals_a_slow_matcher(seed, iou):
    truth, found = random_set(seed)
    fast = match_detections(truth, found, iou, "segm", 300)
    for key, (kept, positives) in slow_matches(truth, found, iou).items():
        if key in fast:
            assert sorted(fast[key].detections) == sorted(kept)
            assert fast[key].positives == positives
        else:
            assert (kept, positives) == ([], 0)


@pytest.mark.parametrize("score", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_confidence_is_between_0_and_1(score):
    with pytest.raises(ValueError, match=r"in \[0, 1\], got"):
        operating_point(truth_of((1, 1, A)), [], score=score)


def test_order_of_the_rows_does_not_matter():
    truth, found = random_set(5)
    scores = np.random.default_rng(0).permutation(len(found)) / len(found)  # no ties
    found = [{**row, "score": float(s)} for row, s in zip(found, scores, strict=True)]
    mixed = [found[k] for k in np.random.default_rng(1).permutation(len(found))]
    assert (operating_point(truth, found).counts == operating_point(truth, mixed).counts).all()


def test_curves_hold_the_point_at_every_confidence():
    truth, found = random_set(6)
    point = operating_point(truth, found)
    assert point.confidences[[0, -1]].tolist() == [0, 1]
    assert len(point.confidences) == 1000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in (0, 123, 500, 777, 999):
            there = operating_point(truth, found, score=float(point.confidences[k]))
            np.testing.assert_array_equal(there.counts.sum(axis=0), point.curve_counts[k])
            rows = there.per_class()
            for name, values in point.curves().items():
                np.testing.assert_array_equal(values[k], [row[name] for row in rows])
            for name, value in there.metrics().items():
                np.testing.assert_array_equal(point.mean_curves()[name][k], value)
    assert (np.diff(point.curves()["recall"], axis=0) <= 0).all()


def test_records_of_curves():
    point = operating_point(*random_set(6))
    record = point.curve_record()
    by_class = record.pop("per_class")
    assert record.keys() == point.metrics().keys()
    for name, values in record.items():
        assert type(values) is list
        np.testing.assert_array_equal(values, point.mean_curves()[name])
    assert [(row["category_id"], row["name"]) for row in by_class] == [(1, "trunk"), (2, "branch")]
    for c, row in enumerate(by_class):
        for rate, values in point.curves().items():
            np.testing.assert_array_equal(row[rate], values[:, c])


@pytest.mark.filterwarnings("ignore:undefined")
@pytest.mark.parametrize(("classes", "rows"), [(20, 20), (21, 0)])
def test_records_of_many_classes_have_the_means_alone(classes, rows):
    truth = truth_of((1, 1, A), names=[f"class {n}" for n in range(classes)])
    record = operating_point(truth, found_of((1, 1, A, 0.9))).curve_record()
    assert len(record["per_class"]) == rows
    assert len(record["mean_f1"]) == 1000


def test_a_score_on_the_grid_counts_at_its_confidence():
    truth = truth_of((1, 1, A), names=("trunk",))
    grid = np.linspace(0, 1, 1000)
    point = operating_point(truth, found_of((1, 1, A, float(grid[600]))))
    assert point.curve_counts[599:602, 0].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]


def test_the_tuned_point_is_the_best_of_the_curve_and_says_so():
    truth, found = random_set(7)
    point = operating_point(truth, found)
    tuned = point.tuned()
    f1 = point.curves()["f1"].mean(axis=1)
    assert tuned.f1 == pytest.approx(np.nanmax(f1))
    assert tuned.f1 > point.metrics()["mean_f1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = operating_point(truth, found, score=tuned.score).metrics()
    assert there["mean_f1"] == pytest.approx(tuned.f1)
    assert there["mean_precision"] == pytest.approx(tuned.precision)
    assert point.summary(resamples=10)["tuned_on_this_data"] == tuned._asdict()


def test_bootstrap_equals_a_plain_loop():
    truth, found = random_set(8)
    point = operating_point(truth, found)
    images = len(point.image_ids)
    rng = np.random.default_rng(3)
    recalls, precisions = [], []
    for picks in rng.integers(images, size=(200, images)):
        tp, _, fn = point.counts[picks].sum(axis=(0, 1))
        recalls.append(tp / (tp + fn))
        by_class = point.counts[picks].sum(axis=0)
        precisions.append(np.mean(by_class[:, 0] / (by_class[:, 0] + by_class[:, 1])))
    intervals = point.intervals(resamples=200, seed=3)
    for name, values in (("micro_recall", recalls), ("mean_precision", precisions)):
        assert intervals[name].value == pytest.approx(point.metrics()[name], abs=1e-12)
        low, high = np.quantile(values, [0.025, 0.975])
        assert (intervals[name].low, intervals[name].high) == pytest.approx((low, high), abs=1e-12)
        assert low < intervals[name].value < high
    assert point.intervals(resamples=200, seed=3) == intervals
    assert point.intervals(resamples=200, seed=4) != intervals
    narrow = point.intervals(resamples=200, seed=3, level=0.5)["micro_recall"]
    assert narrow.high - narrow.low < high - low


def test_paired_difference():
    truth, found = random_set(9, images=30)
    better = operating_point(truth, found)
    worse = operating_point(truth, [row for n, row in enumerate(found) if n % 2])
    same = paired_bootstrap(better, better, resamples=50)
    assert all(tuple(interval) == (0, 0, 0) for interval in same.values())
    paired = paired_bootstrap(better, worse, resamples=400)["micro_recall"]
    own = [p.metrics()["micro_recall"] for p in (better, worse)]
    assert paired.value == pytest.approx(own[0] - own[1], abs=1e-12)
    assert paired.value > 0
    assert paired.low > 0  # every hit of the worse model is one of the better
    reverse = paired_bootstrap(worse, better, resamples=400)["micro_recall"]
    assert (reverse.low, reverse.high) == pytest.approx((-paired.high, -paired.low), abs=1e-12)
    alone = better.intervals(resamples=400)["micro_recall"]
    assert paired.high - paired.low < alone.high - alone.low
    with pytest.raises(ValueError, match="different iou"):
        paired_bootstrap(better, operating_point(truth, found, iou=0.75))


def test_bad_requests():
    truth, found = random_set(0)
    with pytest.raises(ValueError, match=r"iou must be in \(0, 1\]"):
        operating_point(truth, found, iou=0)
    with pytest.raises(ValueError, match="row 0: image_id 77"):
        operating_point(truth, [{**found[0], "image_id": 77}])
    boxes = [{k: v for k, v in row.items() if k != "segmentation"} for row in found]
    with pytest.raises(ValueError, match="has no 'segmentation'"):
        operating_point(truth, boxes)
