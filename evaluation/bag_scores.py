"""Bag-level predictions of a whole split, collected batch by batch and process by process."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from structures import BagBatch, MILTask

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BagScores:
    """Predictions of B bags, each once, sorted by their number in the data set.

    Attributes:
        bag_ids: names.
        index: (B,) int64.
        labels: (B,) int64, or (B, C) for a multilabel task.
        probabilities: (B,) of the positive class for a binary task, else (B, C).
        groups: the patient of each bag, or empty.
        witness: (B,) AUROC of the attention for witnesses against the rest, NaN for bags that
            lack either or whose instance labels are unknown.
    """

    bag_ids: tuple[str, ...]
    index: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    probabilities: FloatArray
    groups: tuple[str, ...] = ()
    witness: FloatArray = field(default_factory=lambda: np.zeros(0))


class BagCollector:
    """Keeps one small row a bag; a bag seen twice counts once."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, Any]] = {}

    def add(self, bags: BagBatch, probabilities: Tensor, attention: Tensor | None) -> None:
        """Add a batch.

        Args:
            bags: the batch.
            probabilities: (B,) or (B, C).
            attention: (N,) or (N, K) of the batch, or None.
        """
        from evaluation.mil import instance_auroc

        probs = probabilities.detach().double().cpu().numpy()
        labels, offsets = bags.labels.cpu().numpy(), bags.offsets.tolist()
        weights = None if attention is None else attention.detach().float().cpu().numpy()
        if weights is not None and weights.ndim == 2:
            weights = weights.mean(axis=1)
        truth = None if bags.instance_labels is None else bags.instance_labels.cpu().numpy()
        for b, number in enumerate(bags.index.tolist()):
            part = slice(offsets[b], offsets[b + 1])
            known = weights is not None and truth is not None
            self._rows[number] = {
                "bag_id": bags.bag_ids[b] if bags.bag_ids else str(number),
                "group": bags.groups[b] if bags.groups else None,
                "label": labels[b],
                "probability": probs[b],
                "witness": instance_auroc(weights[part], truth[part]) if known else float("nan"),  # type: ignore[index]
            }

    def state(self) -> dict[int, dict[str, Any]]:
        """Return the rows by bag number, for gathering."""
        return self._rows

    def merge(self, states: Iterable[dict[int, dict[str, Any]]]) -> None:
        """Take over the rows of other processes."""
        for state in states:
            self._rows.update(state)

    def scores(self) -> BagScores:
        """Return all rows sorted by bag number."""
        numbers = sorted(self._rows)
        rows = [self._rows[n] for n in numbers]
        groups = tuple(str(r["group"]) for r in rows if r["group"] is not None)
        return BagScores(
            bag_ids=tuple(r["bag_id"] for r in rows),
            index=np.array(numbers, dtype=np.int64),
            labels=np.array([r["label"] for r in rows], dtype=np.int64),
            probabilities=np.array([r["probability"] for r in rows], dtype=np.float64),
            groups=groups if len(groups) == len(rows) else (),
            witness=np.array([r["witness"] for r in rows], dtype=np.float64),
        )


def read_bag_csv(path: Path) -> tuple[BagScores, MILTask]:
    """Read predictions as `PredictionWriter` writes them.

    Args:
        path: CSV with ``bag_id``, ``label`` and either ``score`` (binary: probability of class 1)
            or one ``score_<class>`` column a class.

    Returns:
        The scores and the task: binary with one score column, else multiclass.

    Raises:
        ValueError: columns are missing, a bag occurs twice, or a value is missing, not a number
            or outside [0, 1]; the message names file, line and remedy.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream)
        columns = [c for c in reader.fieldnames or [] if c == "score" or c.startswith("score_")]
        lacking = {"bag_id", "label"} - set(reader.fieldnames or [])
        if lacking or not columns:
            needs = sorted(lacking) or ["score"]
            raise ValueError(f"{path}: column {', '.join(needs)} missing; needs bag_id,label,score")
        rows = [_parse_row(path, reader.line_num, row, columns) for row in reader]
    if not rows:
        raise ValueError(f"{path}: no bags in the file")
    names = [name for name, _, _ in rows]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"{path}: bag {twice[0]} occurs more than once; keep one line a bag")
    table = np.array([scores for _, _, scores in rows], dtype=np.float64)
    classes = 2 if len(columns) == 1 else len(columns)
    labels = np.array([label for _, label, _ in rows], dtype=np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise ValueError(
            f"{path}: bag {names[wrong[0]]} has label {labels[wrong[0]]}; "
            f"with {len(columns)} score column(s) labels are 0 to {classes - 1}"
        )
    scores = BagScores(
        bag_ids=tuple(names),
        index=np.arange(len(names)),
        labels=labels,
        probabilities=table[:, 0] if len(columns) == 1 else table,
    )
    return scores, "binary" if len(columns) == 1 else "multiclass"


def _parse_row(
    path: Path, line: int, row: dict[str, Any], columns: list[str]
) -> tuple[str, int, list[float]]:
    try:
        label, scores = int(row["label"]), [float(row[c]) for c in columns]
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}, line {line}: label must be a whole number and {', '.join(columns)} numbers, "
            f"got {row}; bags without a label cannot be scored"
        ) from None
    if not all(0 <= s <= 1 for s in scores):
        raise ValueError(
            f"{path}, line {line}: scores must be probabilities in [0, 1], got {scores}"
        )
    return str(row["bag_id"]), label, scores
