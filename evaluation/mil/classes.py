"""Bag metrics per class, each class against the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.mil.metrics import auroc, average_precision, bag_table, predicted_classes
from structures import MILTask


def class_scores(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    task: MILTask,
    threshold: float = 0.5,
    class_names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return one row per class with numbers of bags, ranking metrics and decision metrics.

    Args:
        labels: see `evaluation.mil.scores.evaluate_bags`.
        probabilities: see `evaluation.mil.scores.evaluate_bags`.
        task: task of the predictions; a binary task has a row for each of its two classes.
        threshold: probability from which a class counts as present (``binary``, ``multilabel``).
        class_names: names by label; labels without a name are shown as numbers.

    Returns:
        Rows with ``label``, ``name``, ``bags``, ``predicted``, ``auroc``, ``auprc``,
        ``precision``, ``recall``, ``f1``; NaN where a value is not defined.
    """
    table = bag_table(labels, probabilities, task)
    decided = predicted_classes(table, threshold)
    scores = table.probabilities
    if task == "binary":
        scores = np.stack([1 - scores, scores], axis=1)
    ones, rows = np.ones((1, len(scores))), []
    for c in range(scores.shape[1]):
        if task == "multilabel":
            true, says = table.labels[:, c] == 1, decided[:, c] == 1
        else:
            true, says = table.labels == c, decided == c
        hits, found, present = int((true & says).sum()), int(says.sum()), int(true.sum())
        rows.append(
            {
                "label": c,
                "name": class_names[c] if c < len(class_names) else str(c),
                "bags": present,
                "predicted": found,
                "auroc": float(auroc(true, scores[:, c], ones)[0]),
                "auprc": float(average_precision(true, scores[:, c], ones)[0]),
                "precision": hits / found if found else float("nan"),
                "recall": hits / present if present else float("nan"),
                "f1": 2 * hits / (found + present) if found + present else float("nan"),
            }
        )
    return rows
