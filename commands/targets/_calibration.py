"""The part of `evaluate.py mil` that compares probabilities with what happened: ``--calibrate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from commands._arguments import add_input
from commands._tables import report_bad_data, show

if TYPE_CHECKING:
    from evaluation.mil.class_scorer import ClassScorer
    from evaluation.mil.patients import Pool
    from evaluation.mil.predictions_csv import BagPredictions
    from evaluation.mil.validation_bags import ValidationBags
    from evaluation.targets.scores import GradeScorer, Scorer, SurvivalScorer
    from structures import MILTask

_NUMBERS = ("ece", "ece_equal_mass", "mce", "brier", "log_loss")
_NO_VALUES = (
    "--calibrate compares probabilities with what happened, and predicted values have none; leave "
    "it out: --figure draws predicted by true values"
)


class Validation(NamedTuple):
    """The validation bags of ``--calibrate``.

    Attributes:
        path: the table.
        bags: what the temperature is fitted to; None for times.
    """

    path: Path
    bags: ValidationBags | None


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of calibration."""
    add_input(
        parser,
        "--calibrate",
        nargs="?",
        const=[],  # no file, also for `check_outputs`
        metavar="VAL.csv",
        help="compare probabilities with what happened; with the predictions of validation bags "
        "also at a temperature that is fitted to these alone",
    )


def look_at_validation(args: argparse.Namespace) -> None:
    """Refuse what is wrong before anything is predicted.

    Raises:
        ValueError: the checkpoint predicts values, or the table of validation bags is faulty.
    """
    if args.calibrate is None:
        return
    task = args.task
    if args.ckpt is not None:
        from engine.checkpoints.restore import read_record

        task = read_record(args.ckpt)["blueprint"]["links"].get("task")
    if task == "regression":
        raise ValueError(_NO_VALUES)
    if isinstance(args.calibrate, Path):
        from evaluation.targets.files import read_predictions

        graded: MILTask | None = "ordinal" if task == "ordinal" else None
        read_predictions(
            args.calibrate, args.bad_data, patients=args.unit == "patient", task=graded
        )


def read_validation(args: argparse.Namespace, found: BagPredictions) -> Validation | None:
    """Return the validation bags, or None if none are named.

    Args:
        args: arguments of the command.
        found: predictions of the bags that are scored.

    Raises:
        ValueError: the predictions are not probabilities, or see `read_validation_bags` and
            `refuse_shared`.
    """
    if args.calibrate is None:
        return None
    if found.task == "regression":
        raise ValueError(_NO_VALUES)
    if found.target is not None and found.task != "ordinal" and found.target.curves is None:
        raise ValueError(
            f"{found.files[-1]}: --calibrate needs predicted survival: columns survival_<time> of "
            "a table, or a checkpoint whose training has ended"
        )
    if not isinstance(args.calibrate, Path):
        return None
    from evaluation.mil.validation_bags import read_validation_bags, refuse_shared

    pool: Pool | None = (args.pool or "mean") if args.unit == "patient" else None
    other, bags = read_validation_bags(args.calibrate, found, args.bad_data, pool)
    if bags is not None and not args.allow_overlap:
        refuse_shared(args.calibrate, found.scores, other.scores)
    return Validation(args.calibrate, bags)


def calibrate(
    args: argparse.Namespace, validation: Validation | None, scorer: Scorer
) -> dict[str, Any]:
    """Compute, print and draw the calibration, and return its part of the record.

    Probabilities of classes and grades are always compared, but printed and drawn if asked for.

    Args:
        args: arguments of the command.
        validation: see `read_validation`.
        scorer: scorer of the bags or patients.
    """
    from evaluation.mil.class_scorer import ClassScorer
    from evaluation.statistics.calibration import calibration
    from evaluation.targets.scores import GradeScorer, SurvivalScorer

    if isinstance(scorer, ClassScorer | GradeScorer):
        if args.calibrate is None:
            return {"calibration": calibration(*scorer.table)}
        return {"calibration": _of_classes(args, validation, scorer)}
    if args.calibrate is None:
        return {}
    assert isinstance(scorer, SurvivalScorer)
    return {"calibration": _of_times(args, validation, scorer)}


def _of_classes(
    args: argparse.Namespace, validation: Validation | None, scorer: ClassScorer | GradeScorer
) -> dict[str, Any]:
    """Return the calibration of probabilities of classes or grades."""
    from evaluation.statistics.calibration import calibration
    from evaluation.statistics.reliability_parts import band_note

    labels, probabilities, task = scorer.table
    bags = None if validation is None else validation.bags
    fitted = None if bags is None else (bags.labels, bags.probabilities)
    record = calibration(labels, probabilities, task, fitted)
    after = record.get("after", dict.fromkeys(_NUMBERS))
    rows = [[name, record[name], after[name]] for name in _NUMBERS]
    what = f"temperature {record['temperature']:.4g}" if "after" in record else "no temperature"
    columns = ["calibration", "as predicted", f"at {what}" if "after" in record else what]
    show(f"calibration of {scorer.count} {args.unit}s", columns, rows)
    print(band_note(record["band"]))
    for name, reason in record["undefined"].items():
        print(f"note: {name} is undefined: {reason}")
    if validation is not None and bags is not None:
        record["validation"] = {
            "file": str(validation.path),
            "bags": len(bags.labels),
            **report_bad_data(bags.problems),
        }
    if args.figure is not None:
        from evaluation.report.calibration import plot_reliability

        _write(plot_reliability(record, task, unit=args.unit), args.figure)
    return record


def _of_times(
    args: argparse.Namespace, validation: Validation | None, scorer: SurvivalScorer
) -> dict[str, Any]:
    """Return predicted survival beside Kaplan-Meier curves."""
    from evaluation.statistics.calibration import survival_calibration

    record = survival_calibration(scorer.table, scorer.times, scorer.risk_groups())
    parts = [("all", record["times"])]
    parts += [(str(part["group"] + 1), part["times"]) for part in record["groups"]]
    columns = ["time", "predicted", "observed", "low", "high", "at_risk"]
    rows = [[name, *(row[c] for c in columns)] for name, times in parts for row in times]
    shown = ["risk group", "time", "predicted", "observed", "2.5 %", "97.5 %", "at_risk"]
    show("calibration: mean predicted survival beside Kaplan-Meier", shown, rows)
    if validation is not None:
        print(
            f"note: survival has no temperature, so {validation.path} changes nothing; "
            "--calibrate needs no file here"
        )
    if args.figure is not None:
        from evaluation.report.calibration import plot_survival_calibration

        _write(plot_survival_calibration(scorer, record), args.figure)
    return record


def _write(figure: Any, path: Path) -> None:
    from evaluation.report.plots import save_figure

    save_figure(figure, path)
    print(f"written: {path}")
