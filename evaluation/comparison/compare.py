"""Comparison of the predictions of two models for the same bags or images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.comparison.fold_scores import check_same_folds, has_folds, read_fold_scores
from evaluation.comparison.pairs import PairedBags, pair_bags
from evaluation.comparison.run_predictions import Predictions, find_predictions
from evaluation.mil.predictions_csv import read_bag_csv
from evaluation.seg.coco_bootstrap import compare_images
from evaluation.statistics.delong import DeLongTest, delong_test
from evaluation.statistics.paired import Difference, Paired, compare_bags
from evaluation.statistics.resampled_t import ResampledTest, corrected_resampled_t_test
from evaluation.statistics.sample_size import (
    class_members,
    too_few_bags,
    too_few_images,
    withheld,
)
from formats.coco.results import read_ground_truth, read_results
from structures import AnnotationPolicy, BadDataPolicy, Problem

_COLUMNS = ["metric", "A", "B", "A - B", "2.5 %", "97.5 %", "p"]


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
    """

    thresholds: Sequence[float] = ()
    max_dets: Sequence[int] = ()
    draws: int = 1000
    seed: int = 0
    bad_data: AnnotationPolicy = "error"
    progress: Callable[[int, int], None] | None = None


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


def compare_files(
    sources: Sequence[Path], annotations: Path | None = None, settings: Settings | None = None
) -> Comparison:
    """Compare the predictions of two models.

    Args:
        sources: two files or run folders (see `find_predictions`): tables of bags, or COCO results
            if ``annotations`` is given; or two cross-validations (see `read_fold_scores`).
        annotations: COCO ground truth.
        settings: settings of the comparison.

    Raises:
        ValueError: a file is missing, broken or of the other kind, the two files do not belong
            together, or a setting is out of range.
    """
    how = settings or Settings()
    if annotations is None:
        if how.max_dets:
            raise ValueError("--max-dets limits detections in images; bags have no detections")
        if any(folds := [has_folds(path) for path in sources]):
            return _compare_folds(sources, folds, how)
        return _compare_bag_files(sources, how)
    if how.thresholds:
        raise ValueError("--threshold applies to bags; COCO metrics use every confidence")
    found = [find_predictions(path, "images") for path in sources]
    truth, problems = read_ground_truth(annotations, how.bad_data)
    results = [read_results(one.file, truth, how.bad_data) for one in found]
    paired = compare_images(
        truth,
        results[0][0],
        results[1][0],
        max_dets=how.max_dets or 100,
        draws=how.draws,
        seed=how.seed,
        progress=how.progress,
    )
    title = f"{annotations}: {len(truth['images'])} images, {how.draws} draws of images"
    problems += results[0][1] + results[1][1]
    files = [annotations, *(one.file for one in found)]
    extra = {"pictures": len(truth["images"]), "draws": how.draws}
    few = too_few_images(len(truth["images"]))
    return _comparison(sources, title, paired, problems, files, extra, few)


def _compare_bag_files(sources: Sequence[Path], how: Settings) -> Comparison:
    found = [find_predictions(path, "bags") for path in sources]
    files = [one.file for one in found]
    policy: BadDataPolicy = "error" if how.bad_data == "error" else "skip"
    tables = [read_bag_csv(file, policy) for file in files]
    bags = pair_bags((files[0], files[1]), (tables[0], tables[1]), policy)
    found = [
        one._replace(threshold=table.threshold) if one.threshold is None else one
        for one, table in zip(found, tables, strict=True)
    ]
    decided = bags.task != "multiclass"  # which takes the most probable class
    if how.thresholds and not decided:
        raise ValueError(
            "--threshold has no effect on predictions of several classes, of which the most "
            "probable one counts; leave it out"
        )
    thresholds, notes = _thresholds(found, how.thresholds) if decided else ((0.5, 0.5), [])
    scores = bags.first.probabilities, bags.second.probabilities
    options: dict[str, Any] = {"groups": bags.groups, "draws": how.draws, "seed": how.seed}
    paired = compare_bags(bags.first.labels, *scores, bags.task, thresholds, **options)
    count, patients = len(bags.first.bag_ids), len(set(bags.groups))
    unit = f"of the {patients} patients" if patients else "of bags within their class"
    title = f"{count} bags, {how.draws} draws {unit}"
    if decided:
        title += f", thresholds {thresholds[0]:g}, {thresholds[1]:g}"
    few = too_few_bags(bags.first, bags.task, bags.classes, bags.groups)
    tests, test_notes = _delong(bags)
    if few:
        tests = {
            name: test._replace(standard_error=nan, low=nan, high=nan, z=nan, p=nan)
            for name, test in tests.items()
        }
    extra: dict[str, Any] = {"bags": count, "patients": patients or None, "draws": how.draws}
    extra["thresholds"] = thresholds if decided else None
    extra["delong"] = {k: t._asdict() for k, t in tests.items()}
    problems = tables[0].problems + tables[1].problems + bags.problems
    result = _comparison(sources, title, paired, problems, files, extra, few)
    if tests:
        columns = [*_COLUMNS[:4], "s. e.", *_COLUMNS[4:]]
        rows: list[tuple[Any, ...]] = [(k, *t[:6], _shown(t.p)) for k, t in tests.items()]
        result.tables.append(("DeLong's test of the AUROCs", columns, rows))
    result.notes.extend([*notes, *test_notes])
    return result


