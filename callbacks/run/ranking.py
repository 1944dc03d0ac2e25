"""Which of two validations is the better one."""

from __future__ import annotations

import math

import pytorch_lightning as pl

TIE_BREAKER = "val/loss"


def wins(score: float, loss: float, best: float, best_loss: float, mode: str) -> bool:
    """Return whether a validation replaces the best one so far, which came before it.

    Few samples give many equal scores: seven slides soon have an AUROC of 1, long before the model
    is trained. Of two equal scores that with the lower loss wins, else the later one.  # A430

    Args:
        score: the monitored metric.
        loss: ``val/loss`` of the same validation, infinite if unknown.
        best: best score so far.
        best_loss: its loss, infinite if unknown.
        mode: ``max`` or ``min``.

    >>> wins(1.0, 0.2, best=1.0, best_loss=0.6, mode="max")
    True
    """
    if score != best:
        return score < best if mode == "min" else score > best
    known = math.isfinite(loss) and math.isfinite(best_loss)
    return loss <= best_loss if known else True


def tie_breaker(trainer: pl.Trainer) -> float:
    """Return ``val/loss`` of the last validation, infinite if it was not logged."""
    return float(trainer.callback_metrics.get(TIE_BREAKER, math.inf))
