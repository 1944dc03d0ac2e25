"""Calibration: whether events happen as often as their predicted probabilities say.

- Expected and maximum calibration error over 15 equal bins (Naeini et al. 2015; Guo et al. 2017):
  a probability p is in bin min(floor(15 p), 14); ECE = sum of share x |mean p - share of hits|.
- The same with bins of equal numbers of predictions ("equal mass"): where most probabilities are
  near 0 or 1, most of the equal-width bins have hardly any predictions.
- Brier score and log-loss, which also fall where probabilities separate the classes; the Brier
  score in parts (Murphy 1973), and the band in which the bins of right probabilities lie (Bröcker
  & Smith 2007).
- Temperature (Guo et al. 2017): logits are divided by the T of the least log-loss on *validation*
  bags; on the bags scored it would be fitted to what it is judged by.
- Survival: the mean predicted S(t) beside the Kaplan-Meier curve.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.mil.metrics import BagTable, FloatArray, IntArray, bag_table
from evaluation.statistics.reliability_parts import BrierParts, brier_parts, consistency_band
from evaluation.targets.censoring import kaplan_meier, numbers_at_risk
from evaluation.targets.tables import SurvivalTable
from structures import MILTask

BINS = 15


class Reliability(NamedTuple):
    """Probabilities of something beside how often it is true, by bin.

    Attributes:
        size: (BINS,) predictions in each bin.
        predicted: (BINS,) mean probability; NaN for an empty bin.
        observed: (BINS,) share that is true; NaN for an empty bin.
    """

    size: IntArray
    predicted: FloatArray
    observed: FloatArray

    @property
    def gaps(self) -> FloatArray:
        """(BINS,) absolute difference of probability and share, 0 for an empty bin."""
        found: FloatArray = np.nan_to_num(np.abs(self.predicted - self.observed), nan=0.0)
        return found

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1]."""
        return float(self.gaps @ self.size / self.size.sum())

    @property
    def mce(self) -> float:
        """Maximum calibration error, in [0, 1]."""
        return float(self.gaps.max())


def reliability(probabilities: npt.ArrayLike, true: npt.ArrayLike) -> Reliability:
    """Sort predictions into bins.

    Args:
        probabilities: (P,) in [0, 1], at least one.
        true: (P,) whether what was predicted is true.
    """
    chance = np.asarray(probabilities, dtype=np.float64)
    return _by_bin(_places(chance), chance, true)


