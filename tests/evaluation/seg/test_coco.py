"""Choice of what is scored, tables and curves, and the collector of predictions."""

import json
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
import torch

from evaluation.seg.coco import CocoEvaluator, detection_caps, evaluate_results
from formats.coco.results import load_results
from formats.files import write_json
from structures import CategoryMap, Instances, RLEMasks, rle

CATEGORIES = CategoryMap((5, 8, 11), ("cat", "dog", "emu"))


def rectangle(x1, y1, x2, y2, size=(40, 50)):
    return rle.encode_window(np.ones((y2 - y1, x2 - x1), dtype=bool), y1, x1, size)


def instances(rectangles, labels, scores, size=(40, 50)):
    return Instances(
        boxes=torch.tensor(rectangles, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
        size=size,
        masks=RLEMasks.from_runs([rectangle(*r, size) for r in rectangles], size),
    )


def ground_truth(entries, size=(40, 50), categories=CATEGORIES):
    """images: image id -> list of (rectangle, category id)."""
    annotations = [
        {
            "id": 0,
            "image_id": image_id,
            "category_id": category,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "segmentation": RLEMasks.from_runs([rectangle(x1, y1, x2, y2, size)], size).to_coco()[
                0
            ],
        }
        for image_id, truths in entries.items()
        for (x1, y1, x2, y2), category in truths
    ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    images = [{"id": i, "height": size[0], "width": size[1]} for i in entries]
    return {"images": images, "annotations": annotations, "categories": categories.to_coco()}


def random_predictions(seed, entries=9):
    """Ground truth of three classes and noisy predictions with odd float32 boxes and scores."""
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    for image_id in rng.choice(1000, size=entries, replace=False).tolist():
        corners = rng.integers(0, 25, size=(rng.integers(0, 5), 2))
        sides = rng.integers(3, 15, size=corners.shape)
        boxes = np.concatenate([corners, corners + sides], axis=1)
        if len(boxes):
            boxes[0] = 0, 0, 38, 36  # of medium size, the others are small
        labels = rng.integers(0, 3, size=len(boxes))
        pairs = zip(boxes.tolist(), labels, strict=True)
        truth[image_id] = [(tuple(b), CATEGORIES.ids[k]) for b, k in pairs]
        seen = np.concatenate([boxes, boxes[: len(boxes) // 2] + 1])
        one = instances(seen.tolist(), np.resize(labels, len(seen)), rng.random(len(seen)).round(1))
        jitter = torch.from_numpy(rng.normal(scale=0.3, size=(len(seen), 4))).float()
        found[image_id] = Instances(
            one.boxes + jitter.abs() * 0.1, one.scores, one.labels, one.size, one.masks
        )
    return ground_truth(truth), found


def collected(found, **options):
    evaluator = CocoEvaluator(CATEGORIES, **options)
    for image_id, one in found.items():
        evaluator.add(image_id, one)
    return evaluator


def test_detection_caps():
    assert detection_caps(500) == detection_caps([500]) == (1, 10, 100, 500)
    assert detection_caps(100) == (1, 10, 100)
    assert detection_caps(7) == (1, 7)
    assert detection_caps((100, 20)) == (20, 100)
    for bad in (0, [], [1, 0]):
        with pytest.raises(ValueError, match="max_dets"):
            detection_caps(bad)


def test_rows_of_results_by_hand():
    one = instances([(2, 3, 12, 8), (0, 0, 4, 4)], [2, 0], [0.75, 0.5])
    rows = collected({31: one}).results()
    assert rows[0] == {
        "image_id": 31,
        "category_id": 11,
        "bbox": [2.0, 3.0, 10.0, 5.0],
        "score": 0.75,
        "segmentation": one.masks.to_coco()[0],
    }
    assert rows[1]["category_id"] == 5
    assert isinstance(rows[1]["segmentation"]["counts"], str)


def test_perfect_predictions_and_class_table():
    truth = ground_truth({1: [((0, 0, 10, 10), 5), ((20, 20, 30, 30), 8)], 2: [((5, 5, 9, 9), 8)]})
    found = {
        1: instances([(0, 0, 10, 10), (20, 20, 30, 30)], [0, 1], [0.9, 0.8]),
        2: instances([(30, 30, 34, 34)], [1], [0.9]),  # a miss and a false positive of class 8
    }
    truth["annotations"].append(  # a crowd region is nothing to find
        {**truth["annotations"][0], "id": 9, "image_id": 2, "iscrowd": 1}
    )
    scores = collected(found).compute(truth)
    # class 8: false at .9, hit at .8, one of two found: precision 1/2 at recalls 0 to .50
    half = 51 / 101 / 2
    assert scores.metrics["segm_map"] == pytest.approx((1 + half) / 2, abs=1e-12)
    rows = scores.per_class()
    assert [(r["category_id"], r["name"], r["instances"]) for r in rows] == [
        (5, "cat", 1),
        (8, "dog", 2),
        (11, "emu", 0),
    ]
    assert [r["segm_map"] for r in rows[:2]] == pytest.approx([1, half], abs=1e-12)
    assert [r["box_map_75"] for r in rows[:2]] == pytest.approx([1, half], abs=1e-12)
    assert np.isnan(rows[2]["segm_map"])
    assert scores.num_images == 2


def test_pr_curves_have_the_aps_as_means():
    truth, found = random_predictions(3)
    scores = collected(found).compute(truth)
    for iou_type, kind in (("bbox", "box"), ("segm", "segm")):
        for iou, name in ((0.5, "map_50"), (0.75, "map_75"), (None, "map")):
            recall, precision = scores.pr_curve(iou_type, iou)
            np.testing.assert_array_equal(recall, np.linspace(0, 1, 101))
            assert precision.mean() == pytest.approx(scores.metrics[f"{kind}_{name}"], abs=1e-12)
            if iou is not None:
                assert (np.diff(precision) <= 1e-12).all()
    with pytest.raises(ValueError, match=r"IoU 0\.52"):
        scores.pr_curve("segm", 0.52)
    with pytest.raises(ValueError, match="not evaluated"):
        collected(found, iou_types=("bbox",)).compute(truth).pr_curve("segm")


def test_curve_without_truth_is_nan():
    truth = ground_truth({1: []})
    _, precision = collected({1: instances([], [], [])}).compute(truth).pr_curve("segm")
    assert np.isnan(precision).all()


def test_what_the_rows_hold_is_scored():
    truth, found = random_predictions(0)
    rows = collected(found).results()
    boxes = [{k: v for k, v in row.items() if k != "segmentation"} for row in rows]
    masks = [{k: v for k, v in row.items() if k != "bbox"} for row in rows]
    kinds = [
        {name.split("_")[0] for name in evaluate_results(truth, part).metrics}
        for part in (rows, boxes, masks)
    ]
    assert kinds == [{"box", "segm"}, {"box"}, {"segm"}]
    with pytest.raises(ValueError, match="some rows have only"):
        evaluate_results(truth, [boxes[0], masks[1]])
    with pytest.raises(ValueError, match=r"row 0 \(image \d+\) has no 'segmentation'"):
        evaluate_results(truth, boxes, iou_types=("segm",))
    with pytest.raises(ValueError, match="'bbox', 'segm' or both"):
        evaluate_results(truth, boxes, iou_types=("box",))


def test_a_part_of_the_images():
    truth, found = random_predictions(1)
    keep = sorted(found)[:4]
    whole = collected(found).results()
    part = evaluate_results(truth, whole, image_ids=keep)
    cut = {
        **truth,
        "images": [i for i in truth["images"] if i["id"] in keep],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in keep],
    }
    alone = evaluate_results(cut, [r for r in whole if r["image_id"] in keep])
    assert part.metrics == pytest.approx(alone.metrics, nan_ok=True, abs=0)
    assert part.num_images == 4
    assert part.metrics != pytest.approx(evaluate_results(truth, whole).metrics, nan_ok=True)
    with pytest.raises(ValueError, match=r"image_ids .* not in the ground truth"):
        evaluate_results(truth, whole, image_ids=[-4])


def test_a_repeated_image_counts_once():
    truth, found = random_predictions(4)
    once = collected(found)
    before = once.compute(truth).metrics
    for image_id in found:  # the first predictions stay, also against another process
        once.add(image_id, instances([(0, 0, 40, 40)], [0], [1.0]))
    once.merge([collected(dict.fromkeys(found, instances([(0, 0, 40, 40)], [0], [1.0]))).state()])
    assert once.compute(truth).metrics == pytest.approx(before, nan_ok=True, abs=0)
    assert len(once) == len(found)
    once.reset()
    assert len(once) == 0
    assert once.results() == []


@pytest.mark.parametrize("backend", ["fast", "pycocotools"])
def test_processes_merge_to_the_single_result(backend):
    truth, found = random_predictions(5)
    single = collected(found, backend=backend)
    ids = list(found)
    # the second process repeats an image, as padding samplers do, and sees others in between
    parts = [{i: found[i] for i in ids[0::2]}, {i: found[i] for i in [*ids[1::2], ids[0]]}]
    states = [pickle.loads(pickle.dumps(collected(p, backend=backend).state())) for p in parts]
    joined = CocoEvaluator(CATEGORIES, backend=backend)
    joined.merge(states)
    assert joined.results() == single.results()
    ours, theirs = joined.compute(truth), single.compute(truth)
    assert ours.metrics == pytest.approx(theirs.metrics, nan_ok=True, abs=0)


def test_written_results_score_the_same(tmp_path):
    truth, found = random_predictions(6)
    evaluator = collected(found)
    path = write_json(tmp_path / "results.json", evaluator.results())
    again = load_results(path, truth)
    assert again == evaluator.results()
    offline, online = evaluate_results(truth, again).metrics, evaluator.compute(truth).metrics
    assert offline == pytest.approx(online, nan_ok=True, abs=0)


def test_metrics_are_valid_json(tmp_path):
    truth = ground_truth({1: [((0, 0, 10, 10), 5)]})
    scores = collected({1: instances([(0, 0, 10, 10)], [0], [0.9])}).compute(truth)
    read = json.loads(write_json(tmp_path / "m.json", scores.metrics).read_text())
    assert read["segm_map_large"] is None
    assert read["segm_map"] == scores.metrics["segm_map"]


def test_a_class_that_only_the_model_knows_changes_nothing():
    truth = ground_truth({1: [((0, 0, 10, 10), 5)]}, categories=CategoryMap((5,), ("cat",)))
    found = instances([(0, 0, 10, 10), (0, 0, 10, 10)], [0, 1], [0.5, 0.9])
    assert collected({1: found}).compute(truth).metrics["segm_map"] == pytest.approx(1)
    truth["categories"] = [{"id": 5, "name": "dog"}]
    with pytest.raises(ValueError, match="category id 5 is 'cat' for the model and 'dog'"):
        collected({1: found}).compute(truth)


def test_images_that_do_not_fit_are_refused():
    truth = ground_truth({1: [((0, 0, 10, 10), 5)], 2: []})
    with pytest.raises(ValueError, match="nothing to score"):
        CocoEvaluator(CATEGORIES).compute(truth)
    with pytest.raises(ValueError, match="image 3 is not in the ground truth"):
        collected({3: instances([], [], [])}).compute(truth)
    small = instances([(0, 0, 10, 10)], [0], [0.9], size=(20, 25))
    with pytest.raises(ValueError, match=r"image 1 was predicted at .* \(20, 25\)"):
        collected({1: small}).compute(truth)
    with pytest.raises(ValueError, match=r"image 1 has labels \[3\].*3 classes"):
        collected({1: instances([(0, 0, 10, 10)], [3], [0.9])})
    boxes_only = Instances(torch.zeros(1, 4), torch.ones(1), torch.zeros(1).long(), (40, 50))
    with pytest.raises(ValueError, match="image 1 have no masks"):
        collected({1: boxes_only})
    assert "segmentation" not in collected({1: boxes_only}, iou_types=("bbox",)).results()[0]


def test_warnings():
    truth = ground_truth({1: [((0, 0, 10, 10), 5)], 2: []})
    one = instances([(0, 0, 10, 10)], [0], [0.9])
    with pytest.warns(UserWarning, match="scoring 1 of the 2 images"):
        collected({1: one}).compute(truth)
    hollow = RLEMasks.from_runs([np.array([2000])], (40, 50))
    empty = Instances(one.boxes, one.scores, one.labels, one.size, hollow)
    with pytest.warns(UserWarning, match="all 1 predicted masks are empty"):
        collected({1: empty, 2: instances([], [], [])}).compute(truth)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collected({1: empty, 2: one}).compute(truth)


def peak_of(side):
    """Python memory held and reached for 30 images of one size with 20 rectangles each."""
    size = (side, side)
    corners = [(k, 2 * k, k + 15, 2 * k + 10) for k in range(20)]
    one = instances(corners, [0] * 20, [0.5] * 20, size)
    truth = ground_truth({i: [(c, 5) for c in corners[:3]] for i in range(30)}, size)
    collected({0: one}).compute({**truth, "images": truth["images"][:1], "annotations": []})
    tracemalloc.start()
    evaluator = collected(dict.fromkeys(range(30), one))
    held = tracemalloc.get_traced_memory()[0]
    evaluator.compute(truth)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held, peak


def test_memory_does_not_grow_with_pixels():
    small, large = peak_of(64), peak_of(2048)
    assert large[0] < 1.2 * small[0]
    assert large[1] < 1.2 * small[1]
    assert large[0] < 30 * 10_000  # 20 predictions an image in less than 10 kB
