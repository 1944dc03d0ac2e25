import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from evaluation.mil.classes import class_scores


def test_binary_by_hand():
    # Scores .9 .4 .6 .2 of labels 1 1 0 0; positive from .5: hit, miss, alarm, right.
    no, yes = class_scores([1, 1, 0, 0], [0.9, 0.4, 0.6, 0.2], "binary", 0.5, ("no", "yes"))
    assert (no["name"], no["bags"], no["predicted"]) == ("no", 2, 2)
    assert (yes["precision"], yes["recall"], yes["f1"]) == (0.5, 0.5, 0.5)
    assert yes["auroc"] == no["auroc"] == 0.75
    assert yes["auprc"] == pytest.approx((1 + 2 / 3) / 2)
    assert no["auprc"] == pytest.approx((1 + 2 / 3) / 2)


def test_multiclass_equals_sklearn():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 60)
    p = rng.dirichlet(np.ones(4), 60)
    rows = class_scores(labels, p, "multiclass", class_names=("a", "b", "c", "d"))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, p.argmax(axis=1), labels=range(4), zero_division=np.nan
    )
    for c, row in enumerate(rows):
        assert (row["label"], row["name"], row["bags"]) == (c, "abcd"[c], support[c])
        assert row["precision"] == pytest.approx(precision[c])
        assert row["recall"] == pytest.approx(recall[c])
        assert row["f1"] == pytest.approx(f1[c])
        assert row["auroc"] == pytest.approx(roc_auc_score(labels == c, p[:, c]))
        assert row["auprc"] == pytest.approx(average_precision_score(labels == c, p[:, c]))


def test_multilabel_uses_the_threshold_and_numbers_for_names():
    first, second = class_scores([[1, 0], [1, 1]], [[0.6, 0.7], [0.4, 0.8]], "multilabel", 0.65)
    assert (first["name"], first["bags"], first["predicted"], first["recall"]) == ("0", 2, 0, 0.0)
    assert math.isnan(first["precision"])
    assert math.isnan(first["auroc"])  # in every bag
    assert (second["predicted"], second["precision"], second["auroc"]) == (2, 0.5, 1.0)


def test_a_class_without_bags_and_decisions_has_no_scores():
    rows = class_scores([0, 0], [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1]], "multiclass")
    assert math.isnan(rows[2]["f1"])
    assert math.isnan(rows[2]["recall"])
    assert rows[0]["f1"] == 1.0
