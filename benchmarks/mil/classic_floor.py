"""Baselines of MIL models: pooled instances with a scikit-learn classifier.

A bag is represented by the mean, maximum or minimum of each feature over its instances, or by all
three concatenated; features are standardised by the training bags. Logistic regression and the
support vector machine (radial kernel) use scikit-learn's default settings, C = 1. Folds and metrics
are the same as in `evaluate.py mil-cv`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from datamodules.mil.npz_file import BagFile
from evaluation.mil.cross_validation import FoldSummary, summarise_folds

Array = npt.NDArray[np.float64]

POOLS = ("mean", "max", "min", "all")
CLASSIFIERS = ("logistic regression", "SVM")


def pooled_bags(bags: BagFile, pool: str) -> Array:
    """Return (B, D) pooled instances, or (B, 3 D) for ``all``."""
    if pool == "all":
        return np.concatenate([pooled_bags(bags, p) for p in POOLS[:3]], axis=1)
    values, starts = bags.features.astype(np.float64), bags.offsets[:-1]
    if pool == "mean":
        means: Array = np.add.reduceat(values, starts) / bags.sizes[:, None]
        return means
    return (np.maximum if pool == "max" else np.minimum).reduceat(values, starts)


def cross_validate_floor(
    bags: BagFile, pool: str, classifier: str, seed: int = 0
) -> dict[str, FoldSummary]:
    """Score one pooling and one classifier.

    Args:
        bags: bags with binary labels.
        pool: one of POOLS.
        classifier: one of CLASSIFIERS.
        seed: seed of the 5 x 10 folds that are made if the file has none.

    Returns:
        One summary per metric, see `evaluation.mil.cross_validation`. The threshold is a decision
        value of 0, which is a probability of 0.5 for the regression.
    """
    repeats = 5 if bags.published_folds is None else min(5, len(bags.published_folds))
    vectors, scores = pooled_bags(bags, pool), np.zeros((repeats, bags.labels.size))
    folds = np.stack([bags.folds(10, repeat, seed) for repeat in range(repeats)])
    for repeat, row in enumerate(folds):
        for fold in np.unique(row):
            train = row != fold
            model = SVC() if classifier == "SVM" else LogisticRegression(max_iter=10_000)
            fitted = make_pipeline(StandardScaler(), model).fit(vectors[train], bags.labels[train])
            # The threshold of both is 0; the arc tangent keeps the order of very large log-odds.
            decisions = fitted.decision_function(vectors[~train])
            scores[repeat, ~train] = 0.5 + np.arctan(decisions) / np.pi
    return summarise_folds(bags.labels, scores, folds, "binary")
