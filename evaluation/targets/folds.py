"""Times, values and grades in a cross-validation: scores of every fold, and the table of all.

Every fold is scored by itself: by the model that did not train on its bags, with the censoring,
``tau`` and cuts of this model's training bags. Risks of different models have different origins, so
that no score compares bags of two folds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.mil.cross_validation import FoldSummary, summary_of
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.files import target_columns
from evaluation.targets.scores import METRICS, TargetScores, score
from evaluation.targets.survival_scores import SurvivalScorer, default_times
from evaluation.targets.tables import survival_table
from formats.files import write_csv
from structures import MILTask
from structures.tasks import TIME_TASKS

Place = tuple[int, int]  # repeat, fold


class TimeOptions(NamedTuple):
    """How predictions of times are scored.

    Attributes:
        times: times of Brier scores and AUCs; None for the deciles of the event times of all bags.
        tau: see `SurvivalScorer`; None for the .9 quantile of the training times of each fold.
        groups: number of risk groups; None for 2.
    """

    times: tuple[float, ...] | None = None
    tau: float | None = None
    groups: int | None = None

    def check(self, task: MILTask) -> None:
        """Check the options before work starts.

        Raises:
            ValueError: a value is out of range, or the targets are no times.
        """
        given = [f"--{name}" for name, value in self._asdict().items() if value is not None]
        if given and task not in TIME_TASKS:
            raise ValueError(f"{', '.join(given)}: have an effect on times alone, not on {task}")
        SurvivalScorer(
            survival_table([1.0], [1], [0.0]),
            times=self.times,
            tau=self.tau,
            groups=2 if self.groups is None else self.groups,
        )


@dataclass(frozen=True, slots=True)
class TargetFolds:
    """Predictions of the test bags of every fold.

    Attributes:
        task: what the targets are.
        labels: those of all B bags, see `TargetPredictions`.
        folds: predictions by (repeat, fold), ordered, each with its own training bags.
        options: how times are scored.
    """

    task: MILTask
    labels: npt.NDArray[Any]
    folds: Mapping[Place, TargetPredictions]
    options: TimeOptions = field(default_factory=TimeOptions)

    @property
    def times(self) -> npt.NDArray[np.float64] | None:
        """(T,) scored times, the same in all folds; None if the targets are no times."""
        if self.task not in TIME_TASKS:
            return None
        if self.options.times is not None:
            return np.unique(np.asarray(self.options.times, dtype=np.float64))
        return default_times(self.labels[:, 0], self.labels[:, 1] == 1)

    def scores(self) -> FoldScores:
        """Score every fold by itself.

        Raises:
            ValueError: a prediction is not finite; the message names the fold.
        """
        found = {place: self._scored(place, bags) for place, bags in self.folds.items()}
        return FoldScores(self.task, found)

    def _scored(self, place: Place, bags: TargetPredictions) -> TargetScores:
        known, names = bags.known, METRICS[self.task]
        if not known.any():
            reasons = dict.fromkeys(names, "no bag has a known target")
            return TargetScores(dict.fromkeys(names, float("nan")), reasons, {})
        times = self.times
        try:
            scorer = bags.rows(known).scorer(
                times=None if times is None else times.tolist(),
                tau=self.options.tau,
                groups=self.options.groups or 2,
            )
        except ValueError as error:
            raise ValueError(f"repeat {place[0]}, fold {place[1]}: {error}") from None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # small folds have NaN values
            return score(scorer)


@dataclass(frozen=True, slots=True)
class FoldScores:
    """Scores of the folds.

    Attributes:
        task: what the targets are.
        folds: scores by (repeat, fold), ordered.
    """

    task: MILTask
    folds: Mapping[Place, TargetScores]

    def summary(self) -> dict[str, FoldSummary]:
        """Return mean, spread and values of each metric over the folds."""
        each = [found.metrics for found in self.folds.values()]
        return {name: summary_of([one[name] for one in each]) for name in METRICS[self.task]}

    def details(self) -> dict[str, Any]:
        """Return further entries of the record, in which lists have one item a fold.

        - ``undefined``: by metric, in which folds it has no value and why.
        - Of times: ``times``, a summary of ``auc``, ``brier`` and ``at_risk`` at each; ``tau``,
          ``censoring``, ``risk_groups`` and ``log_rank``.
        - Of values: ``targets``, a summary of the metrics of each. Of grades: ``grades``.
        """
        undefined: dict[str, list[dict[str, Any]]] = {}
        for (repeat, fold), found in self.folds.items():
            for name, reason in found.undefined.items():
                where = {"repeat": repeat, "fold": fold, "reason": reason}
                undefined.setdefault(name, []).append(where)
        each = [found.details for found in self.folds.values()]
        some = next((one for one in each if one), {})
        return {"undefined": undefined} | {k: _joined([d.get(k) for d in each], k) for k in some}


def _joined(each: list[Any], name: str) -> Any:
    """Return one entry of the record for the values of an entry in all folds."""
    some = next(value for value in each if value is not None)
    if name == "censoring":
        return some
    if name == "times":
        return [
            {"time": row["time"], **_summaries([None if e is None else e[n] for e in each], row)}
            for n, row in enumerate(some)
        ]
    if name == "targets":
        return {
            target: _summaries([None if e is None else e[target] for e in each], row)
            for target, row in some.items()
        }
    return each


def _summaries(each: list[dict[str, Any] | None], row: Mapping[str, Any]) -> dict[str, FoldSummary]:
    """Return a summary of every number of the rows of all folds; None counts as NaN."""
    names = [n for n, value in row.items() if n != "time" and not isinstance(value, Mapping)]
    nan = float("nan")
    return {n: summary_of([nan if e is None else float(e[n]) for e in each]) for n in names}


def write_target_folds(path: Path, found: TargetFolds) -> None:
    """Write a line for each test bag, ordered by repeat, fold and bag.

    The columns are ``repeat,fold`` and then those of `evaluation.targets.files`, of grades those
    of several classes. Edges of bins differ between folds, so that ``survival_<t>`` are the scored
    times, at which every fold has a value.  # A630

    Args:
        path: the file.
        found: the predictions.
    """
    tables = {place: _columns(bags, found.times) for place, bags in found.folds.items()}
    before, after = max(tables.values(), key=lambda columns: len(columns[0]))
    has_patients = all(bags.groups for bags in found.folds.values())
    header = ["repeat", "fold", "bag_id", *before, *["patient_id"] * has_patients, *after]

    def rows() -> Iterator[list[Any]]:
        for place, bags in found.folds.items():
            columns, last = tables[place]
            for number, bag in enumerate(bags.bag_ids):
                patient = [bags.groups[number]] if has_patients else []
                cells = [columns[name][number] if name in columns else "" for name in before]
                yield [*place, bag, *cells, *patient, *(last[name][number] for name in after)]

    write_csv(path, header, rows())


def _columns(
    bags: TargetPredictions, times: npt.NDArray[np.float64] | None
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Return the columns before ``patient_id`` and those after it, by name."""
    if bags.task != "ordinal":
        return dict(target_columns(bags, times)), {}
    names = bags.names or tuple(map(str, range(bags.predictions.shape[1])))
    scores = zip(names, bags.predictions.T.tolist(), strict=True)
    said = bags.predictions.argmax(axis=1).tolist()
    before = {"label": bags.labels.tolist()} | {f"score_{n}": [*map(repr, s)] for n, s in scores}
    return before, {"prediction": said, "threshold": [""] * len(said)}
