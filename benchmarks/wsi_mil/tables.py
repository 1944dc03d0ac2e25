"""Tables and figure of the comparison on synthetic slides.

Intervals are Student's t intervals over the seeds. For the differences d_1 .. d_S of a method and
its baseline on the same world, bags and initial weights, they are mean(d) +- t sd(d) / sqrt(S),
where t is the 97.5 % point with S - 1 degrees of freedom. A seed has its own training and test
bags, so the differences are independent, and their spread includes all random effects, such as the
choice of test bags. A bootstrap of five seeds would give intervals that are narrower by sqrt(4/5)
and lack the factor t (A175).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.wsi_mil.measures import bag_auprc, bag_auroc
from benchmarks.wsi_mil.methods import METHODS
from evaluation.report.plots import BLUE, ORANGE

Result = dict[str, Any]
FloatArray = npt.NDArray[np.float64]
Measure = Callable[[Result], float]


class Difference(NamedTuple):
    """A mean over S seeds with its 95 % interval; NaN bounds below two seeds."""

    mean: float
    low: float
    high: float
    seeds: int
    above: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}] {self.above}/{self.seeds}"


def paired_interval(differences: npt.ArrayLike) -> Difference:
    """Return mean, interval and number of positive values, for one difference per seed."""
    from scipy.stats import t

    values = np.asarray(differences, dtype=np.float64)
    count, mean = values.size, float(values.mean())
    half = np.nan
    if count > 1:
        half = float(t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return Difference(mean, mean - half, mean + half, count, int((values > 0).sum()))


def auroc_on(split: str) -> Measure:
    """Return a function from a result to its bag AUROC."""
    return lambda result: bag_auroc(result[split]["labels"], result[split]["logits"])


def auprc_on(split: str) -> Measure:
    """Return a function from a result to its AUPRC at the class ratio of its training bags."""
    return lambda result: bag_auprc(
        result[split]["labels"], result[split]["logits"], result["negatives"]
    )


def of_large(name: str) -> Measure:
    """Return a function from a result to one of its means over the 100 bags."""
    return lambda result: float(result["large"][name])


COLUMNS: dict[str, Measure] = {
    "AUROC, 40": auroc_on("test"),
    "AUROC, 100": auroc_on("large"),
    "AUPRC, 40": auprc_on("test"),
    "AUPRC, 100": auprc_on("large"),
    "train": auroc_on("train"),
    "witness, attention": of_large("witness_auroc"),
    "instance, evidence": of_large("instance_auroc"),
    "effective": of_large("effective"),
    "of N": of_large("effective_share"),
    "on witnesses": of_large("witness_attention"),
    "s": lambda result: float(result["seconds"]),
}
COMPARED = (
    "AUROC, 40", "AUROC, 100", "AUPRC, 100", "witness, attention", "instance, evidence", "of N",
)  # fmt: skip


def summary(result: Result) -> str:
    """Return a one-line summary of a run."""
    names = ("train", "AUROC, 40", "AUROC, 100", "witness, attention", "of N", "s")
    return "  ".join(f"{name} {COLUMNS[name](result):.3f}" for name in names)


def comparisons(results: Sequence[Result], column: str) -> list[tuple[str, str, int, Difference]]:
    """Return (method, baseline, negatives, difference) of every pair with a common seed."""
    measure = COLUMNS[column]
    values = {(r["method"], r["negatives"], r["seed"]): measure(r) for r in results}
    ratios = sorted({r["negatives"] for r in results})
    found = []
    for name, method in METHODS.items():
        for baseline in method.baselines:
            for ratio in ratios:
                pairs = [
                    value - values[baseline, ratio, seed]
                    for (m, n, seed), value in values.items()
                    if (m, n) == (name, ratio) and (baseline, ratio, seed) in values
                ]
                if pairs:
                    found.append((name, baseline, ratio, paired_interval(pairs)))
    return found


def markdown(results: Sequence[Result]) -> str:
    """Return the tables of methods and of differences, and the time of all runs."""
    lines = ["| bags | method | seeds | " + " | ".join(COLUMNS) + " |"]
    lines.append("|---" * (3 + len(COLUMNS)) + "|")
    for ratio in sorted({r["negatives"] for r in results}):
        for name, method in METHODS.items():
            rows = [r for r in results if (r["method"], r["negatives"]) == (name, ratio)]
            if rows:
                cells = [
                    _mean(column, [measure(r) for r in rows]) for column, measure in COLUMNS.items()
                ]
                lines.append(
                    f"| 1:{ratio} | {method.title} | {len(rows)} | " + " | ".join(cells) + " |"
                )
    lines += ["", "| bags | method | against | " + " | ".join(COMPARED) + " |"]
    lines.append("|---" * (3 + len(COMPARED)) + "|")
    columns = [comparisons(results, column) for column in COMPARED]
    for pairs in sorted(zip(*columns, strict=True), key=lambda row: row[0][2]):
        name, baseline, ratio, _ = pairs[0]
        cells = " | ".join(str(pair[3]) for pair in pairs)
        lines.append(f"| 1:{ratio} | {METHODS[name].title} | {METHODS[baseline].title} | {cells} |")
    lines += ["", time_taken(results)]
    return "\n".join(lines)


def time_taken(results: Sequence[Result]) -> str:
    """Return the time of all runs in minutes of processor time."""
    training = sum(r["seconds"] for r in results) / 60
    measuring = sum(r["seconds_measuring"] for r in results) / 60
    return (
        f"{len(results)} runs, {training:.0f} minutes of processor time for training and "
        f"{measuring:.0f} for measuring."
    )


def _mean(column: str, values: Sequence[float]) -> str:
    if column in ("effective", "s"):
        return f"{np.mean(values):.0f}"
    spread = f" ({np.std(values, ddof=1):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def figure(results: Sequence[Result]) -> Any:
    """Return a figure of all differences in bag AUROC with intervals, one panel per ratio."""
    from matplotlib.figure import Figure

    ratios = sorted({r["negatives"] for r in results})
    drawing = Figure(figsize=(5.2 * max(1, len(ratios)), 4.6), layout="constrained")
    panels = drawing.subplots(1, max(1, len(ratios)), sharex=True, squeeze=False)[0]
    for panel, ratio in zip(panels, ratios, strict=False):
        _panel(panel, results, ratio)
    drawing.supxlabel("difference in bag AUROC, 95 % interval over seeds", fontsize=10)
    if ratios:
        panels[0].legend(fontsize=8)
    return drawing


def _panel(panel: Any, results: Sequence[Result], ratio: int) -> None:
    styles = (("AUROC, 100", -0.13, BLUE, BLUE), ("AUROC, 40", 0.13, ORANGE, "white"))
    names: list[str] = []
    for column, shift, colour, face in styles:
        pairs = [pair for pair in comparisons(results, column) if pair[2] == ratio]
        names = [f"{METHODS[a].title}\nagainst {METHODS[b].title}" for a, b, _, _ in pairs]
        means = np.array([pair[3].mean for pair in pairs])
        halves = np.nan_to_num([pair[3].high - pair[3].mean for pair in pairs])
        panel.errorbar(
            means, np.arange(len(pairs)) + shift, xerr=halves, fmt="o", capsize=3, color=colour,
            markerfacecolor=face, label=f"{column.split(', ')[1]} test bags",
        )  # fmt: skip
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.invert_yaxis()
    panel.set_title(f"{ratio} negative bag{'s' if ratio > 1 else ''} per positive bag", fontsize=10)
