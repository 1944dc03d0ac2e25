"""Supervised training and evaluation of a multiple-instance model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from evaluation.mil.collector import BagCollector, BagScores
from evaluation.mil.metrics import METRICS
from evaluation.mil.scores import evaluate_bags, youden_threshold
from evaluation.targets.scores import LOWER_IS_BETTER
from evaluation.targets.scores import METRICS as TARGET_METRICS
from lightning_modules.base import OptimizerFactory, SchedulerFactory
from lightning_modules.item_losses import ItemLosses, SplitRisks
from lightning_modules.precision import check_precision
from lightning_modules.targets.checks import HEADLINE, check_step, undefined_target_metric
from lightning_modules.targets.module import TargetModule
from models.losses.bag_loss import counted_bags
from models.mil.protocol import MILModel, ScheduledLosses, UsesTrainingBags
from models.mil.target_losses import risks_of_terms, ties_of
from structures import BagBatch, MILOutput, MILTask
from structures.processes import gather_to_all
from structures.tasks import CLASS_TASKS


class MILModule(TargetModule):
    """Training on bag losses with bag metrics; after an epoch ``bag_scores`` holds the scores.

    Args:
        model: a `MILModel`.
        optimizer: makes the optimizer from parameter groups.
        lr_scheduler: makes the schedule from optimizer and number of steps, or None.
        threshold: positive probability from which a binary bag counts as positive: a number, or
            ``youden`` to take the point of the *validation* scores with the largest
            sensitivity + specificity. It is saved in the checkpoint; test data never change it. A
            number given together with a checkpoint replaces the checkpoint's, with a warning.
            None: the checkpoint's threshold, or 0.5 without a checkpoint.
        loss_weights: factor of each loss term, 1 where a term is not named. A term that the model
            drops because the task has no classes has none, and ``bag`` then has the factor 1
            (A748).
        backbone_lr_mult: factor on the learning rate of ``model.backbone``.
        init_from: file of weights to start from.
        freeze: patterns of the names of parameters that are not trained, such as ``embed.*``.

    Raises:
        TypeError: ``model`` does not follow `MILModel`, or has a training protocol of its own.
    """

    metric_names = (
        *sorted({f"val/{n}" for group in (METRICS, *TARGET_METRICS.values()) for n in group}),
        *("val/witness_auroc", "val/loss", "val/loss_*", "train/loss", "train/loss_*"),
    )
    lower_is_better = (
        *TargetModule.lower_is_better,
        *(f"val/{n}" for n in sorted(LOWER_IS_BETTER)),
    )

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None = None,
        *,
        threshold: float | Literal["youden"] | None = None,
        loss_weights: dict[str, float] | None = None,
        backbone_lr_mult: float = 1.0,
        init_from: str | None = None,
        freeze: list[str] | None = None,
    ) -> None:
        if not isinstance(model, MILModel):
            raise TypeError(f"{type(model).__name__} is not a MILModel: it needs task and losses")
        if type(self).training_terms is MILModule.training_terms:
            for part in model.modules():
                if hasattr(part, "training_losses"):
                    raise TypeError(f"{type(part).__name__} needs the module of its own training")
        super().__init__(
            model,
            optimizer,
            lr_scheduler,
            loss_weights=loss_weights,
            backbone_lr_mult=backbone_lr_mult,
            init_from=init_from,
            freeze=freeze,
        )
        self.choose_threshold = threshold == "youden"
        self.given_threshold = float(threshold) if isinstance(threshold, int | float) else None
        self.threshold = 0.5 if self.given_threshold is None else self.given_threshold
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is a probability in [0, 1] or 'youden', got {threshold}")
        dropped = {t for part in model.modules() for t in getattr(part, "dropped_terms", ())}
        if dropped:
            self.loss_weights = {
                n: w for n, w in self.loss_weights.items() if n not in {*dropped, "bag"}
            }
        self.bag_scores: BagScores | None = None
        # Fraction of the optimizer steps of the training that are done, in [0, 1].
        self.progress = 0.0
        self._steps = math.inf
        self._collector, self._losses, self._risks = BagCollector(), ItemLosses(), SplitRisks()

    @property
    def network(self) -> MILModel:
        """The model under its contract's type."""
        model: Any = self.model
        return model  # type: ignore[no-any-return]

    @property
    def task(self) -> MILTask:
        """What the logits mean."""
        return self.network.task

    def setup(self, stage: str) -> None:
        """Take the class names from the datamodule unless a checkpoint supplied them.

        Raises:
            ValueError: the precision would convert batches.
        """
        check_precision(str(self.trainer.precision))
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is not None and not self.class_names:
            self.class_names = tuple(data.class_names)
        if data is None or stage != "fit":
            return
        if isinstance(self.model, UsesTrainingBags):
            labels, sizes, _ = data.contents("train")
            self.set_training_bags(np.asarray(data.numbers("train")), labels, sizes)
        if self.task not in CLASS_TASKS:
            names = getattr(data, "target_names", ())
            self.fit_targets(data.contents("train")[0], data.num_classes, names)
            check_step(self.task, data.batch_size * self.trainer.world_size)

    def undefined(self, metric: str) -> str:
        """Return why a ranking metric has no value on the validation bags, or an empty text."""
        data: Any = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        numbers: Any = data.numbers("val") if hasattr(data, "numbers") else ()
        if metric == "val/witness_auroc" and len(numbers):
            known = data.source("val").bag(numbers[0]).instance_labels is not None
            return "" if known else "the bags have no instance labels"
        if len(numbers) and self.task not in CLASS_TASKS:
            labels, name = data.contents("val")[0], metric.removeprefix("val/")
            return undefined_target_metric(name, labels, self.task, data.num_classes)
        if metric not in ("val/bag_auroc", "val/bag_auprc") or not len(numbers):
            return ""
        labels = data.contents("val")[0]
        if (labels < 0).any():
            return ""
        if labels.ndim == 2:
            both = (labels.min(axis=0) == 0) & (labels.max(axis=0) == 1)
            reason = f"no class is in some but not in all of the {len(labels)} validation bags"
            return "" if both.any() else reason
        found = np.unique(labels)
        name = data.class_names[int(found[0])]
        return "" if found.size > 1 else f"all {labels.size} validation bags have the class {name}"

    def on_fit_start(self) -> None:
        """Warn of validation bags that the main metric is not defined for."""
        super().on_fit_start()
        main, several = HEADLINE.get(self.task, "bag_auroc"), "other targets"
        if self.task in CLASS_TASKS:
            main, several = "bag_auroc and val/bag_auprc", "several classes"
        reason = self.undefined(f"val/{main.partition(' ')[0]}")
        if reason:
            rank_zero_warn(
                f"val/{main} will be nan: {reason}; give the validation split bags of {several} "
                "(data.val_fraction, data.split_seed or the data's own splits)"
            )

    def set_training_bags(
        self, numbers: npt.NDArray[Any], labels: npt.NDArray[Any], sizes: npt.NDArray[Any]
    ) -> None:
        """Pass index, label and size of each training bag to a model that asks for them."""
        if isinstance(self.model, UsesTrainingBags):
            columns = (torch.from_numpy(np.ascontiguousarray(c)) for c in (numbers, labels, sizes))
            self.model.set_training_bags(*columns)

    def on_train_start(self) -> None:
        """Read the number of optimizer steps of the training."""
        super().on_train_start()
        self._steps = self.trainer.estimated_stepping_batches

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Update the fraction of the training that is done."""
        super().on_train_batch_start(batch, batch_idx)
        self.progress = min(self.trainer.global_step / self._steps, 1.0)

    def loss_factors(self) -> dict[str, float]:
        """Return the factors of a model that schedules its loss terms."""
        if isinstance(self.model, ScheduledLosses):
            return self.model.loss_factors(self.progress)
        return {}

    def facts(self) -> dict[str, Any]:
        """Return class names, threshold, the preprocessing fitted on training bags and extraction.

        ``extraction`` says how the features of slides were extracted, if their files tell it, and
        ``trained_on`` has hashes of the patients and bags of the training.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        extraction = getattr(data, "extraction", None)
        members = getattr(data, "members", None)
        trained_on = {} if members is None else members("train").record()
        return {
            **self.target_facts(),
            "class_names": list(self.class_names),
            "threshold": self.threshold,
            "progress": self.progress,
            "preprocessing": {} if data is None else data.evaluation_arguments(),
            **({} if extraction is None else {"extraction": extraction}),
            **({"trained_on": trained_on} if trained_on else {}),
        }

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Restore class names and threshold."""
        self.class_names = tuple(facts["class_names"])
        self.progress = float(facts.get("progress", 0.0))
        self.restore_target_facts(facts)
        saved = float(facts["threshold"])
        if self.given_threshold is None:
            self.threshold = saved
        elif saved != self.given_threshold:
            rank_zero_warn(
                f"threshold {self.given_threshold:g} as configured; the checkpoint's is {saved:g}"
            )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Convert the features of bags to single precision, now that they are on the device."""
        del dataloader_idx
        return batch.in_single_precision() if isinstance(batch, BagBatch) else batch

    def training_step(self, bags: BagBatch, batch_idx: int) -> Tensor:
        """Return the weighted sum of the loss terms."""
        del batch_idx
        return self.training_loss(self.training_terms(self.coded(bags)), bags.bag_ids, len(bags))

    def training_terms(self, bags: BagBatch) -> dict[str, Tensor]:
        """Return the loss terms of a training step; the labels are coded."""
        return self.network.losses(self.network(bags), bags)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Run the optimizer step and then ``after_optimizer_step``."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.after_optimizer_step()

    def after_optimizer_step(self) -> None:
        """Hook for subclasses, called after each optimizer step; does nothing here."""

    def validation_step(self, bags: BagBatch, batch_idx: int) -> MILOutput:  # type: ignore[override]
        """Return the output and keep one row per bag."""
        del batch_idx
        return self._forward_and_keep(bags)

    def test_step(self, bags: BagBatch, batch_idx: int) -> MILOutput:  # type: ignore[override]
        """Return the output and keep one row per bag."""
        del batch_idx
        return self._forward_and_keep(bags)

    def predict_step(self, bags: BagBatch, batch_idx: int) -> MILOutput:
        """Return the output for packed bags."""
        del batch_idx
        return self.network(bags)

    def _forward_and_keep(self, bags: BagBatch) -> MILOutput:
        output, coded = self.network(bags), self.coded(bags)
        terms = self.network.losses(output, coded, reduction="none")
        risks = risks_of_terms(self.model, output) if self.task == "cox" else {}
        # Shares of the loss are those of a batch; in their place stands what must be finite.
        terms |= {name: logits.detach().flatten(1).sum(1) for name, (logits, _) in risks.items()}
        if len(bags) > 1 and not bool(torch.stack([*terms.values()]).isfinite().all()):
            # A matrix product over the batch may spread NaN, so each bag is evaluated alone.
            for bag in bags.bags():
                self._forward_and_keep(bag)
            return output
        left_out = {}
        if self.task in ("regression", "ordinal"):
            unknown = ~counted_bags(bags.labels, self.task)
            left_out = dict.fromkeys(output.supervised(), unknown)
        self._losses.add(bags.index, bags.bag_ids, terms, left_out)
        if risks:
            self._risks.add(bags.index, bags.labels, risks)
        self._collector.add(bags, self.predicted(output), output.attention)
        return output

    def split_means(self, losses: ItemLosses) -> dict[str, float]:
        """Return the value of each term on a split; that of Cox is one of the whole split."""
        if self.task != "cox":
            return losses.means()
        self._risks.gather()
        return losses.means() | self._risks.means(ties_of(self.model))

    def on_validation_epoch_start(self) -> None:
        """Clear the rows of the previous epoch."""
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        """Clear the rows of the previous epoch."""
        self._start_evaluation()

    def on_validation_epoch_end(self) -> None:
        """Score all bags; with ``youden``, choose the threshold."""
        self.log_item_losses("val", self._losses)
        scores = self._gathered()
        if not self.trainer.sanity_checking:
            self._choose_threshold(scores)
        self._log_scores("val", scores)

    def on_test_epoch_end(self) -> None:
        """Score all bags with the threshold that validation chose."""
        self.log_item_losses("test", self._losses)
        self._log_scores("test", self._gathered())

    def _start_evaluation(self) -> None:
        self._collector, self._losses, self.bag_scores = BagCollector(), ItemLosses(), None
        self._risks = SplitRisks()

    def _gathered(self) -> BagScores:
        self._collector.merge(gather_to_all(self._collector.state()))
        self.bag_scores = self._collector.scores()
        self._collector = BagCollector()
        return self.bag_scores

    def _log_scores(self, split: str, scores: BagScores) -> None:
        main = HEADLINE.get(self.task, "bag_auroc")
        self.log_metrics(split, self._metrics(scores), headline=(main, "witness_auroc"))

    def _metrics(self, scores: BagScores) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if self.task not in CLASS_TASKS and scores.bag_ids:
            metrics = self.target_predictions(scores).metrics()
        elif self.task in CLASS_TASKS:
            metrics = evaluate_bags(scores.labels, scores.probabilities, self.task, self.threshold)
        if np.isfinite(scores.witness).any():
            metrics["witness_auroc"] = float(np.nanmean(scores.witness))
        return metrics

    def validation_metrics(self, batches: Iterable[BagBatch]) -> dict[str, float]:
        """Return what a validation on the batches logs, for a training without a trainer.

        The module must be in eval mode. With ``youden``, the threshold is chosen.
        """
        self._start_evaluation()
        with torch.no_grad():
            for batch in batches:
                self._forward_and_keep(batch)
        metrics = self.item_loss_means("val", self._losses)
        scores = self._gathered()
        self._choose_threshold(scores)
        return {f"val/{name}": value for name, value in (metrics | self._metrics(scores)).items()}

    def _choose_threshold(self, scores: BagScores) -> None:
        if self.choose_threshold and self.task == "binary":
            self.threshold = youden_threshold(scores.labels, scores.probabilities)
