"""The page of runs on bags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.report.page import mil_scores
from evaluation.report.page.attention import (
    BagAttentionRows,
    Images,
    answers,
    attended_bags,
    bag_mistakes,
    choose_bags,
    mistaken_bags,
)
from evaluation.report.page.content import Page, Reliability, Table
from evaluation.report.page.mil_scores import MilScores
from evaluation.report.page.robustness import robustness_matrices
from evaluation.report.page.seg_page import Shared
from evaluation.report.page.training import training_charts


def mil_page(
    shared: Shared,
    runs: Sequence[MilScores],
    attention: Sequence[Mapping[str, BagAttentionRows]],
    images: Images,
    reliability: Sequence[Reliability] = (),
    compare: Sequence[Table] = (),
) -> Page:
    """Return the page of runs on the same bags.

    Args:
        shared: see `Shared`.
        runs: their scores.
        attention: of each run, by bag.
        images: returns the instances of a bag as images, or None.
        reliability: calibration of each run.
        compare: differences of the runs and the reference.
    """
    said = [answers(run) for run in runs]
    chosen = choose_bags(said, shared.gallery, shared.seed)
    if shared.gallery:  # every row of the mistakes leads to its bag
        chosen = list(dict.fromkeys([*chosen, *mistaken_bags(said)]))
    shown = attended_bags(said, attention, images, chosen)
    keys = {bag.name: bag.key for bag in shown}
    notes = dict.fromkeys((*shared.notes, *(note for run in runs for note in run.notes)))
    named = [(facts.name, log) for facts, log in zip(shared.facts, shared.logs, strict=True)]
    return Page(
        title=shared.title,
        kind="mil",
        runs=shared.facts,
        classes=runs[0].classes,
        headlines=mil_scores.headlines(runs),
        notes=tuple(notes),
        operating_point=runs[0].threshold,
        training=training_charts(named),
        class_tables=mil_scores.class_tables(runs),
        curves=mil_scores.curves(runs),
        confusion=mil_scores.confusion(runs),
        calibration=tuple(reliability),
        mistakes=bag_mistakes(runs, said, keys),
        robustness=robustness_matrices(shared.grids),
        attention=shown,
        compare=tuple(compare),
        recipes=shared.recipes,
    )
