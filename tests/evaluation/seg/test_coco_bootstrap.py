"""The paired bootstrap over images: its draws, and what its intervals are worth."""

import numpy as np
import pytest

from evaluation.seg import coco_bootstrap
from evaluation.seg.coco import evaluate_results
from evaluation.seg.coco_bootstrap import compare_images
from tests.evaluation.seg.test_coco_backends import random_case
from tests.evaluation.seg.test_coco_weighted import copied


def shaken(rows, seed):
    """The results of a worse model: scores shaken, some missing."""
    random = np.random.default_rng(seed)
    kept = [row for row in rows if random.random() < 0.8]
    return [{**row, "score": row["score"] * random.random()} for row in kept]


def test_draws_are_images_taken_with_replacement():
    truth, rows = random_case(4)
    other = shaken(rows, 0)
    found = compare_images(truth, rows, other, draws=30, seed=7)
    count = len(truth["images"])
    picks = np.random.default_rng(7).integers(count, size=(30, count))
    over = []
    for row in picks:
        weights = np.bincount(row, minlength=count)
        one, two = (evaluate_results(*copied(truth, r, weights)).metrics for r in (rows, other))
        over.append({name: one[name] - two[name] for name in one})
    whole = [evaluate_results(truth, r).metrics for r in (rows, other)]
    assert list(found.differences) == list(whole[0])
    for name, difference in found.differences.items():
        values = np.array([row[name] for row in over])
        values = values[np.isfinite(values)]
        np.testing.assert_equal(difference[:2], (whole[0][name], whole[1][name]))
        if np.isnan(difference.value):
            assert not values.size
            continue
        expected = np.quantile(values, [0.025, 0.975])
        assert difference[3:5] == pytest.approx(expected, abs=1e-9)
        extreme = 1 + min((values <= 1e-12).sum(), (values >= -1e-12).sum())
        assert difference.p == pytest.approx(min(1, 2 * extreme / (1 + values.size)))


def test_blocks_give_the_same_draws(monkeypatch):
    truth, rows = random_case(3)
    other, told = shaken(rows, 1), []
    whole = compare_images(truth, rows, other, draws=25)
    monkeypatch.setattr(coco_bootstrap, "_CELLS_PER_BLOCK", 100)
    blocks = compare_images(
        truth, rows, other, draws=25, progress=lambda done, total: told.append((done, total))
    )
    np.testing.assert_equal(blocks.differences, whole.differences)
    np.testing.assert_equal(blocks.intervals, whole.intervals)
    assert len(told) > 2
    assert told[-1] == (25, 25)


def test_a_model_against_itself_differs_by_nothing():
    truth, rows = random_case(5)
    found = compare_images(truth, rows, rows, draws=20)
    assert {d[2:] for d in found.differences.values() if d.first == d.first} == {(0, 0, 0, 1)}
    low, high = found.intervals[0]["segm_map"]
    assert low < high


def test_what_both_hold_is_compared():
    truth, rows = random_case(5)
    boxes = [{k: v for k, v in row.items() if k != "segmentation"} for row in rows]
    masks = [{k: v for k, v in row.items() if k != "bbox"} for row in rows]
    found = compare_images(truth, rows, boxes, draws=2)
    assert {name.split("_")[0] for name in found.differences} == {"box"}
    with pytest.raises(ValueError, match="first results have box, the second segm"):
        compare_images(truth, boxes, masks)
    with pytest.raises(ValueError, match="draws"):
        compare_images(truth, rows, rows, draws=0)
    with pytest.raises(ValueError, match="no images"):
        compare_images({**truth, "images": [], "annotations": []}, [], [], draws=2)


def simulated(random, images, slack):
    """Images of one class with 1 to 6 objects, seen by two models that differ in accuracy."""
    truth = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    found = [[], []]
    for i in range(1, images + 1):
        truth["images"].append({"id": i, "height": 100, "width": 700})
        hard = random.random()
        for place in range(random.integers(1, 7)):
            box = [100.0 * place, 10.0, 60.0, 60.0]
            number = len(truth["annotations"]) + 1
            record = {"id": number, "image_id": i, "category_id": 1, "area": 3600.0, "iscrowd": 0}
            truth["annotations"].append({**record, "bbox": box})
            common = random.normal() * 3
            for rows, more in zip(found, slack, strict=True):
                off = abs(common + random.normal() * 3) * (0.5 + hard) * more
                score = float(random.beta(4, 2))
                rows.append({"image_id": i, "category_id": 1, "score": score,
                             "bbox": [box[0] + off, *box[1:]]})  # fmt: skip
        for rows in found:
            for _ in range(random.poisson(1.0)):
                corner = random.random(2) * [600, 30]
                rows.append({"image_id": i, "category_id": 1, "score": float(random.beta(2, 4)),
                             "bbox": [*corner.tolist(), 60.0, 60.0]})  # fmt: skip
    return truth, found


@pytest.mark.slow
def test_intervals_are_as_wide_as_data_sets_vary():
    random = np.random.default_rng(0)
    sets = [simulated(random, 60, (1.0, 1.5)) for _ in range(250)]
    values = [[evaluate_results(truth, rows).metrics for rows in found] for truth, found in sets]
    compared = [compare_images(truth, *found, draws=200) for truth, found in sets[:20]]
    for name in ("box_map", "box_map_75"):
        each = np.array([[one[name] for one in pair] for pair in values])
        # 2 x 1.96 standard deviations; 250 sets tell them to 4.5 %
        widths = [c.differences[name].high - c.differences[name].low for c in compared]
        spread = (each[:, 0] - each[:, 1]).std(ddof=1)
        assert np.mean(widths) / 3.92 == pytest.approx(spread, rel=0.2)
        for model in range(2):
            alone = [np.diff(c.intervals[model][name])[0] for c in compared]
            assert np.mean(alone) / 3.92 == pytest.approx(each[:, model].std(ddof=1), rel=0.2)
