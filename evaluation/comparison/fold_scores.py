"""Scores of each fold of a cross-validation, from the JSON or from the table of `mil-cv`."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.comparison.target_folds import FoldScorer
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.mil.scores import evaluate_bags
from evaluation.statistics.sample_size import too_few_bags
from evaluation.targets.files import read_predictions
from structures import DataProblems, MILTask, Problem

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


def read_fold_scores(
    path: Path,
    task: MILTask | None = None,
    times: Sequence[float] = (),
    tau: float | None = None,
) -> FoldScores:
    """Read the scores of a cross-validation.

    Args:
        path: what `mil-cv` writes to ``--out``, or a table of out-of-fold predictions: the columns
            of `read_predictions`, ``fold`` and, if there are several divisions, ``repeat``. The
            column ``threshold`` is the decision threshold of a line's fold, 0.5 where it is absent.
        task: of a table, see `read_predictions`.
        times: of a table of times, see `FoldScorer`.
        tau: of a table of times, see `FoldScorer`.

    Raises:
        ValueError: the JSON was written by an earlier version, a table has a single fold, or an
            argument has no effect.
        DataProblems: see `read_bag_csv`, or a line has no fold or no probability as threshold.
    """
    options = {"--task": task, "--times": times or None, "--tau": tau}
    given = [flag for flag, value in options.items() if value is not None]
    if path.suffix.lower() != ".json":
        return _from_table(path, task, times, tau)
    if given:
        raise ValueError(
            f"{', '.join(given)}: without effect on {path}, whose folds are scored already; give "
            "the tables of mil-cv --save-predictions"
        )
    return _from_json(path)


def check_same_folds(first: FoldScores, second: FoldScores) -> None:
    """Refuse cross-validations on different folds.

    Raises:
        ValueError: the metrics, the data, the seed, the scored times or the folds differ, or one
            file is JSON and one a table.
    """
    one, two = first.folds, second.folds
    if isinstance(one, dict) != isinstance(two, dict):
        raise ValueError(
            f"{first.file} and {second.file}: give the JSON of both cross-validations or the "
            "tables of both"
        )
    kinds = [sorted(n for n in f.metrics if n.startswith("bag_") and n != "bag_ibs")
             for f in (first, second)]  # fmt: skip
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{first.file} has the metrics {', '.join(kinds[0])}, but {second.file} "
            f"{', '.join(kinds[1])}; compare cross-validations of the same task"
        )
    if one == two:
        return
    if isinstance(one, dict):
        names = {"data": "other data", "seed": "another seed", "repeats": "other repeats"}
        names["times"] = "other --times or --tau"
        reason = next((text for k, text in names.items() if one[k] != two[k]), "other folds")
        differs = f"{second.file} has {reason}"
    else:
        pairs = zip(one, two, strict=False)
        last = min(one, two, key=len)[-1]
        (place, bags), (_, others) = next(
            ((a, b) for a, b in pairs if a != b), (last, (last[0], dict[str, str]()))
        )
        differs = f"fold {place[1]} of repeat {place[0]} has other bags or labels in {second.file}"
        differs += f", for example bag {_differing(bags, others)}"
    raise ValueError(
        f"{first.file} and {second.file} were not cross-validated on the same folds ({differs}); "
        "run mil-cv for both with the same --data, --folds, --repeats and --seed"
    )


def _differing(one: Mapping[str, str], two: Mapping[str, str]) -> str:
    """Return the first bag that is not in both folds with the same label, or the first of all."""
    return next((bag for bag in (*one, *two) if one.get(bag) != two.get(bag)), next(iter(one)))


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
    folds["times"] = _scored_times(content)
    return FoldScores(path, metrics, folds, 1 / (count / repeats - 1))


def _scored_times(content: Mapping[str, Any]) -> Any:
    """Return the times and the ``tau`` that a record was scored with, None where it has none.

    A ``tau`` that was given is that of every fold; else each fold has its own.
    """
    rows, taus = content.get("times"), content.get("tau")
    times = None
    if isinstance(rows, list):
        times = [row.get("time") if isinstance(row, Mapping) else row for row in rows]
    given = {tau for tau in taus if tau is not None} if isinstance(taus, list) else set()
    return times, given.pop() if len(given) == 1 else None


def _from_table(
    path: Path, task: MILTask | None, times: Sequence[float], tau: float | None
) -> FoldScores:
    found = read_predictions(path, task=task, repeated=True)
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
    lines = [np.array(members[place]) for place in order]
    ratios = [len(own) / max(1, bags - len(own)) for own in lines]
    folds = [
        (place, {scores.bag_ids[n]: str(scores.labels[n].tolist()) for n in own.tolist()})
        for place, own in zip(order, lines, strict=True)
    ]
    if found.target is None:
        if times or tau is not None:
            raise ValueError("--times and --tau have an effect on times alone, not on classes")
        few = too_few_bags(scores, found.task, found.classes, scores.groups)
        limits = [thresholds[members[place][0]] or 0.0 for place in order]
        rows_of = [_of_classes(found, *pair) for pair in zip(lines, limits, strict=True)]
    else:
        by_repeat = [np.flatnonzero([p[0] == place[0] for p in places]) for place in order]
        scored = FoldScorer(found.target, times or None, tau)
        few = scored.too_few()
        rows_of = [
            scored.metrics(own, np.setdiff1d(every, own))
            for own, every in zip(lines, by_repeat, strict=True)
        ]
    metrics = {name: [row[name] for row in rows_of] for name in rows_of[0]}
    return FoldScores(path, metrics, folds, float(np.mean(ratios)), bags, few)


def _of_classes(
    found: BagPredictions, lines: npt.NDArray[np.int64], threshold: float
) -> dict[str, float]:
    """Return the metrics of a fold."""
    scores = found.scores
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # small folds have NaN values
        return evaluate_bags(
            scores.labels[lines], scores.probabilities[lines], found.task, threshold
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
