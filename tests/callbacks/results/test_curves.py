from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from callbacks.results import curves
from callbacks.results.curves import Curves, class_curves, one_against_rest
from evaluation.mil.collector import BagScores
from evaluation.seg.coco import CocoEvaluator
from loggers.run import build_loggers, finish_loggers
from loggers.wandb_logger import WandbOptions


def scores(labels, probabilities):
    labels = np.array(labels)
    count = len(labels)
    names = tuple(str(k) for k in range(count))
    return BagScores(names, np.arange(count), labels, np.array(probabilities))


def test_binary_task_has_one_curve():
    pairs = one_against_rest(scores([0, 1, 1], [0.1, 0.8, 0.4]), ("no", "yes"))
    assert list(pairs) == ["bags"]
    np.testing.assert_array_equal(pairs["bags"][0], [0, 1, 1])
    np.testing.assert_array_equal(pairs["bags"][1], [0.1, 0.8, 0.4])


def test_bags_without_a_label_are_left_out():
    pairs = one_against_rest(scores([0, -1, 1], [0.1, 0.8, 0.4]), ())
    np.testing.assert_array_equal(pairs["bags"][1], [0.1, 0.4])


def test_each_class_against_the_rest():
    given = scores([0, 2, 0], [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
    pairs = one_against_rest(given, ("a", "b", "c"))
    assert list(pairs) == ["a", "c"]  # no bag is of class b
    np.testing.assert_array_equal(pairs["a"][0], [1, 0, 1])
    np.testing.assert_array_equal(pairs["c"][0], [0, 1, 0])
    np.testing.assert_array_equal(pairs["c"][1], [0.1, 0.7, 0.2])


def test_multilabel_columns():
    given = scores([[1, 0], [1, 1]], [[0.7, 0.2], [0.1, 0.6]])
    pairs = one_against_rest(given, ())
    assert list(pairs) == ["1"]  # class 0 is in every bag
    np.testing.assert_array_equal(pairs["1"][0], [0, 1])
    np.testing.assert_array_equal(pairs["1"][1], [0.2, 0.6])


def test_one_kind_of_bags_has_no_curve():
    assert one_against_rest(scores([1, 1], [0.1, 0.8]), ()) == {}


@pytest.mark.parametrize("kind", ["images", "bags"])
def test_files_of_a_run(kind, stand_in, make_trainer, tmp_path):
    module = stand_in.SegModule() if kind == "images" else stand_in.BagModule()
    data = getattr(stand_in, kind)()
    trainer = make_trainer([Curves()], max_epochs=2)
    trainer.fit(module, data, data)
    trainer.test(module, data, verbose=False)
    folder = tmp_path / "run" / "pictures"
    assert sorted(p.name for p in folder.iterdir()) == ["curves_test.png", "curves_val.png"]
    image = np.asarray(Image.open(folder / "curves_val.png"))
    assert image.shape[2] == 3
    assert (image < 128).any(axis=2).sum() > 20


def test_threshold_and_scores_of_the_module_are_drawn(
    stand_in, make_trainer, tmp_path, monkeypatch
):
    seen = []

    def record(curves_by_name, threshold, title):
        seen.append((list(curves_by_name), threshold, title))

    monkeypatch.setattr(curves, "plot_pr_roc", record)
    monkeypatch.setattr(curves, "rasterise", lambda _: np.zeros((2, 2, 3), dtype=np.uint8))
    module = stand_in.BagModule()
    module.threshold = 0.25
    trainer = make_trainer([Curves(every_n_epochs=2)], max_epochs=4)
    trainer.fit(module, stand_in.bags(), stand_in.bags())
    titles = ["val, epoch 001", "val, epoch 003", "val, epoch 004"]
    assert seen == [(["bags"], 0.25, title) for title in titles]


def test_bags_have_roc_and_precision_recall_charts():
    module = SimpleNamespace(
        scores=None, bag_scores=scores([0, 1, 1], [0.1, 0.8, 0.4]), class_names=("no", "yes")
    )
    charts = curves._charts(module)
    assert sorted(charts) == ["pr", "roc"]
    recall, precision = charts["pr"][0]["bags"]
    np.testing.assert_array_equal(recall, [0, 0.5, 1, 1])
    np.testing.assert_allclose(precision, [1, 1, 1, 2 / 3])
    false, true = charts["roc"][0]["bags"]
    np.testing.assert_array_equal(false, [0, 0, 0, 1])
    np.testing.assert_array_equal(true, [0, 0.5, 1, 1])


def test_images_have_a_curve_a_class_at_half_overlap(stand_in):
    evaluator = CocoEvaluator(stand_in.categories)
    for n in range(6):
        evaluator.add(100 + n, stand_in.found(n))
    truth = stand_in.ground_truth()
    # One square less than bars, so bars come first.
    truth["annotations"] = truth["annotations"][1:]
    found = class_curves(evaluator.compute(truth), "segm")
    assert list(found) == ["all classes", "bar", "square"]
    recall, precision = found["bar"]
    np.testing.assert_allclose(recall, np.linspace(0, 1, 101))
    np.testing.assert_array_equal(precision, np.ones(101))  # all exact, before any wrong one
    # Six squares of equal score, the first of nothing: 1 - 1/6 at best.
    assert found["square"][1].max() == pytest.approx(5 / 6)
    np.testing.assert_allclose(found["all classes"][1], (precision + found["square"][1]) / 2)


@pytest.mark.slow
def test_the_charts_reach_wandb(stand_in, make_trainer, offline_wandb, read_wandb):
    loggers = build_loggers(offline_wandb / "x" / "version_0", WandbOptions())
    trainer = make_trainer([Curves()], logger=loggers)
    trainer.fit(stand_in.BagModule(), stand_in.bags(), stand_in.bags())
    finish_loggers(loggers)
    (folder,) = (offline_wandb / "x/version_0/wandb").glob("offline-run-*")
    run = read_wandb(folder)
    points = run.tables("val/roc_table")
    # Bag k scores k - 2 and is positive where k is odd: AUROC 10/16.
    area = np.trapezoid([p["lineVal"] for p in points], [p["step"] for p in points])
    assert area == pytest.approx(10 / 16)
    assert run.tables("val/pr_table")[0] == {"step": 0.0, "lineKey": "bags", "lineVal": 1.0}
