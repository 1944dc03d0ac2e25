"""Settings and result of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any, Literal, NamedTuple

from evaluation.mil.patients import Pool
from evaluation.statistics.paired import Difference, Paired
from evaluation.statistics.sample_size import withheld
from structures import AnnotationPolicy, BadDataPolicy, MILTask, Problem

COLUMNS = ["metric", "A", "B", "A - B", "2.5 %", "97.5 %", "p"]


class Settings(NamedTuple):
    """Settings of a comparison.

    Attributes:
        thresholds: decision threshold for both models or one for each; empty for the threshold of
            the run, or 0.5.
        max_dets: caps on detections, see `evaluation.seg.coco.evaluate_results`; empty for 1, 10,
            100.
        draws: number of draws of the bootstrap.
        seed: seed of the bootstrap.
        bad_data: ``skip`` leaves out faulty lines and rows, and bags that one model lacks;
            ``repair`` first mends annotations of images.
        progress: called with the number of finished draws and the number of all draws.
        task: ``ordinal`` to read the classes of tables as grades, or None.
        unit: whether bags are scored, or patients by the pooled predictions of their bags.
        pool: how, see `evaluation.mil.patients.pool_patients`; None for the mean.
        times: of times, see `evaluation.targets.survival_scores.SurvivalScorer`; empty for None.
        tau: of times, see there.
    """

    thresholds: Sequence[float] = ()
    max_dets: Sequence[int] = ()
    draws: int = 1000
    seed: int = 0
    bad_data: AnnotationPolicy = "error"
    progress: Callable[[int, int], None] | None = None
    task: MILTask | None = None
    unit: Literal["bag", "patient"] = "bag"
    pool: Pool | None = None
    times: Sequence[float] = ()
    tau: float | None = None

    @property
    def bag_policy(self) -> BadDataPolicy:
        """What happens to faulty lines of tables of bags."""
        return "error" if self.bad_data == "error" else "skip"

    def bag_options(self) -> list[str]:
        """Return the options given that have an effect on bags alone."""
        given = {
            "--task": self.task,
            "--unit": self.unit == "patient",
            "--pool": self.pool,
            "--times": self.times,
            "--tau": self.tau is not None,
        }
        return [flag for flag, value in given.items() if value]


class Comparison(NamedTuple):
    """The result of a comparison.

    Attributes:
        tables: title, names of the columns and rows of each table.
        notes: remarks for the reader.
        problems: problems of the records that were left out.
        files: files that were read.
        metrics: metrics of each model, by its name.
        extra: further entries of the JSON record.
    """

    tables: list[tuple[str, list[str], list[tuple[Any, ...]]]]
    notes: list[str]
    problems: tuple[Problem, ...]
    files: list[Path]
    metrics: dict[str, dict[str, float]]
    extra: dict[str, Any]


def comparison(
    sources: Sequence[Path],
    title: str,
    paired: Paired,
    problems: tuple[Problem, ...],
    files: list[Path],
    extra: Mapping[str, Any],
    few: str,
) -> Comparison:
    """Return the result of a comparison by the paired bootstrap.

    Args:
        sources: the two files or folders as the user gave them.
        title: what was compared, for the table.
        paired: differences and intervals.
        problems: see `Comparison`.
        files: see `Comparison`.
        extra: further entries of the record.
        few: why intervals and p-values are withheld, or empty.
    """
    if few:
        differences = {
            k: d._replace(low=nan, high=nan, p=nan) for k, d in paired.differences.items()
        }
        paired = Paired(differences, (withheld(differences), withheld(differences)))
    names = names_of(sources)
    rows: list[tuple[Any, ...]] = [(k, *d[:5], shown(d.p)) for k, d in paired.differences.items()]
    metrics = {
        name: {k: float(d[place]) for k, d in paired.differences.items()}
        for place, name in enumerate(names)
    }
    difference = {k: _without_values(d) for k, d in paired.differences.items()}
    entries = {"first": names[0], "second": names[1], "difference": difference}
    entries["intervals"] = dict(zip(names, paired.intervals, strict=True))
    heading = f"A: {names[0]}\nB: {names[1]}\n{title}"
    tables: list[tuple[str, list[str], list[tuple[Any, ...]]]] = [(heading, COLUMNS, rows)]
    return Comparison(tables, [few] if few else [], problems, files, metrics, {**extra, **entries})


def names_of(sources: Sequence[Path]) -> list[str]:
    """Return a name for each model: its path, with its place if both have the same."""
    names = [str(path) for path in sources]
    if names[0] == names[1]:
        names = [f"{names[0]} ({place})" for place in ("first", "second")]
    return names


def shown(p: float) -> float | str:
    """Return a p-value for a table."""
    return "< 0.0001" if p < 1e-4 else p


def _without_values(difference: Difference) -> dict[str, float]:
    return {key: getattr(difference, key) for key in ("value", "low", "high", "p")}