def _compare_folds(sources: Sequence[Path], folds: Sequence[bool], how: Settings) -> Comparison:
    """Compare two cross-validations on the same folds by the corrected resampled t-test."""
    if not all(folds):
        one, other = (sources[0], sources[1]) if folds[0] else (sources[1], sources[0])
        raise ValueError(
            f"{one} is a cross-validation and {other} is not; compare two results of mil-cv, or "
            "two tables with a column fold"
        )
    if how.thresholds:
        raise ValueError("--threshold has no effect on a cross-validation, whose folds have theirs")
    found = [read_fold_scores(path) for path in sources]
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
    names = _names(sources)
    heading = f"A: {names[0]}\nB: {names[1]}\n{count} folds, corrected resampled t-test"
    rows: list[tuple[Any, ...]] = [(k, *t[:5], _shown(t.p)) for k, t in tests.items()]
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
        [(heading, _COLUMNS, rows)], notes, (), [one.file for one in found], metrics, extra
    )


def _thresholds(
    found: Sequence[Predictions], given: Sequence[float]
) -> tuple[tuple[float, float], list[str]]:
    if len(given) > 2 or not all(0 <= value <= 1 for value in given):
        values = " ".join(f"{value:g}" for value in given)
        raise ValueError(f"--threshold takes one or two probabilities in [0, 1], got {values}")
    if given:
        return (given[0], given[-1]), []
    first, second = (0.5 if one.threshold is None else one.threshold for one in found)
    any_known = any(one.threshold is not None for one in found)  # else both files use 0.5
    notes = []
    for one in found:
        note = one.note or (f"{one.file}: a single file has no threshold" if any_known else "")
        if one.threshold is None and note:
            notes.append(f"{note}; threshold 0.5 is used")
    return (first, second), list(dict.fromkeys(notes))


def _delong(bags: PairedBags) -> tuple[dict[str, DeLongTest], list[str]]:
    """Test the AUROC of a binary task, or of each class against the rest."""
    if bags.groups and max(Counter(bags.groups).values()) > 1:  # A184
        note = "DeLong's test assumes independent bags and is left out: a patient has several bags"
        return {}, [f"{note}. The bootstrap above draws whole patients"]
    scores = bags.first.probabilities, bags.second.probabilities
    truth = class_members(bags.first.labels, bags.task, len(bags.classes) or 2)
    if bags.task == "binary":
        tests = {"bag_auroc": delong_test(truth[:, 1], *scores)}
    else:
        tests = {
            f"class {name}": delong_test(truth[:, c], scores[0][:, c], scores[1][:, c])
            for c, name in enumerate(bags.classes)
        }
    return tests, [f"{name}: {test.note}" for name, test in tests.items() if test.note]


def _comparison(
    sources: Sequence[Path],
    title: str,
    paired: Paired,
    problems: tuple[Problem, ...],
    files: list[Path],
    extra: Mapping[str, Any],
    few: str,
) -> Comparison:
    if few:
        differences = {
            k: d._replace(low=nan, high=nan, p=nan) for k, d in paired.differences.items()
        }
        paired = Paired(differences, (withheld(differences), withheld(differences)))
    names = _names(sources)
    rows: list[tuple[Any, ...]] = [(k, *d[:5], _shown(d.p)) for k, d in paired.differences.items()]
    metrics = {
        name: {k: float(d[place]) for k, d in paired.differences.items()}
        for place, name in enumerate(names)
    }
    difference = {k: _without_values(d) for k, d in paired.differences.items()}
    entries = {"first": names[0], "second": names[1], "difference": difference}
    entries["intervals"] = dict(zip(names, paired.intervals, strict=True))
    heading = f"A: {names[0]}\nB: {names[1]}\n{title}"
    tables: list[tuple[str, list[str], list[tuple[Any, ...]]]] = [(heading, _COLUMNS, rows)]
    return Comparison(tables, [few] if few else [], problems, files, metrics, {**extra, **entries})


def _names(sources: Sequence[Path]) -> list[str]:
    names = [str(path) for path in sources]
    if names[0] == names[1]:
        names = [f"{names[0]} ({place})" for place in ("first", "second")]
    return names


def _shown(p: float) -> float | str:
    return "< 0.0001" if p < 1e-4 else p


def _without_values(difference: Difference) -> dict[str, float]:
    return {key: getattr(difference, key) for key in ("value", "low", "high", "p")}
