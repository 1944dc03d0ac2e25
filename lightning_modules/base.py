"""Base LightningModule: optimizer wiring, weighted loss sums and self-contained checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from formats.weights.files import load_weights
from lightning_modules.freezing import freeze_parameters, keep_statistics
from lightning_modules.item_losses import ItemLosses
from lightning_modules.learning_rate import describe_scaling, step_scale
from lightning_modules.parameter_groups import (
    check_factors,
    check_layer_decay,
    parameter_groups,
)
from lightning_modules.rebuilding import FORMAT, SelfContainedModule
from lightning_modules.resuming import (
    Stateful,
    check_state,
    check_weights,
    differences,
    fix_counters,
    follow_configuration,
    hyperparameters,
    loader_state,
    seed_batch,
)
from structures.not_finite import LossNotFiniteError
from structures.processes import gather_to_all, mean_over_processes

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler]


class TrainedModule(SelfContainedModule):
    """Base of the LightningModules: one model, one optimizer, one schedule.

    Args:
        model: the network.
        optimizer: makes the optimizer from parameter groups.
        lr_scheduler: makes the schedule from the optimizer and the number of steps of the run.
        loss_weights: factor of each loss term, 1 where a term is not named.
        backbone_lr_mult: factor on the learning rate of ``model.backbone``'s parameters.
        init_from: file of weights to start from; a parameter that does not fit is reported and
            keeps its initial value.
        freeze: name patterns of parameters that are not trained, see ``freeze_parameters``.
        lr_per_images: number of images per optimizer step that the learning rate is meant for; it
            is multiplied by the images of a step, over all processes and accumulated batches,
            divided by this number. None leaves it as it is.
        loss_per_images: the same for the weights of all loss terms.
        lr_mult: factors on the learning rate by patterns of parameter names, as in ``freeze``; the
            first pattern that fits decides, in place of ``backbone_lr_mult``.
        layer_decay: factor on the learning rate for each block of the backbone that follows that of
            a parameter; embeddings belong to the first block. None for equal rates.

    Raises:
        ValueError: the file does not fit, ``lr_per_images`` or ``loss_per_images`` is not positive,
            ``freeze`` names nothing or everything, ``lr_mult`` names nothing or is not positive, or
            ``layer_decay`` is out of range or the backbone has no equal blocks.
    """

    # Names of metrics that can be monitored, with wildcards; empty if they are only known once
    # logged. A subclass adds its own metrics: `(*MILModule.metric_names, "val/mine")`.
    metric_names: ClassVar[tuple[str, ...]] = ()
    # The metrics of which a lower value is better; a subclass adds its own in the same way.
    lower_is_better: ClassVar[tuple[str, ...]] = (
        "train/loss",
        "train/loss_*",
        "val/loss",
        "val/loss_*",
    )
    # The loss by which checkpoints are chosen where the monitored metric is not defined  # A405
    loss_metric: str = "val/loss"
    # Arguments that name the initial weights of a new training, with the values they take when a
    # checkpoint supplies the weights. Networks declare such arguments under the same name.
    starts_from: ClassVar[dict[str, Any]] = {"init_from": None}
    separate_biases = False  # True: biases get parameter groups of their own

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None,
        *,
        loss_weights: dict[str, float] | None,
        backbone_lr_mult: float,
        init_from: str | None,
        freeze: Sequence[str] | None = None,
        lr_per_images: int | None = None,
        loss_per_images: int | None = None,
        lr_mult: Mapping[str, float] | None = None,
        layer_decay: float | None = None,
    ) -> None:
        super().__init__()
        for name, images in (("lr", lr_per_images), ("loss", loss_per_images)):
            if images is not None and images < 1:
                raise ValueError(f"{name}_per_images must be at least 1, got {images}")
        self.model = model
        self.optimizer_factory = optimizer
        self.scheduler_factory = lr_scheduler
        self.loss_weights = loss_weights or {}
        self.backbone_lr_mult = backbone_lr_mult
        self.lr_mult = dict(lr_mult or {})
        check_factors(model, self.lr_mult)
        self.layer_decay = layer_decay
        check_layer_decay(model, layer_decay)
        self.lr_per_images = lr_per_images
        self.loss_per_images = loss_per_images
        self.norm_eps: float | None = None  # of frozen norms, where loaded weights need another
        self._seed = 0
        self._configured: list[dict[str, Any]] = []
        self._resumed_after_epoch: bool | None = None  # None for a training from the start
        self._loader_state: dict[str, int] = {}
        if init_from is not None:
            report = load_weights(self.model, init_from)
            self.norm_eps = report.norm_eps
            rank_zero_info(f"{report}")
        self.frozen = tuple(freeze or ())
        self.apply_freeze()

    def apply_freeze(self) -> None:
        """Freeze what ``freeze`` names; a subclass that chooses parameters calls it afterwards."""
        freeze_parameters(self.model, self.frozen)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all parts but the norms of frozen ones, which stay in eval mode."""
        super().train(mode)
        if mode:
            keep_statistics(self.model, self.frozen)
        return self

    def training_loss(
        self, terms: Mapping[str, Tensor], sample_ids: Iterable[object], size: int
    ) -> Tensor:
        """Return the weighted sum of the terms; log all of them as ``train/loss[_<term>]``.

        The logged value is the mean over the processes, the loss of all their samples (A69).

        Args:
            terms: scalar loss terms by name.
            sample_ids: images or bags of the batch, for the message.
            size: number of samples in the batch.

        Raises:
            ValueError: see ``total_loss``.
        """
        total, means = self._checked(terms, sample_ids)
        logged = {f"train/loss_{name}": means[name] for name in terms}
        self.log_dict(logged, on_step=True, on_epoch=False, batch_size=size)
        self.log("train/loss", means["total"], prog_bar=True, on_step=True, batch_size=size)
        return total

    def undefined(self, metric: str) -> str:
        """Return why a metric has no value on the validation data, or an empty text."""
        del metric
        return ""

    def on_fit_start(self) -> None:
        """Read the seed of the run, set by ``seed_everything``."""
        self._seed = torch.initial_seed()
        keep_statistics(self.model, self.frozen, keep=False)  # Lightning would warn of eval mode

    def on_train_start(self) -> None:
        """Keep frozen statistics; when resuming, the configuration wins over the checkpoint."""
        keep_statistics(self.model, self.frozen)
        if self._resumed_after_epoch is None:
            return
        if self._resumed_after_epoch:
            # Lightning would count the last batch of the finished epoch twice.
            self.trainer.fit_loop.epoch_loop.restarting = False
        elif isinstance(self.trainer.train_dataloader, Stateful):
            # Lightning does this too late if the number of steps has already been estimated.
            self.trainer.train_dataloader.load_state_dict(self._loader_state)
        schedulers = [c.scheduler for c in self.trainer.lr_scheduler_configs]
        schedule = next((s for s in schedulers if isinstance(s, LRScheduler)), None)
        follow_configuration(self.trainer.optimizers[0], self._configured, schedule)
        self._resumed_after_epoch = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random numbers of the batch by its position in the run."""
        del batch, batch_idx
        batch_number = self.trainer.fit_loop.total_batch_idx
        seed_batch(self._seed, self.global_rank, batch_number, self.device.type)

    def total_loss(self, terms: Mapping[str, Tensor], sample_ids: Iterable[object]) -> Tensor:
        """Return the weighted sum of the terms; every process must call it.

        Args:
            terms: scalar loss terms by name.
            sample_ids: images or bags of the batch, for the message.

        Raises:
            ValueError: a weight names a term that does not exist, or a term is not finite on any
                process; the message names the term and the samples. All processes raise, so that
                none waits for another that has stopped.
        """
        return self._checked(terms, sample_ids)[0]

    def _checked(
        self, terms: Mapping[str, Tensor], sample_ids: Iterable[object]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum, and terms and ``total`` averaged over the processes."""
        total = self.weighted_sum(terms)
        means = mean_over_processes(torch.stack([*terms.values(), total]).detach())
        if not bool(torch.isfinite(means[-1])):
            bad = {n: float(t.detach()) for n, t in terms.items() if not bool(torch.isfinite(t))}
            fine = bool(torch.isfinite(total))
            mine = None if fine else f"{bad or float(total.detach())}; samples {list(sample_ids)}"
            self._refuse([found for found in gather_to_all(mine) if found])
        return total, dict(zip([*terms, "total"], means, strict=True))

    def weighted_sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the terms, each times its weight.

        Raises:
            ValueError: a weight names a term that does not exist.
        """
        unknown = sorted(set(self.loss_weights) - set(terms))
        if unknown:
            raise ValueError(f"loss_weights names {unknown}; the model has {sorted(terms)}")
        return self._sum(terms)

    def _sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        factors, scale = self.loss_factors(), step_scale(self, self.loss_per_images)
        weights = {n: self.loss_weights.get(n, 1.0) * factors.get(n, 1.0) * scale for n in terms}
        return torch.stack([terms[n] * weights[n] for n in terms]).sum()

    def loss_factors(self) -> dict[str, float]:
        """Return current factors of the loss terms, applied in addition to ``loss_weights``."""
        return {}

    def log_item_losses(self, split: str, losses: ItemLosses) -> None:
        """Log ``split/loss`` and ``split/loss_<term>``, the means over all items (A67).

        Every process must call it.

        Raises:
            ValueError: a loss is not finite; the message names the items.
        """
        self.log_metrics(split, self.item_loss_means(split, losses), headline=())

    def item_loss_means(self, split: str, losses: ItemLosses) -> dict[str, float]:
        """Return ``loss`` and ``loss_<term>``, the means over all items; see `log_item_losses`."""
        losses.gather()
        bad = losses.not_finite()
        if bad:
            self._refuse([f"{split}; samples {bad}"])
        means = self.split_means(losses)
        # Terms that only exist in a training step are absent here, yet may have a weight.
        total = self._sum({n: torch.tensor(m).double() for n, m in means.items()})
        return {f"loss_{name}": mean for name, mean in means.items()} | {"loss": float(total)}

    def split_means(self, losses: ItemLosses) -> dict[str, float]:
        """Return the value of each term on a split whose items have been gathered."""
        return losses.means()

    def _refuse(self, found: list[str]) -> None:
        step = "" if self._trainer is None else f" at step {self.global_step}"
        raise LossNotFiniteError(
            f"loss is not finite{step}: {', '.join(found)}. Lower the learning rate, lengthen the "
            "warm-up or check these samples."
        )

    def log_metrics(
        self, split: str, metrics: Mapping[str, float], headline: Iterable[str]
    ) -> None:
        """Log metrics of a whole split in float64, so that files hold exactly the same number.

        All processes have the same values, so the maximum over processes is exact.

        Args:
            split: ``val`` or ``test``.
            metrics: numbers by name.
            headline: names shown in the progress bar.
        """
        shown = set(headline)
        for name, value in metrics.items():
            number = torch.tensor(value, dtype=torch.float64)
            self.log(
                f"{split}/{name}",
                number,
                prog_bar=name in shown,
                batch_size=1,
                reduce_fx="max",
                sync_dist=True,
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer from the parameter groups and the schedule from the step count."""
        optimizer = self.build_optimizer()
        self._configured = hyperparameters(optimizer)
        if self.lr_per_images is not None:
            given = ("learning rate", self._given_lr(), self.lr_per_images)
            rank_zero_info(describe_scaling(*given, self.trainer))
        if step_scale(self, self.loss_per_images) != 1:
            given = ("factor of the loss weights", 1.0, self.loss_per_images or 1)
            rank_zero_info(describe_scaling(*given, self.trainer))
        if self.scheduler_factory is None:
            return {"optimizer": optimizer}
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = self.scheduler_factory(optimizer, total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1},
        }

    def build_optimizer(self) -> Optimizer:
        """Return the optimizer for groups with their own learning rates and weight decays."""
        base_lr = self._given_lr() * step_scale(self, self.lr_per_images)
        options = (self.separate_biases, self.lr_mult, self.layer_decay)
        groups = parameter_groups(self.model, *options)
        for group in groups:
            backbone, factor, layer = (group.pop(k) for k in ("backbone", "factor", "layer"))
            own = self.backbone_lr_mult * layer if backbone else 1.0
            group["lr"] = base_lr * (own if factor is None else factor)
        return self.optimizer_factory(groups)

    def _given_lr(self) -> float:
        lr: float = self.optimizer_factory([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"]
        return lr

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the resolved configuration and the facts, as plain containers."""
        checkpoint["segmil"] = {
            "format": FORMAT,
            "blueprint": self.blueprint,
            "facts": self.facts(),
            "precision": str(self.trainer.precision),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the facts; when resuming a training, also prepare counters and optimizer.

        Raises:
            ValueError: the checkpoint belongs to another model or other data.
        """
        record = checkpoint.get("segmil")
        if record is None:
            return
        ours, theirs = (self.blueprint or {}).get("links"), (record["blueprint"] or {}).get("links")
        old = {"in_channels": 3}  # of checkpoints that do not say so
        if ours and theirs and old | ours != old | theirs:
            raise ValueError(
                f"the checkpoint was trained on data with {theirs}, these data have {ours}; give "
                "data of the same kind, or start a new training by model.init_args.init_from"
            )
        check_weights(checkpoint["state_dict"], self.state_dict())
        self.restore_facts(record["facts"])
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._compare_configuration(record["blueprint"] or {})
            self._prepare_resuming(checkpoint)

    def _compare_configuration(self, theirs: Mapping[str, Any]) -> None:
        """Report what was changed since the checkpoint; refuse another optimizer."""
        old, new = (
            {k: (b or {}).get(k, {}) for k in ("model", "data")} for b in (theirs, self.blueprint)
        )
        changes = differences(old, new) if self.blueprint else []
        if any(c.startswith("model.init_args.optimizer.class_path:") for c in changes):
            raise ValueError(
                "the checkpoint was trained by another optimizer, whose state cannot be used here "
                f"({'; '.join(changes)}). Start a new training by model.init_args.init_from"
            )
        if changes:
            rank_zero_warn(
                "the checkpoint was trained with other values; those of the configuration are "
                "used: " + "; ".join(changes)
            )

    def _prepare_resuming(self, checkpoint: dict[str, Any]) -> None:
        check_state(checkpoint, self.build_optimizer())
        self._resumed_after_epoch = fix_counters(checkpoint)
        self._loader_state = loader_state(checkpoint)
        averages = any(isinstance(c, WeightAveraging) for c in self.trainer.callbacks)  # type: ignore[attr-defined]
        if "current_model_state" in checkpoint and not averages:
            checkpoint["state_dict"] = checkpoint["state_dict"] | checkpoint["current_model_state"]
            rank_zero_info(
                "the checkpoint holds averaged weights; without `ema` the training continues from "
                "the raw weights and the average is discarded"
            )
