"""Metrics of resampled images against pycocotools on the images really copied."""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from evaluation.seg import coco_weighted
from evaluation.seg.coco import evaluate_results
from evaluation.seg.coco_backends import match_images
from evaluation.seg.coco_weighted import match_once, weighted_metrics
from formats.coco.results import merge_categories
from tests.evaluation.seg.test_coco_backends import random_case

MANY = 0  # seed of a case with 130 detections in an image
FIXTURE = Path(__file__).parents[3] / ".." / "shared" / "data" / "coco_eval_fixture"


def copied(truth, rows, weights):
    """The data set in which image i (by ascending id) is there weights[i] times, side by side."""
    images, annotations, results = [], [], []
    for image, times in zip(sorted(truth["images"], key=lambda i: i["id"]), weights, strict=True):
        for _ in range(times):
            new = len(images) + 1
            images.append({**image, "id": new})
            for annotation in truth["annotations"]:
                if annotation["image_id"] == image["id"]:
                    number = len(annotations) + 1
                    annotations.append({**annotation, "id": number, "image_id": new})
            results += [{**r, "image_id": new} for r in rows if r["image_id"] == image["id"]]
    return {**truth, "images": images, "annotations": annotations}, results


def draws(seed, images, count):
    picks = np.random.default_rng(seed).integers(images, size=(count, images))
    return np.stack([np.bincount(row, minlength=images) for row in picks])


def check(truth, rows, iou_type, weights, caps=(1, 10, 100)):
    found = weighted_metrics(match_once(truth, rows, iou_type, caps), weights)
    for number, row in enumerate(weights):
        resampled, results = copied(truth, rows, row)
        expected = evaluate_results(
            resampled, results, max_dets=caps, iou_types=(iou_type,), backend="pycocotools"
        ).metrics
        assert list(found) == list(expected)
        ours = {name: values[number] for name, values in found.items()}
        assert ours == pytest.approx(expected, abs=1e-9, nan_ok=True)


# Crowds, ties, images without truth or results, classes absent from a draw.
@pytest.mark.parametrize("seed", range(8))
def test_draws_equal_pycocotools_on_copied_images(seed):
    truth, rows = random_case(seed)
    weights = draws(seed, len(truth["images"]), 3)
    weights[0, :2] = 6, 0  # many copies of one image, none of the next
    for iou_type in ("bbox", "segm"):
        check(truth, rows, iou_type, weights)


@pytest.mark.parametrize("few", [0, 99])
def test_large_data_sets_are_scored_alike(monkeypatch, few):
    """Without tables of recalls, and by either way of adding up."""
    truth, rows = random_case(4)
    weights = draws(4, len(truth["images"]), 3)
    expected = weighted_metrics(match_once(truth, rows, "segm"), weights)
    monkeypatch.setattr(coco_weighted, "_LARGEST_TABLE", 0)
    monkeypatch.setattr(coco_weighted, "_FEW_DRAWS", few)
    found = weighted_metrics(match_once(truth, rows, "segm"), weights)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, name)


@pytest.mark.parametrize("caps", [(1, 10, 100), (2, 5), (300,), (1, 3, 4, 200)])
def test_caps_on_detections(caps):
    truth, rows = merge_categories(*random_case(MANY))
    assert max(Counter(row["image_id"] for row in rows).values()) > 100
    check(truth, rows, "bbox", draws(0, len(truth["images"]), 2), caps)


def test_the_cases_hold_what_they_are_meant_to():
    """Else the parity above would be one on easy data."""
    absent = tied = crowds = empty = 0
    for seed in range(8):
        truth, rows = random_case(seed)
        weights = draws(seed, len(truth["images"]), 3)
        weights[0, :2] = 6, 0
        matches = match_once(truth, rows, "bbox")
        for one in matches.classes:
            absent += int(((weights @ one.positives[0] == 0) & (one.positives[0].sum() > 0)).sum())
            pairs = set(zip(one.image.tolist(), one.scores.tolist(), strict=True))
            tied += one.scores.size - len(pairs)
        crowds += sum(a["iscrowd"] for a in truth["annotations"])
        with_truth = {a["image_id"] for a in truth["annotations"]}
        empty += sum(image["id"] not in with_truth for image in truth["images"])
    assert min(absent, tied, crowds, empty) >= 3


def test_weights_of_one_give_the_metrics_of_the_data():
    for seed in range(3):
        truth, rows = random_case(seed)
        once = np.ones((1, len(truth["images"])), dtype=np.int64)
        scores = evaluate_results(truth, rows)
        found: dict[str, float] = {}
        for iou_type in ("bbox", "segm"):
            values = weighted_metrics(match_once(truth, rows, iou_type), once)
            found |= {name: value[0] for name, value in values.items()}
        assert found == pytest.approx(scores.metrics, abs=1e-12, nan_ok=True)


def test_both_backends_match_alike():
    truth, rows = random_case(3)
    for iou_type in ("bbox", "segm"):
        found = [
            {(m.image, m.category, m.area): m for m in match_images(truth, rows, iou_type, 100, b)}
            for b in ("fast", "pycocotools")
        ]
        assert found[0].keys() == found[1].keys()
        for key, one in found[0].items():
            for ours, theirs in zip(one, found[1][key], strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_nothing_found_and_nothing_to_find():
    truth, rows = random_case(1)
    weights = draws(0, len(truth["images"]), 2)
    nothing = weighted_metrics(match_once(truth, [], "bbox"), weights)
    assert nothing["box_map"].tolist() == [0, 0]
    assert nothing["box_ar_100"].tolist() == [0, 0]
    bare = {**truth, "annotations": []}
    undefined = weighted_metrics(match_once(bare, rows, "bbox"), weights)
    assert all(np.isnan(values).all() for values in undefined.values())


@pytest.fixture(scope="module")
def published():
    if not FIXTURE.is_dir():
        pytest.skip("needs ../shared/data/coco_eval_fixture")
    truth = json.loads((FIXTURE / "instances_val2014_100.json").read_text())
    rows = json.loads((FIXTURE / "instances_val2014_fakesegm100_results.json").read_text())
    return truth, rows


def test_real_images_of_80_classes(published):
    truth, rows = published
    check(truth, rows, "segm", draws(4, len(truth["images"]), 1))


def test_a_thousand_draws_take_seconds(published):
    matches = match_once(*published, "segm")
    weights = draws(0, matches.images, 1000)
    start = time.process_time()
    weighted_metrics(matches, weights)
    assert time.process_time() - start < 4  # a second here
