"""The part of `evaluate.py mil` that scores times, values and grades."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from commands._arguments import add_output, figure
from commands._tables import report_bad_data, show
from commands._wandb_logs import log_bags
from commands.targets._further import Further, Scored, score_further
from commands.targets._times import add_time_arguments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evaluation.mil.predictions_csv import BagPredictions
    from evaluation.targets.bags import TargetPredictions
    from evaluation.targets.scores import Scorer
    from structures import MILTask, Problem

_KINDS = {
    "cox": "times", "discrete_time": "times", "regression": "values", "ordinal": "grades"
}  # fmt: skip
# Options by the tasks that they have an effect on.
_OF_TIMES = {"tau": "--tau", "times": "--times", "groups": "--groups"}


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of times, values and grades."""
    parser.add_argument(
        "--task", choices=("ordinal",), help="read the classes of --predictions as ordered grades"
    )
    add_time_arguments(parser)
    add_output(
        parser,
        "--figure",
        type=figure,
        metavar="F.png",
        help="draw Kaplan-Meier curves of risk groups, predicted by true values or grades, or "
        "with --calibrate a reliability diagram",
    )


def refuse_target_options(args: argparse.Namespace, task: MILTask) -> None:
    """Refuse options that have no effect on a task.

    Raises:
        ValueError: such an option is given.
    """
    from structures.tasks import CLASS_TASKS

    given = [flag for name, flag in _OF_TIMES.items() if getattr(args, name) is not None]
    if task not in ("cox", "discrete_time") and given:
        raise ValueError(f"{', '.join(given)}: have an effect on times alone, not on {task}")
    if args.figure is not None and task in CLASS_TASKS and args.calibrate is None:
        raise ValueError(
            f"--figure draws times, values or grades, not {task}; add --calibrate for a "
            "reliability diagram, or leave it out"
        )


def score_targets(
    args: argparse.Namespace, found: BagPredictions, further: Further
) -> dict[str, Any]:
    """Score bags or patients with bootstrap intervals, and return the record.

    Args:
        args: arguments of the command.
        found: predictions with ``target``.
        further: what ``--by`` and ``--calibrate`` need.

    Raises:
        ValueError: an option has no effect, no target is known, or see `pool_targets`.
    """
    import numpy as np

    from evaluation.report.record import report
    from evaluation.statistics.sample_size import withheld
    from evaluation.targets.bootstrap import bootstrap_intervals, units
    from evaluation.targets.scores import score

    _check(args, found)
    bags, problems, notes = _in_units(args, found)
    scorer = bags.scorer(times=args.times, tau=args.tau, groups=args.groups or 2)
    scores = score(scorer)
    metrics = dict(scores.metrics)
    witness = found.scores.witness[np.isfinite(found.scores.witness)]
    if witness.size and args.unit == "bag":
        metrics["witness_auroc"] = float(witness.mean())
    intervals = bootstrap_intervals(scorer, patients=bags.groups, draws=args.draws, seed=args.seed)
    few = scorer.too_few(units(scorer.count, bags.groups), patients=bool(bags.groups))
    if few:
        intervals = withheld(intervals)
    rows = [(k, v, *intervals.get(k, (None, None))) for k, v in metrics.items()]
    title = f"{found.files[0]}: {scorer.count} {args.unit}s with {_KINDS[found.task]}"
    show(title, ["metric", "value", "2.5 %", "97.5 %"], rows)
    _show_details(scores.details, f"{args.unit}s")
    notes += [few] if few else []
    notes += [f"{name} is undefined: {reason}" for name, reason in scores.undefined.items()]
    for note in notes:
        print(f"note: {note}")
    _write(args, bags, scorer)
    more = score_further(args, further, Scored(scorer, bags.bag_ids, bags.groups))
    extra: dict[str, Any] = {
        **report_bad_data((*found.problems, *problems)),
        "intervals": intervals,
        "undefined": scores.undefined,
        "unit": args.unit,
        "pool": "mean" if args.unit == "patient" else None,
        "notes": notes,
        **scores.details,
        **_confusion(bags),
        **more,
        "bags": list(_rows(bags)),
    }
    files = (*found.files, *further.files)
    record = report(sys.argv, metrics, files=files, seed=args.seed, **extra)
    _log(args, record, found, bags, scorer)
    return record


def _log(
    args: argparse.Namespace,
    record: dict[str, Any],
    found: BagPredictions,
    bags: TargetPredictions,
    scorer: Scorer,
) -> None:
    """Log the scores to W&B if that is asked for."""
    from evaluation.mil.scored_files import write_scored_targets

    log_bags(
        args,
        record,
        found,
        lambda path: write_scored_targets(path, bags, scorer),
        lambda: _drawn(scorer, bags.names),
    )


