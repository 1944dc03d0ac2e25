"""Comparison of the predictions of two models for the same bags or images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

from evaluation.comparison.compare_folds import compare_folds
from evaluation.comparison.compare_targets import compare_targets
from evaluation.comparison.fold_scores import has_folds
from evaluation.comparison.pairs import PairedBags, pair_bags, pool_pairs
from evaluation.comparison.results import COLUMNS, Comparison, Settings, comparison, shown
from evaluation.comparison.run_predictions import Predictions, find_predictions, has_grades
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.seg.coco_bootstrap import compare_images
from evaluation.statistics.delong import DeLongTest, delong_test
from evaluation.statistics.paired import compare_bags
from evaluation.statistics.sample_size import class_members, too_few_bags, too_few_images
from evaluation.targets.files import read_predictions
from formats.coco.results import read_ground_truth, read_results


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
            return compare_folds(sources, folds, how)
        return _compare_bag_files(sources, how)
    if how.thresholds:
        raise ValueError("--threshold applies to bags; COCO metrics use every confidence")
    if given := how.bag_options():
        raise ValueError(f"{', '.join(given)}: for tables of bags alone; leave it out for images")
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
    return comparison(sources, title, paired, problems, files, extra, few)


def _compare_bag_files(sources: Sequence[Path], how: Settings) -> Comparison:
    if how.pool is not None and how.unit == "bag":
        raise ValueError("--pool has an effect with --unit patient alone; add it")
    found = [find_predictions(path, "bags") for path in sources]
    if any(map(has_grades, found)):
        how = how._replace(task="ordinal")
    tables = [read_predictions(one.file, how.bag_policy, task=how.task) for one in found]
    if any(table.target is not None for table in tables):
        return compare_targets(sources, found, tables, how)
    if how.times or how.tau is not None:
        raise ValueError("--times and --tau have an effect on times alone, not on classes")
    return _compare_classes(sources, found, tables, how)


def _compare_classes(
    sources: Sequence[Path],
    found: Sequence[Predictions],
    tables: Sequence[BagPredictions],
    how: Settings,
) -> Comparison:
    files = [one.file for one in found]
    bags = pair_bags((files[0], files[1]), (tables[0], tables[1]), how.bag_policy)
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
    total = len(bags.first.bag_ids)
    if how.unit == "patient":
        bags, pool_notes = _patients(bags, tables, how, found if decided else ())
        notes = notes + pool_notes
    scores = bags.first.probabilities, bags.second.probabilities
    options: dict[str, Any] = {"groups": bags.groups, "draws": how.draws, "seed": how.seed}
    paired = compare_bags(bags.first.labels, *scores, bags.task, thresholds, **options)
    count, patients = len(bags.first.bag_ids), len(set(bags.groups))
    unit = f"of the {patients} patients" if patients else "of bags within their class"
    title = f"{count} {how.unit}s, {how.draws} draws {unit}"
    if decided:
        title += f", thresholds {thresholds[0]:g}, {thresholds[1]:g}"
    few = too_few_bags(bags.first, bags.task, bags.classes, bags.groups)
    tests, test_notes = _delong(bags)
    if few:
        tests = {
            name: test._replace(standard_error=nan, low=nan, high=nan, z=nan, p=nan)
            for name, test in tests.items()
        }
    extra: dict[str, Any] = {"bags": total, "patients": patients or None, "draws": how.draws}
    extra |= {"unit": how.unit, "pool": how.pool or "mean" if how.unit == "patient" else None}
    extra["thresholds"] = thresholds if decided else None
    extra["delong"] = {k: t._asdict() for k, t in tests.items()}
    problems = tables[0].problems + tables[1].problems + bags.problems
    result = comparison(sources, title, paired, problems, files, extra, few)
    if tests:
        columns = [*COLUMNS[:4], "s. e.", *COLUMNS[4:]]
        rows: list[tuple[Any, ...]] = [(k, *t[:6], shown(t.p)) for k, t in tests.items()]
        result.tables.append(("DeLong's test of the AUROCs", columns, rows))
    result.notes.extend([*notes, *test_notes])
    return result


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


def _patients(
    bags: PairedBags,
    tables: Sequence[BagPredictions],
    how: Settings,
    chosen: Sequence[Predictions],
) -> tuple[PairedBags, list[str]]:
    """Return a row for each patient, and notes, also on thresholds ``chosen`` for bags."""
    pool, count = how.pool or "mean", len(bags.first.bag_ids)
    found = pool_pairs((tables[0], tables[1]), bags, pool, how.bag_policy)
    patients = len(found.first.bag_ids)
    notes = [f"{count} bags were pooled by {pool} to {patients} patients"]
    if bags.task == "multiclass" and pool == "max":  # A676
        notes.append("classes count in their order, the largest number highest")
    known = any(one.threshold is not None for one in chosen)
    if known and not how.thresholds and count > patients:  # A677
        notes.append("thresholds were chosen for bags, not for patients; --threshold sets others")
    return found, notes


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
