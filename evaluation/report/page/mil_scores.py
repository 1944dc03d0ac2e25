"""Scores of one or several runs on the same bags: headlines, classes, curves, confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evaluation.mil.classes import class_scores
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.mil.scores import confusion_matrix, evaluate_bags, pr_curve, roc_curve
from evaluation.report.page.content import Cell, Chart, Headline, Line, Matrix, Table
from evaluation.report.page.seg_scores import CURVES, value
from evaluation.statistics.bootstrap import bootstrap_intervals
from evaluation.statistics.sample_size import class_members, too_few_bags, withheld
from evaluation.targets.bootstrap import bootstrap_intervals as target_intervals
from evaluation.targets.bootstrap import units
from evaluation.targets.scores import LOWER_IS_BETTER, score
from structures import MILTask

_LABELS = {
    "bag_auroc": "AUROC",
    "bag_auprc": "AUPRC",
    "bag_accuracy": "Accuracy",
    "bag_balanced_accuracy": "Balanced accuracy",
    "bag_f1": "F1",
    "bag_kappa": "Kappa",
    "bag_quadratic_kappa": "Quadratic kappa",
    "bag_c_index": "C-index",
    "bag_c_index_ipcw": "C-index (IPCW)",
    "bag_td_auc": "AUC over time",
    "bag_ibs": "Integrated Brier score",
    "bag_mae": "Mean absolute error",
    "bag_rmse": "Root mean squared error",
    "bag_r2": "R squared",
    "bag_pearson": "Pearson correlation",
    "bag_spearman": "Spearman correlation",
    "witness_auroc": "AUROC of the attention",
}
_WEIGHTED = {"bag_c_index_ipcw", "bag_ibs", "bag_td_auc"}  # by the censoring


@dataclass(frozen=True)
class MilScores:
    """Scores of a run on bags, as those of `evaluate.py mil`.

    Attributes:
        name: name of the run.
        found: its predictions.
        threshold: probability from which a class counts as present.
        metrics: by name.
        intervals: (low, high) by metric.
        notes: why intervals are withheld or metrics undefined.
        classes: names of the classes or grades, empty for times and values.
    """

    name: str
    found: BagPredictions
    threshold: float
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = field(default=())

    @property
    def decisions(self) -> tuple[Any, Any, MILTask] | None:
        """Known labels, probabilities and task of classes or grades, None of times and values."""
        bags, task = self.found.scores, self.found.task
        if task == "ordinal":  # decided as classes are
            task = "multiclass"
        elif self.found.target is not None:
            return None
        return bags.labels[bags.known], bags.probabilities[bags.known], task


def score_bags(
    name: str,
    found: BagPredictions,
    classes: Sequence[str] = (),
    witness: float | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> MilScores:
    """Score the bags of a run.

    Args:
        name: of the run.
        found: its predictions.
        classes: names of the classes.
        witness: AUROC of the attention, mean over the bags, where it is known.
        draws: draws of the bootstrap over bags, or whole patients.
        seed: seed of the draws.

    Raises:
        ValueError: no bag has a known target.
    """
    if found.target is not None:
        scored = _score_targets(name, found, tuple(classes), draws, seed)
    else:
        scored = _score_classes(name, found, tuple(classes), draws, seed)
    if witness is not None:
        scored.metrics["witness_auroc"] = witness
    return scored


def _score_classes(
    name: str, found: BagPredictions, classes: tuple[str, ...], draws: int, seed: int
) -> MilScores:
    bags = found.scores
    threshold = 0.5 if found.threshold is None else found.threshold
    given = (bags.labels, bags.probabilities, found.task)
    options: dict[str, Any] = {"groups": bags.groups, "draws": draws, "seed": seed}
    metrics = evaluate_bags(*given, threshold)
    intervals = bootstrap_intervals(*given, threshold=threshold, **options)
    few = too_few_bags(bags, found.task, found.classes, bags.groups)
    count = 2 if bags.probabilities.ndim == 1 else bags.probabilities.shape[1]
    names = classes if len(classes) == count else found.classes or tuple(map(str, range(count)))
    intervals = withheld(intervals) if few else intervals
    notes = (few,) if few else ()
    return MilScores(name, found, threshold, metrics, intervals, notes, tuple(names))


def _score_targets(
    name: str, found: BagPredictions, classes: tuple[str, ...], draws: int, seed: int
) -> MilScores:
    bags = found.target
    assert bags is not None
    known = bags.known
    notes = []
    if not known.all():
        notes.append(f"{name}: {int((~known).sum())} bags without a known target do not count")
        bags = bags.rows(known)
    if not bags.bag_ids:
        raise ValueError(f"{found.files[-1]}: no bag has a known target; add targets")
    scorer = bags.scorer()
    scores = score(scorer)
    intervals = target_intervals(scorer, patients=bags.groups, draws=draws, seed=seed)
    few = scorer.too_few(units(scorer.count, bags.groups), patients=bool(bags.groups))
    if few:
        intervals, notes = withheld(intervals), [*notes, few]
    notes += [f"{metric} is undefined: {why}" for metric, why in scores.undefined.items()]
    if scores.details.get("censoring") == "scored bags" and set(scores.metrics) & _WEIGHTED:
        notes.append(
            "IPCW C-index, integrated Brier score and AUC over time correct for the censoring of "
            "the bags that are scored; `python evaluate.py mil --ckpt` takes the training bags"
        )
    if found.task == "ordinal" and len(classes) != len(found.classes):
        classes = found.classes
    names = classes if found.task == "ordinal" else ()
    return MilScores(name, found, 0.5, dict(scores.metrics), intervals, tuple(notes), names)


def headlines(runs: Sequence[MilScores]) -> tuple[Headline, ...]:
    """Return all metrics that a run has."""
    names = [n for n in runs[0].metrics if all(n in run.metrics for run in runs)]
    return tuple(
        Headline(
            name,
            _LABELS.get(name, name.removeprefix("bag_").replace("_", " ")),
            tuple(value(run.metrics[name], run.intervals.get(name)) for run in runs),
            higher_is_better=name not in LOWER_IS_BETTER,
        )
        for name in names
    )


def class_tables(runs: Sequence[MilScores]) -> tuple[Table, ...]:
    """Return the metrics of each class against the rest."""
    tables = []
    for run in runs:
        if run.decisions is None:
            continue
        labels, chance, task = run.decisions
        rows = class_scores(labels, chance, task, run.threshold, run.classes)
        columns = ("class", "bags", "predicted", "AUROC", "AUPRC", "precision", "recall", "F1")
        numbers = ("auroc", "auprc", "precision", "recall", "f1")
        cells: list[tuple[Cell, ...]] = [
            (
                str(row["name"]),
                int(row["bags"]),
                int(row["predicted"]),
                *(value(row[name]) for name in numbers),
            )
            for row in rows
        ]
        note = "Each class against the rest."
        if task != "multiclass":
            note += f" Precision, recall and F1 at the threshold {run.threshold:g}."
        tables.append(Table(_titled("Classes", run, runs), columns, tuple(cells), note))
    return tuple(tables)


def _titled(title: str, run: MilScores, runs: Sequence[MilScores]) -> str:
    return f"{title}: {run.name}" if len(runs) > 1 else title


def curves(runs: Sequence[MilScores]) -> tuple[Chart, ...]:
    """Return ROC and precision-recall curves, of several runs in one chart each."""
    charts: dict[str, list[Line]] = {"roc": [], "pr": []}
    for number, run in enumerate(runs):
        classes = one_against_rest(run)
        owner = number if len(runs) > 1 and len(classes) == 1 else None
        for name, (truth, scores) in classes.items():
            label = f"{run.name}: {name}" if len(runs) > 1 else name
            false, true = roc_curve(truth, scores)[:2]
            recall, precision = pr_curve(truth, scores)[:2]
            charts["roc"].append(replace(_line(label, false, true), run=owner))
            charts["pr"].append(replace(_line(label, recall, precision), run=owner))
    named = {
        "roc": ("ROC curve", "false positive rate", "true positive rate", True),
        "pr": ("Precision by recall", "recall", "precision", False),
    }
    return tuple(
        Chart(key, title, x, y, tuple(charts[key]), diagonal=diagonal, unit=True)
        for key, (title, x, y, diagonal) in named.items()
        if charts[key]
    )


def one_against_rest(run: MilScores) -> dict[str, tuple[Any, Any]]:
    """Return 0/1 labels and probabilities by class, for classes with both kinds of bags."""
    if run.decisions is None:
        return {}
    labels, chance, task = run.decisions
    if chance.ndim == 1:
        pairs = {"bags": (labels, chance)}
    else:
        members = class_members(labels, task, chance.shape[1]).astype(np.int64)
        pairs = {name: (members[:, c], chance[:, c]) for c, name in enumerate(run.classes)}
    held = {name: pair for name, pair in pairs.items() if set(pair[0].tolist()) == {0, 1}}
    return dict(list(held.items())[:CURVES])


def _line(name: str, x: Any, y: Any) -> Line:
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), 500)).round().astype(int))
    ys = tuple(None if not np.isfinite(y[n]) else round(float(y[n]), 5) for n in places)
    return Line(name, tuple(round(float(x[n]), 5) for n in places), ys)


def confusion(runs: Sequence[MilScores]) -> tuple[Matrix, ...]:
    """Return the confusion matrix of each run, of each class for several labels."""
    found = []
    for run in runs:
        if run.decisions is None:
            continue
        labels, chance, task = run.decisions
        matrix = confusion_matrix(labels, chance, task, run.threshold)
        parts: dict[str, tuple[Any, tuple[str, ...]]]
        if task == "multilabel":
            answers = ("absent", "present")
            parts = {name: (part, answers) for name, part in zip(run.classes, matrix, strict=True)}
        else:
            parts = {"Bags": (matrix, run.classes)}
        at = "" if task == "multiclass" else f" at the threshold {run.threshold:g}"
        for title, (counts, names) in parts.items():
            found.append(
                Matrix(
                    title=f"{title}{at}",
                    run=run.name,
                    row_label="true class",
                    column_label="predicted class",
                    rows=tuple(names),
                    columns=tuple(names),
                    values=tuple(tuple(float(v) for v in row) for row in counts.tolist()),
                    integers=True,
                )
            )
    return tuple(found)


def compare_table(
    reference: str, other: str, title: str, rows: Sequence[Mapping[str, Any]]
) -> Table:
    """Return the differences of a run and the reference.

    Args:
        reference: its name.
        other: name of the other run.
        title: title of the comparison.
        rows: ``metric``, ``first``, ``second``, ``value``, ``low``, ``high``, ``p`` of
            `evaluate.py compare`, whose first model is the other run.
    """
    cells = tuple(
        (
            str(row["metric"]),
            value(row["second"]),
            value(row["first"]),
            value(row["value"], (row["low"], row["high"])),
            value(row["p"]),
        )
        for row in rows
    )
    columns = ("metric", reference, other, "difference", "p")
    return Table(f"{other} minus {reference}", columns, cells, title)
