"""Comparison of two models of times, values or grades on the same bags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evaluation.comparison.results import Comparison, Settings, comparison, names_of
from evaluation.comparison.run_predictions import Predictions, training_bags
from evaluation.comparison.target_pairs import (
    KINDS,
    PairedTargets,
    pair_targets,
    pool_target_pairs,
)
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.targets.bootstrap import compare_scores, units
from evaluation.targets.scores import Scorer, TargetScores, score
from evaluation.targets.training_bags import TrainingBags
from structures import MILTask
from structures.tasks import TIME_TASKS


def compare_targets(
    sources: Sequence[Any],
    found: Sequence[Predictions],
    tables: Sequence[BagPredictions],
    how: Settings,
) -> Comparison:
    """Compare two tables by the paired bootstrap of `compare_scores`.

    Both models are scored at the same times, with the same curve of censoring and ``tau``: those of
    the training bags where both are runs that were trained on the same ones, else those of the
    scored bags.  # A695

    Args:
        sources: the two files or folders as the user gave them.
        found: the files, and the checkpoints of runs.
        tables: their contents, at least one with ``target``.
        how: settings of the comparison.

    Raises:
        ValueError: an option has no effect, no target is known, or see `pair_targets` and
            `pool_targets`.
    """
    files = found[0].file, found[1].file
    pair = pair_targets(files, (tables[0], tables[1]), how.bag_policy)
    refuse_options(how, pair.first.task)
    pair, notes = _known(pair, str(files[0]))
    bags = len(pair.first.bag_ids)
    if how.unit == "patient":
        pair = pool_target_pairs(files, pair, how.bag_policy)
        notes.append(f"{bags} bags were pooled by mean to {len(pair.first.bag_ids)} patients")
    if pair.first.task in TIME_TASKS:
        pair, more = _with_censoring(pair, found)
        notes += more
    one, two = (p.scorer(times=how.times or None, tau=how.tau) for p in (pair.first, pair.second))
    patients = pair.first.groups
    paired = compare_scores(one, two, patients=patients, draws=how.draws, seed=how.seed)
    few = one.too_few(units(one.count, patients), patients=bool(patients))
    names, scores = names_of(sources), (score(one), score(two))
    extra = {
        "bags": bags,
        "patients": len(set(patients)) or None,
        "draws": how.draws,
        "unit": how.unit,
        "pool": "mean" if how.unit == "patient" else None,
        **_details(names, scores),
    }
    problems = (*tables[0].problems, *tables[1].problems, *pair.problems)
    title = _title(pair, one, scores[0].details, how)
    result = comparison(sources, title, paired, problems, list(files), extra, few)
    result.tables.extend(_tables(scores))
    result.notes.extend([*notes, *_undefined(names, scores)])
    return result


def refuse_options(how: Settings, task: MILTask) -> None:
    """Refuse options that have no effect on a task.

    Raises:
        ValueError: such an option is given.
    """
    kind = KINDS[task]
    if how.thresholds:
        raise ValueError(f"--threshold has no effect on {kind}; leave it out")
    if how.pool == "max":
        raise ValueError(f"--pool max has no meaning for {kind}; leave it out for the mean")
    if task not in TIME_TASKS and (how.times or how.tau is not None):
        raise ValueError(f"--times and --tau have an effect on times alone, not on {kind}")


def _known(pair: PairedTargets, source: str) -> tuple[PairedTargets, list[str]]:
    """Return the bags of a known target, and a note on the others."""
    known = pair.first.known
    if known.all():
        return pair, []
    if not known.any():
        raise ValueError(f"{source}: no bag has a known target; add targets")
    kept = pair._replace(first=pair.first.rows(known), second=pair.second.rows(known))
    return kept, [f"{int((~known).sum())} bags without a known target do not count"]


def _with_censoring(
    pair: PairedTargets, found: Sequence[Predictions]
) -> tuple[PairedTargets, list[str]]:
    """Return predictions with the training bags of both models, if they are the same, and notes."""
    bags = [training_bags(one) for one in found]
    first, second = bags
    if first is not None and second is not None and same_bags(first, second):
        return pair._replace(
            first=replace(pair.first, reference=first.reference),
            second=replace(pair.second, reference=second.reference),
        ), []
    instead = "censoring and tau are those of the scored bags"
    if first is not None and second is not None:
        return pair, [f"the models were trained on different bags; {instead}"]
    return pair, [
        f"{one.file}: its training bags are not known; {instead}"
        for one, own in zip(found, bags, strict=True)
        if own is None and (first is not None or second is not None or one.checkpoint is not None)
    ]


def same_bags(first: TrainingBags, second: TrainingBags) -> bool:
    """Return whether two models were trained on the same times and events, in any order."""
    orders = [np.lexsort((one.event, one.time)) for one in (first, second)]
    return np.array_equal(first.time[orders[0]], second.time[orders[1]]) and np.array_equal(
        first.event[orders[0]], second.event[orders[1]]
    )


def _title(pair: PairedTargets, scorer: Scorer, details: dict[str, Any], how: Settings) -> str:
    patients = len(set(pair.first.groups))
    drawn = f"of the {patients} patients" if patients else "of bags within their strata"
    kind = KINDS[pair.first.task]
    title = f"{scorer.count} {how.unit}s with {kind}, {how.draws} draws {drawn}"
    if "tau" in details:
        title += f", censoring of the {details['censoring']}, tau {details['tau']:g}"
    return title


def _details(names: Sequence[str], scores: Sequence[TargetScores]) -> dict[str, Any]:
    """Return what both have in common, then what each has under its name."""
    one = scores[0].details
    found: dict[str, Any] = {key: one[key] for key in ("tau", "censoring", "grades") if key in one}
    for key in ("times", "targets"):
        if key in one:
            found[key] = {n: each.details[key] for n, each in zip(names, scores, strict=True)}
    found["undefined"] = {n: each.undefined for n, each in zip(names, scores, strict=True)}
    return found


def _tables(
    scores: tuple[TargetScores, TargetScores],
) -> list[tuple[str, list[str], list[tuple[Any, ...]]]]:
    """Return a table of the scored times, or of several values."""
    one, two = (found.details for found in scores)
    if "times" in one:
        columns = ["time", "at risk", "AUC A", "AUC B", "Brier A", "Brier B"]
        pairs = zip(one["times"], two["times"], strict=True)
        rows = [
            (a["time"], a["at_risk"], a["auc"], b["auc"], a["brier"], b["brier"]) for a, b in pairs
        ]
        return [("times", columns, rows)]
    if len(one.get("targets", {})) < 2:
        return []
    columns = ["target", "bags", "R2 A", "R2 B", "MAE A", "MAE B"]
    values = [(name, a, two["targets"][name]) for name, a in one["targets"].items()]
    rows = [(n, a["bags"], a["r2"], b["r2"], a["mae"], b["mae"]) for n, a, b in values]
    return [("values", columns, rows)]


def _undefined(names: Sequence[str], scores: Sequence[TargetScores]) -> list[str]:
    """Return a note for each metric that is undefined, once if both have the same reason."""
    first, second = (found.undefined for found in scores)
    notes = []
    for metric in dict.fromkeys((*first, *second)):
        reasons = first.get(metric), second.get(metric)
        if reasons[0] == reasons[1]:
            notes.append(f"{metric} is undefined: {reasons[0]}")
            continue
        notes += [
            f"{metric} of {name} is undefined: {reason}"
            for name, reason in zip(names, reasons, strict=True)
            if reason
        ]
    return notes
