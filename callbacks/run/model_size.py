"""One line about the network at the start of a training."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info


class ModelSize(pl.Callback):
    """Tell the class of ``pl_module.model`` and how many parameters it has and trains.

    Stands in for Lightning's summary, whose columns (FLOPs, mode) are empty or the same for every
    model here.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line."""
        del trainer
        module: Any = pl_module
        counts = {True: 0, False: 0}
        for parameter in module.model.parameters():
            counts[parameter.requires_grad] += parameter.numel()
        frozen = f", {counts[False]:,} of them frozen" if counts[False] else ""
        rank_zero_info(
            f"model: {type(module.model).__name__}, {sum(counts.values()):,} parameters{frozen}"
        )