def _write(args: argparse.Namespace, bags: TargetPredictions, scorer: Scorer) -> None:
    """Write the table and the figure that are asked for."""
    if args.save_predictions is not None:
        from evaluation.mil.scored_files import write_scored_targets

        write_scored_targets(args.save_predictions, bags, scorer)
        print(f"written: {args.save_predictions}")
    if args.figure is not None and args.calibrate is None:
        from evaluation.report.plots import save_figure

        save_figure(_drawn(scorer, bags.names), args.figure)
        print(f"written: {args.figure}")


def _drawn(scorer: Scorer, names: Sequence[str]) -> Figure:
    """Return the figure of times, values or grades."""
    from evaluation.targets.figures import plot_grades, plot_kaplan_meier, plot_values
    from evaluation.targets.scores import GradeScorer, SurvivalScorer, ValueScorer

    if isinstance(scorer, SurvivalScorer):
        table, member = scorer.table, scorer.risk_groups()
        return plot_kaplan_meier(table.time, table.event, member, groups=scorer.groups)
    if isinstance(scorer, ValueScorer):
        return plot_values(scorer.table)
    assert isinstance(scorer, GradeScorer)
    return plot_grades(scorer, names)


def _check(args: argparse.Namespace, found: BagPredictions) -> None:
    if args.threshold is not None:
        raise ValueError(f"--threshold has no effect on {found.task}; leave it out")
    if args.pool == "max":
        raise ValueError(f"--pool max has no meaning for {found.task}; leave it out for the mean")


def _in_units(
    args: argparse.Namespace, found: BagPredictions
) -> tuple[TargetPredictions, tuple[Problem, ...], list[str]]:
    """Return the bags or patients of a known target, who was left out, and notes."""
    bags, notes = found.target, []
    assert bags is not None
    known = bags.known
    if not known.all():
        notes.append(f"{int((~known).sum())} bags without a known target do not count")
        bags = bags.rows(known)
    if not bags.bag_ids:
        raise ValueError(f"{found.files[-1]}: no bag has a known target; add targets")
    if args.unit == "bag":
        return bags, (), notes
    from evaluation.targets.patients import pool_targets

    pooled, left_out = pool_targets(bags, found.files[-1], args.bad_data)
    counts = f"{len(bags.bag_ids)} bags were pooled by mean to {len(pooled.bag_ids)} patients"
    return pooled, left_out, [*notes, counts]


def _show_details(details: dict[str, Any], units: str) -> None:
    """Print tables of the scored times and the risk groups, or of each value."""
    if "times" in details:
        where = f"censoring of the {details['censoring']}, tau {details['tau']:g}"
        columns = ["time", "auc", "brier", "at_risk"]
        rows = [[row[c] for c in columns] for row in details["times"]]
        show(f"times; {where}", columns, rows)
        groups, test = details["risk_groups"], details["log_rank"]
        columns = ["bags", "events", "median"]
        rows = [[n, *(row[c] for c in columns)] for n, row in enumerate(groups["groups"], 1)]
        p = "undefined" if test["p"] is None else f"{test['p']:.3g}"
        title = f"risk groups, lowest first, cut at quantiles of the {groups['source']}"
        show(f"{title}; log-rank p {p}", ["group", units, *columns[1:]], rows)
    if len(details.get("targets", {})) > 1:
        columns = ["bags", "r2", "mae", "rmse", "pearson", "spearman"]
        found = details["targets"].items()
        show(
            "values",
            ["target", units, *columns[1:]],
            [[n, *(v[c] for c in columns)] for n, v in found],
        )


def _confusion(bags: TargetPredictions) -> dict[str, Any]:
    if bags.task != "ordinal":
        return {}
    from evaluation.mil.scores import confusion_matrix

    matrix = confusion_matrix(bags.labels, bags.predictions, "multiclass")
    return {"confusion_matrix": matrix}


def _rows(bags: TargetPredictions) -> Any:
    """Yield the entry of each bag in the record."""
    for name, label, says in zip(bags.bag_ids, bags.labels, bags.predictions, strict=True):
        if bags.task == "ordinal":
            yield {"bag_id": name, "label": label, "score": says}
        elif bags.task == "regression":
            yield {"bag_id": name, "target": label, "prediction": says}
        else:
            yield {"bag_id": name, "time": label[0], "event": int(label[1]), "risk": says}
