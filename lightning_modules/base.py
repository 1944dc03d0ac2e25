"""What both training protocols share: optimizer wiring, loss sums, self-contained checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_modules.weights import load_weights

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler]
FORMAT = 1  # of the "segmil" record in a checkpoint

_log = logging.getLogger(__name__)


class TrainedModule(pl.LightningModule):
    """Base of the LightningModules: one model, one optimizer, one schedule.

    Args:
        model: the network.
        optimizer: makes the optimizer from parameter groups.
        lr_scheduler: makes the schedule from the optimizer and the number of steps of the run.
        loss_weights: factor of each loss term, 1 where a term is not named.
        backbone_lr_mult: factor on the learning rate of ``model.backbone``'s parameters.
        init_from: file of weights to start from; what does not fit is reported and keeps its
            initial value.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None,
        *,
        loss_weights: dict[str, float] | None,
        backbone_lr_mult: float,
        init_from: str | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer_factory = optimizer
        self.scheduler_factory = lr_scheduler
        self.loss_weights = loss_weights or {}
        self.backbone_lr_mult = backbone_lr_mult
        # Set by the command line: the resolved configuration, for self-contained checkpoints.
        self.blueprint: dict[str, Any] | None = None
        if init_from is not None:
            report = load_weights(self.model, init_from)
            _log.info("%s", report)

    def total_loss(self, terms: Mapping[str, Tensor], sample_ids: Iterable[object]) -> Tensor:
        """Return the weighted sum of the terms.

        Args:
            terms: scalar loss terms by name.
            sample_ids: pictures or bags of the batch, for the message.

        Raises:
            ValueError: a weight names a term that does not exist, or a term is not finite; the
                message names the term and the samples.
        """
        unknown = sorted(set(self.loss_weights) - set(terms))
        if unknown:
            raise ValueError(f"loss_weights names {unknown}; the model has {sorted(terms)}")
        total = torch.stack([terms[n] * self.loss_weights.get(n, 1.0) for n in terms]).sum()
        if not bool(torch.isfinite(total)):
            bad = {n: float(t) for n, t in terms.items() if not bool(torch.isfinite(t))}
            raise ValueError(
                f"loss is not finite at step {self.global_step}: {bad or float(total)}; samples "
                f"{list(sample_ids)}. Lower the learning rate, lengthen the warm-up or check "
                "these samples."
            )
        return total

    def log_losses(self, stage: str, terms: Mapping[str, Tensor], total: Tensor, size: int) -> None:
        """Log ``stage/loss`` and ``stage/loss_<term>``; means weigh each batch by its size."""
        train = stage == "train"
        values = {f"{stage}/loss_{name}": term.detach() for name, term in terms.items()}
        self.log_dict(
            values, on_step=train, on_epoch=not train, batch_size=size, sync_dist=not train
        )
        self.log(
            f"{stage}/loss",
            total.detach(),
            prog_bar=train,
            on_step=train,
            on_epoch=not train,
            batch_size=size,
            sync_dist=not train,
        )

    def log_metrics(
        self, split: str, metrics: Mapping[str, float], headline: Iterable[str]
    ) -> None:
        """Log metrics of a whole split in float64, so that files repeat the very same number.

        Args:
            split: ``val`` or ``test``.
            metrics: numbers by name.
            headline: names that the progress bar shows.
        """
        shown = set(headline)
        for name, value in metrics.items():
            number = torch.tensor(value, dtype=torch.float64)
            self.log(f"{split}/{name}", number, prog_bar=name in shown, batch_size=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer on parameter groups and the schedule on the steps of the run."""
        optimizer = self.build_optimizer()
        if self.scheduler_factory is None:
            return {"optimizer": optimizer}
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = self.scheduler_factory(optimizer, total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1},
        }

    def build_optimizer(self) -> Optimizer:
        """Return the optimizer on groups with their own learning rates and weight decays."""
        base_lr = self.optimizer_factory([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"]
        groups = parameter_groups(self.model)
        for group in groups:
            group["lr"] = base_lr * (self.backbone_lr_mult if group.pop("backbone") else 1.0)
        return self.optimizer_factory(groups)

    def facts(self) -> dict[str, Any]:
        """Return plain values that a rebuilt module needs besides its weights."""
        return {}

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Take over what ``facts`` of the saved module returned."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the resolved configuration and the facts, as plain containers."""
        checkpoint["segmil"] = {
            "format": FORMAT,
            "blueprint": self.blueprint,
            "facts": self.facts(),
            "precision": str(self.trainer.precision),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the facts back."""
        record = checkpoint.get("segmil")
        if record is None:
            return
        ours, theirs = (self.blueprint or {}).get("links"), (record["blueprint"] or {}).get("links")
        if ours and theirs and ours != theirs:
            raise ValueError(
                f"the checkpoint was trained on data with {theirs}, these data have {ours}; give "
                "data of the same kind, or start a new training by model.init_args.init_from"
            )
        self.restore_facts(record["facts"])


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split trainable parameters by backbone or not and by weight decay or not.

    Biases and the parameters of normalisation layers (everything with fewer than two axes) get no
    weight decay.

    Returns:
        Non-empty groups with ``params``, ``name``, ``backbone`` and, where it is off,
        ``weight_decay`` = 0.
    """
    parts: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("backbone."), parameter.ndim >= 2)
            parts.setdefault(key, []).append(parameter)
    groups = []
    for (backbone, decay), parameters in sorted(parts.items()):
        label = ("backbone" if backbone else "head") + ("" if decay else "_no_decay")
        group: dict[str, Any] = {"params": parameters, "name": label, "backbone": backbone}
        groups.append(group if decay else group | {"weight_decay": 0.0})
    return groups
