"""Reliability diagrams of the page, from the records of calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evaluation.report.page.content import Reliability
from evaluation.report.page.mil_scores import MilScores
from evaluation.statistics.calibration import calibration

_SCORES = ("ece", "ece_equal_mass", "mce", "brier", "log_loss")


def reliability_of(run: str, subject: str, found: Mapping[str, Any]) -> Reliability:
    """Return the diagram of a record.

    Args:
        run: name of the run.
        subject: what is scored.
        found: see `evaluation.statistics.calibration.calibration`.
    """
    held = [n for n, row in enumerate(found["bins"]) if row["count"]]
    rows = [found["bins"][n] for n in held]
    band = found["band"]
    parts = found.get("brier_parts") or {}
    scores = {name: found[name] for name in _SCORES}
    scores |= {f"Brier {name.replace('_', ' ')}": parts[name] for name in parts}
    return Reliability(
        run=run,
        subject=subject,
        confidence=tuple(float(row["confidence"]) for row in rows),
        frequency=tuple(float(row["frequency"]) for row in rows),
        counts=tuple(int(row["count"]) for row in rows),
        low=tuple(float(band["low"][n]) for n in held),
        high=tuple(float(band["high"][n]) for n in held),
        scores={name: float(v) if np.isfinite(v) else None for name, v in scores.items()},
    )


def bag_calibration(run: MilScores) -> dict[str, Any] | None:
    """Return the calibration of a run's bags, None for times and values."""
    if run.decisions is None or not len(run.decisions[0]):
        return None
    return calibration(*run.decisions)
