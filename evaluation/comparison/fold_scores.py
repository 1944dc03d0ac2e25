"""Scores of each fold of a cross-validation, from the JSON or from the table of `mil-cv`."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.mil.predictions_csv import read_bag_csv
from evaluation.mil.scores import evaluate_bags
from evaluation.statistics.sample_size import too_few_bags
from structures import DataProblems, Problem

_NO_FOLD = "fold is missing", "write the fold in which the bag was tested"
_NO_THRESHOLD = "threshold is no probability", "write a number in [0, 1], or leave it empty"


@dataclass(frozen=True, slots=True)
class FoldScores:
    """Scores of a method in each fold.

    Attributes:
        file: the file that was read.
        metrics: (J,) values by metric, in the order of ``folds``; NaN where undefined.
        folds: what says which folds these are; equal for two methods with the same folds.
        test_to_train: mean number of test bags divided by that of training bags.
        bags: number of bags, or None if the file does not say.
        few: why intervals and p-values are withheld, or empty.
    """

    file: Path
    metrics: dict[str, list[float]]
    folds: Any
    test_to_train: float
    bags: int | None = None
    few: str = ""


def has_folds(path: Path) -> bool:
    """Return whether a file is the JSON of `mil-cv`, or a table with a column ``fold``."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".json":
        return _fold_metrics(_content(path)) is not None
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return "fold" in next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False  # reported when the table is read


def read_fold_scores(path: Path) -> FoldScores:
    """Read the scores of a cross-validation.

    Args:
        path: what `mil-cv` writes to ``--out``, or a table of out-of-fold predictions: the columns
            of `read_bag_csv`, ``fold`` and, if there are several divisions, ``repeat``. The column
            ``threshold`` is the decision threshold of a line's fold, 0.5 where it is absent.

    Raises:
        ValueError: the JSON was written by an earlier version, or a table has a single fold.
        DataProblems: see `read_bag_csv`, or a line has no fold or no probability as threshold.
    """
    return _from_json(path) if path.suffix.lower() == ".json" else _from_table(path)


def check_same_folds(first: FoldScores, second: FoldScores) -> None:
    """Refuse cross-validations on different folds.

    Raises:
        ValueError: the data, the seed, or the folds differ, or one file is JSON and one a table.
    """
    one, two = first.folds, second.folds
    if isinstance(one, dict) != isinstance(two, dict):
        raise ValueError(
            f"{first.file} and {second.file}: give the JSON of both cross-validations or the "
            "tables of both"
        )
    if one == two:
        return
    if isinstance(one, dict):
        names = {"data": "other data", "seed": "another seed", "repeats": "other repeats"}
        reason = next((text for k, text in names.items() if one[k] != two[k]), "other folds")
        differs = f"{second.file} has {reason}"
    else:
        pairs = zip(one, two, strict=False)
        place = next((a[0] for a, b in pairs if a != b), min(one, two, key=len)[-1][0])
        differs = f"fold {place[1]} of repeat {place[0]} has other bags or labels in {second.file}"
    raise ValueError(
        f"{first.file} and {second.file} were not cross-validated on the same folds ({differs}); "
        "run mil-cv for both with the same --data, --folds, --repeats and --seed"
    )


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError):
        return None


def _fold_metrics(content: Any) -> dict[str, list[float]] | None:
    """Return the values of each metric in the folds, or None if a record is not of `mil-cv`."""
    metrics = content.get("metrics") if isinstance(content, Mapping) else None
    if not isinstance(metrics, Mapping) or not metrics:
        return None
    if not all(
        isinstance(m, Mapping) and isinstance(m.get("folds"), list) for m in metrics.values()
    ):
        return None
    return {
        name: [float("nan") if v is None else float(v) for v in summary["folds"]]
        for name, summary in metrics.items()
    }


def _from_json(path: Path) -> FoldScores:
    content = _content(path)
    metrics = _fold_metrics(content)
    assert metrics is not None  # see has_folds
    repeats, count = content.get("repeats"), len(next(iter(metrics.values())))
    data = list(content.get("files", {}).values())[-1:]  # recipes may differ
    if not isinstance(repeats, int) or not data or count < 2 * repeats:
        raise ValueError(
            f"{path}: does not say how often the bags were divided; write it again by mil-cv --out"
        )
    folds = {"data": data[0], "seed": content["seed"], "repeats": repeats, "folds": count}
    return FoldScores(path, metrics, folds, 1 / (count / repeats - 1))


def _from_table(path: Path) -> FoldScores:
    found = read_bag_csv(path, repeated=True)
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    thresholds = [_threshold(row) for row in rows]
    places = [(row.get("repeat") or "0", row.get("fold") or "") for row in rows]
    faults = [(n, _NO_FOLD) for n, place in enumerate(places) if not place[1]]
    faults += [(n, _NO_THRESHOLD) for n, value in enumerate(thresholds) if value is None]
    if faults:
        ids = found.scores.bag_ids
        raise DataProblems(
            [Problem(path, ids[n], n + 2, *f, kind="bag", part="line") for n, f in faults]
        )
    members: dict[tuple[str, str], list[int]] = {}
    for number, place in enumerate(places):
        members.setdefault(place, []).append(number)
    if len(members) < 2:
        raise ValueError(f"{path}: all bags are in one fold; a cross-validation has several")
    order = sorted(members, key=lambda place: tuple(map(_number_first, place)))
    scores, bags = found.scores, len(set(found.scores.bag_ids))
    per_fold, ratios, folds = [], [], []
    for place in order:
        lines = np.array(members[place])
        threshold = thresholds[members[place][0]]
        assert threshold is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # small folds have NaN values
            per_fold.append(
                evaluate_bags(
                    scores.labels[lines], scores.probabilities[lines], found.task, threshold
                )
            )
        tested = {scores.bag_ids[n]: str(scores.labels[n].tolist()) for n in lines.tolist()}
        folds.append((place, tested))
        ratios.append(len(lines) / max(1, bags - len(lines)))
    return FoldScores(
        path,
        {name: [row[name] for row in per_fold] for name in per_fold[0]},
        folds,
        float(np.mean(ratios)),
        bags,
        too_few_bags(scores, found.task, found.classes, scores.groups),
    )


def _threshold(row: Mapping[str, str]) -> float | None:
    """Return the threshold of a line, 0.5 where it has none, or None if it is no probability."""
    try:
        value = float(row.get("threshold") or 0.5)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def _number_first(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (-1, text)
