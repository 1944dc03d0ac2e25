"""Length of a training run."""

from __future__ import annotations

import pytorch_lightning as pl


def run_epochs(trainer: pl.Trainer, batches: int) -> int | None:
    """Return the number of epochs of a run, including a partial one; None if it is unlimited.

    Args:
        trainer: its ``max_epochs`` and ``max_steps`` (optimizer steps) are read.
        batches: batches per epoch on one process.
    """
    limits = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(trainer.max_epochs)
    if trainer.max_steps >= 0:
        limit = trainer.limit_train_batches
        used = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
        steps = max(1, -(-used // trainer.accumulate_grad_batches))
        limits.append(-(-trainer.max_steps // steps))
    return min(limits, default=None)