def reliability_equal_mass(probabilities: npt.ArrayLike, true: npt.ArrayLike) -> Reliability:
    """Sort predictions into bins of as many predictions each, by their order.

    A prediction is in bin floor(BINS k / P), k the number of lower probabilities, so that equal
    probabilities share a bin and the order of the predictions has no effect (A758).

    Args:
        probabilities: (P,) in [0, 1], at least one.
        true: (P,) whether what was predicted is true.
    """
    chance = np.asarray(probabilities, dtype=np.float64)
    lower = np.searchsorted(np.sort(chance), chance)
    return _by_bin(BINS * lower // chance.size, chance, true)


def _places(chance: FloatArray) -> IntArray:
    """Return (P,) bins of equal width."""
    return np.minimum(np.floor(BINS * chance), BINS - 1).astype(np.int64)


def _by_bin(place: IntArray, chance: FloatArray, true: npt.ArrayLike) -> Reliability:
    size = np.bincount(place, minlength=BINS).astype(np.int64)
    means = [np.full(BINS, np.nan), np.full(BINS, np.nan)]
    for mean, values in zip(means, (chance, np.asarray(true, dtype=np.float64)), strict=True):
        np.divide(np.bincount(place, values, BINS), size, out=mean, where=size > 0)
    return Reliability(size, *means)


def calibration(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    task: MILTask,
    validation: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
) -> dict[str, Any]:
    """Return the calibration of bag probabilities (A723).

    A binary task compares the probability of class 1 with how often it is true, several classes
    that of the predicted class with how often it is right, a multilabel task that of every bag and
    label. Grades are scored as ``multiclass``. The Brier score is the mean of (p - y)^2, summed
    over the classes where there are several.

    Args:
        labels: see `evaluation.mil.scores.evaluate_bags`.
        probabilities: see `evaluate_bags`.
        task: task of the predictions.
        validation: labels and probabilities of the validation bags, to which the temperature is
            fitted, or None.

    Returns:
        ``ece``, ``ece_equal_mass``, ``mce``, ``brier``, ``log_loss``, ``bins``, each bin from
        ``low`` to ``high`` with the ``count`` of its predictions, their mean ``confidence`` and the
        ``frequency`` of what is true, ``brier_parts`` (`BrierParts`, summed over the classes
        where the Brier score is), ``band`` (`Band`, and the number of bins ``outside``) and
        ``temperature``. With a temperature also ``after``, all but the last two at that
        temperature; where there is none, ``undefined`` has the reason. NaN where a value is
        undefined: a log-loss where the probability of the truth is 0.

    Raises:
        ValueError: see `evaluation.mil.metrics.bag_table`.
    """
    table = bag_table(labels, probabilities, task)
    found = _scores(table)
    undefined = {}
    if np.isnan(found["log_loss"]):
        undefined["log_loss"] = "the probability of a true class is 0"
    bins = reliability(*_claims(table))
    found["band"] = consistency_band(bins.size, bins.predicted).record(bins.observed)
    found["temperature"] = float("nan")
    if validation is None:
        undefined["temperature"] = "no validation bags are given"
    else:
        fitted = fit_temperature(*validation, task)
        found["temperature"] = fitted.value
        if fitted.note:
            undefined["temperature"] = fitted.note
        else:
            found["after"] = _scores(
                bag_table(labels, scaled(table.probabilities, task, fitted.value), task)
            )
    return {**found, "undefined": undefined}


def _scores(table: BagTable) -> dict[str, Any]:
    chance, true = _claims(table)
    bins = reliability(chance, true)
    truth = table.labels.astype(np.float64)
    if table.task == "multiclass":
        truth = np.eye(table.probabilities.shape[1])[table.labels]
    squares = (table.probabilities - truth) ** 2
    brier = squares.sum(axis=1) if table.task == "multiclass" else squares
    likely = _of_truth(table)
    columns = enumerate(zip(bins.size, bins.predicted, bins.observed, strict=True))
    return {
        "ece": bins.ece,
        "ece_equal_mass": reliability_equal_mass(chance, true).ece,
        "mce": bins.mce,
        "brier": float(brier.mean()),
        "log_loss": float(-np.log(likely).mean()) if likely.min() > 0 else float("nan"),
        "bins": [
            {
                "low": number / BINS,
                "high": (number + 1) / BINS,
                "count": int(count),
                "confidence": float(predicted),
                "frequency": float(observed),
            }
            for number, (count, predicted, observed) in columns
        ],
        "brier_parts": _parts(table)._asdict(),
    }


def _parts(table: BagTable) -> BrierParts:
    """Return the parts of the Brier score, as sums over classes where that is one."""
    if table.task != "multiclass":
        chance, true = _claims(table)
        return brier_parts(chance, true.astype(np.float64), _places(chance))
    classes = [
        brier_parts(chance, (table.labels == number).astype(np.float64), _places(chance))
        for number, chance in enumerate(table.probabilities.T)
    ]
    return BrierParts(*(float(part) for part in np.sum(classes, axis=0)))


def _claims(table: BagTable) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return (P,) probabilities and whether what they are of is true."""
    if table.task == "multiclass":
        said = table.probabilities.argmax(axis=1)
        return table.probabilities.max(axis=1), said == table.labels
    return table.probabilities.ravel(), table.labels.ravel() == 1


def _of_truth(table: BagTable) -> FloatArray:
    """Return the probabilities of what is true, of each bag (and label)."""
    if table.task == "multiclass":
        return table.probabilities[np.arange(len(table.labels)), table.labels]
    return np.where(table.labels == 1, table.probabilities, 1 - table.probabilities).ravel()


class Temperature(NamedTuple):
    """A fitted temperature.

    Attributes:
        value: T above 0; NaN if none is best.
        note: why there is none, or empty.
    """

    value: float
    note: str = ""


def fit_temperature(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, task: MILTask
) -> Temperature:
    """Return the T that divides logits with the least log-loss on validation bags.

    Logits are those of the probabilities: log p, or log p / (1 - p) for binary and multilabel
    tasks. The log-loss is convex in 1 / T, so its slope is bisected.

    Args:
        labels: see `calibration`; of validation bags, never of those scored.
        probabilities: see `calibration`.
        task: task of the predictions.
    """
    table = bag_table(labels, probabilities, task)
    if _of_truth(table).min() == 0:
        return Temperature(np.nan, "a validation bag gives its true class the probability 0")
    margins = _margins(table)
    if _slope(margins, 0.0) >= 0:
        reason = "the validation bags are predicted no better than by equal probabilities"
        return Temperature(np.nan, reason)
    low, high = 0.0, 1.0
    while _slope(margins, high) <= 0 and high < 1e6:
        low, high = high, 2 * high
    if _slope(margins, high) <= 0:
        return Temperature(np.nan, "all validation bags are predicted right: no T above 0 is best")
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(margins, middle) < 0 else (low, middle)
    return Temperature(2 / (low + high))


def _margins(table: BagTable) -> FloatArray:
    """Return (P, C - 1) by how much the logit of the truth exceeds each other one."""
    with np.errstate(divide="ignore"):
        if table.task != "multiclass":
            likely = _of_truth(table)[:, None]
            found: FloatArray = np.log(likely) - np.log(1 - likely)
            return found
        logits = np.log(table.probabilities)
    rows = np.arange(len(logits))
    others = np.ones(logits.shape, dtype=bool)
    others[rows, table.labels] = False
    apart = logits[rows, table.labels][:, None] - logits
    return apart[others].reshape(len(logits), -1)


def _slope(margins: FloatArray, inverse: float) -> float:
    """Return the derivative by 1 / T of sum log(1 + sum exp(-margin / T))."""
    bounded = np.where(np.isfinite(margins), margins, 0.0)
    weight = np.where(np.isfinite(margins), -inverse * bounded, -np.inf)  # a class of p = 0 is out
    top = np.maximum(weight.max(axis=1, keepdims=True), 0.0)
    share = np.exp(weight - top)
    share /= share.sum(axis=1, keepdims=True) + np.exp(-top)
    return float(-(share * bounded).sum())


def scaled(probabilities: npt.ArrayLike, task: MILTask, temperature: float) -> FloatArray:
    """Return probabilities whose logits are divided by a temperature.

    Args:
        probabilities: see `calibration`.
        task: task of the predictions.
        temperature: T above 0; 1 changes nothing.
    """
    chance = np.asarray(probabilities, dtype=np.float64)
    with np.errstate(divide="ignore"):
        yes = np.log(chance) / temperature
        no = np.log(1 - chance) / temperature
    if task == "multiclass":
        raised = np.exp(yes - yes.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float64)
    top = np.maximum(yes, no)
    found = np.exp(yes - top) / (np.exp(yes - top) + np.exp(no - top))
    return np.asarray(found, dtype=np.float64)


def survival_calibration(
    table: SurvivalTable,
    times: npt.ArrayLike,
    groups: IntArray | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Compare mean predicted survival with the Kaplan-Meier curve of the same bags.

    Args:
        table: times and predictions, with survival curves.
        times: (T,) times.
        groups: (n,) risk group of each bag, or None.
        level: coverage of the intervals of the Kaplan-Meier curve.

    Returns:
        ``times``: for each time its ``predicted`` mean, ``observed`` share, the interval ``low`` to
        ``high`` and the bags ``at_risk``, observed share and interval NaN after the last time of
        the bags unless all have had the event; and ``groups``, for each risk group that has bags
        its ``group``, ``bags`` and ``times``.

    Raises:
        ValueError: the table has no survival curves.
    """
    if table.curves is None:
        raise ValueError("calibration of times needs predicted survival")
    asked = np.asarray(times, dtype=np.float64)
    predicted = table.curves.at(asked)
    whole = np.ones(len(table.time), dtype=bool)
    record: dict[str, Any] = {"times": _beside(table, predicted, asked, whole, level)}
    if groups is not None:
        record["groups"] = [
            {
                "group": int(group),
                "bags": int((groups == group).sum()),
                "times": _beside(table, predicted, asked, groups == group, level),
            }
            for group in np.unique(groups)
        ]
    return record


def _beside(
    table: SurvivalTable,
    predicted: FloatArray,
    times: FloatArray,
    chosen: npt.NDArray[np.bool_],
    level: float,
) -> list[dict[str, Any]]:
    own = table.time[chosen]
    curve = kaplan_meier(own, table.event[chosen], level)
    at_risk = numbers_at_risk(own, times)
    mean, seen = predicted[chosen].mean(axis=0), curve.curve.at(times)
    # Nobody was followed for so long, so that a curve above 0 says nothing there.  # A760
    beyond = (times > own.max()) & (seen > 0)
    seen, low, high = (np.where(beyond, np.nan, v) for v in (seen, *curve.interval_at(times)))
    columns = zip(times, mean, seen, low, high, at_risk, strict=True)
    names = ("time", "predicted", "observed", "low", "high")
    return [
        {**{k: float(v) for k, v in zip(names, row, strict=False)}, "at_risk": int(row[-1])}
        for row in columns
    ]
