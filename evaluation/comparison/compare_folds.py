"""Comparison of two cross-validations on the same folds."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

from evaluation.comparison.fold_scores import check_same_folds, read_fold_scores
from evaluation.comparison.results import COLUMNS, Comparison, Settings, names_of, shown
from evaluation.statistics.resampled_t import ResampledTest, corrected_resampled_t_test


def compare_folds(sources: Sequence[Path], folds: Sequence[bool], how: Settings) -> Comparison:
    """Compare two cross-validations on the same folds by the corrected resampled t-test.

    Args:
        sources: the two files.
        folds: whether each is a cross-validation, see `has_folds`.
        how: settings of the comparison.

    Raises:
        ValueError: one is no cross-validation, an option has no effect, or see `read_fold_scores`
            and `check_same_folds`.
    """
    if not all(folds):
        one, other = (sources[0], sources[1]) if folds[0] else (sources[1], sources[0])
        raise ValueError(
            f"{one} is a cross-validation and {other} is not; compare two results of mil-cv, or "
            "two tables with a column fold"
        )
    if how.thresholds:
        raise ValueError("--threshold has no effect on a cross-validation, whose folds have theirs")
    if how.unit == "patient" or how.pool is not None:
        raise ValueError(
            "--unit patient and --pool have no effect on cross-validations, whose folds are scored "
            "by bag; leave them out"
        )
    found = [read_fold_scores(path, how.task, how.times, how.tau) for path in sources]
    check_same_folds(*found)
    count = len(next(iter(found[0].metrics.values())))
    few = found[0].few
    tests: dict[str, ResampledTest] = {
        name: corrected_resampled_t_test(values, found[1].metrics[name], found[0].test_to_train)
        for name, values in found[0].metrics.items()
        if name in found[1].metrics
    }
    if few:
        tests = {k: test._replace(low=nan, high=nan, p=nan, t=nan) for k, test in tests.items()}
    names = names_of(sources)
    heading = f"A: {names[0]}\nB: {names[1]}\n{count} folds, corrected resampled t-test"
    rows: list[tuple[Any, ...]] = [(k, *t[:5], shown(t.p)) for k, t in tests.items()]
    metrics = {
        name: {k: float(t[place]) for k, t in tests.items()} for place, name in enumerate(names)
    }
    undefined = {f"{k} in {count - t.folds}" for k, t in tests.items() if t.folds < count}
    notes = [few] if few else []
    if undefined:
        listed = ", ".join(sorted(undefined))
        notes.append(f"left out are folds in which a metric is not defined: {listed} of {count}")
    extra = {
        "first": names[0],
        "second": names[1],
        "folds": count,
        "test_to_train": found[0].test_to_train,
        "bags": found[0].bags,
        "difference": {k: t._asdict() for k, t in tests.items()},
    }
    return Comparison(
        [(heading, COLUMNS, rows)], notes, (), [one.file for one in found], metrics, extra
    )
