"""Supervised training and evaluation of an instance segmentation model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from evaluation.seg.coco import CocoEvaluator
from evaluation.seg.coco_backends import IouType
from evaluation.seg.coco_scores import AREAS, CocoScores
from formats.weights.public import set_frozen_eps
from lightning_modules.base import OptimizerFactory, SchedulerFactory, TrainedModule
from lightning_modules.class_weights import check_weights, resolve_class_weights
from lightning_modules.item_losses import ItemLosses
from lightning_modules.precision import check_precision
from lightning_modules.seg_warnings import data_warnings, named_batch_norm_error, without_size
from models.ops.precision import has_bfloat16_units
from models.seg.inference.predict import InferenceOptions, predict
from models.seg.protocol import FollowsTraining, SegModel, UpdatesAfterStep, UsesClassWeights
from structures import CategoryMap, Instances, SegBatch
from structures.processes import gather_to_all


class SegmentationModule(TrainedModule):
    """Training on loss terms, validation by COCO AP in the frame of the original images.

    The datamodule gives the categories and the ground truth (`SegDataModule`); after an
    evaluation epoch ``scores`` holds the metrics and ``results`` the COCO rows of all processes.

    Args:
        model: a `SegModel`.
        optimizer: makes the optimizer from parameter groups.
        lr_scheduler: makes the schedule from optimizer and number of steps, or None.
        loss_weights: factor of each loss term, 1 where a term is not named.
        backbone_lr_mult: factor on the learning rate of the backbone.
        log_val_loss: also compute the losses on validation images and log their means (A67).
        eval_backend: ``fast`` or ``pycocotools``; the numbers are equal.
        separate_biases: give biases parameter groups of their own (``lr-*/head_bias``), which
            ``schedules.Linear`` can warm up separately.
        channels_last: keep convolution weights, and so the features, in channels-last memory
            order; faster on most CPUs and GPUs, equal up to rounding.
        init_from: file of weights to start from.
        freeze: patterns of the names of parameters that are not trained, such as ``backbone.*``;
            norms that are frozen also keep their running statistics.
        class_weights: weights of classes in the classification loss: by class name, 1 for the
            others, or ``balanced`` for inverse frequencies of the training objects, see
            ``resolve_class_weights``. None for 1.
        lr_per_images: number of images per step that the learning rate is meant for, see
            `TrainedModule`.
        loss_per_images: number of images per step that ``loss_weights`` are meant for.
        inference: tiles and views of validation, test and prediction; None for whole images.
        lr_mult: factors on the learning rate by patterns of parameter names, in place of
            ``backbone_lr_mult``: ``{backbone.*awd*: 2.0}``. The first that fits counts.
        layer_decay: factor on the learning rate for each block of a vision transformer that follows
            that of a parameter, in addition to ``backbone_lr_mult``.

    Raises:
        TypeError: ``model`` does not follow `SegModel`, or it cannot weight classes but should.
        ValueError: a weight is not positive, or see `TrainedModule`.
    """

    metric_names = (
        *(
            f"val/{kind}_{name}"
            for kind in ("segm", "box")
            for name in ("map", "map_50", "map_75", "ar_[0-9]*")
        ),
        *(
            f"val/{kind}_{name}_{area}"
            for kind in ("segm", "box")
            for name in ("map", "ar")
            for area in AREAS[1:]
        ),
        *("val/loss", "val/loss_*", "train/loss", "train/loss_*"),
    )

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None = None,
        *,
        loss_weights: dict[str, float] | None = None,
        backbone_lr_mult: float = 1.0,
        separate_biases: bool = False,
        log_val_loss: bool = False,
        eval_backend: Literal["fast", "pycocotools"] = "fast",
        channels_last: bool = False,
        init_from: str | None = None,
        freeze: list[str] | None = None,
        class_weights: dict[str, float] | Literal["balanced"] | None = None,
        lr_per_images: int | None = None,
        loss_per_images: int | None = None,
        inference: InferenceOptions | None = None,
        lr_mult: dict[str, float] | None = None,
        layer_decay: float | None = None,
    ) -> None:
        if not isinstance(model, SegModel):
            raise TypeError(
                f"{type(model).__name__} is not a SegModel: it needs losses and predict"
            )
        super().__init__(
            model,
            optimizer,
            lr_scheduler,
            loss_weights=loss_weights,
            backbone_lr_mult=backbone_lr_mult,
            init_from=init_from,
            freeze=freeze,
            lr_per_images=lr_per_images,
            loss_per_images=loss_per_images,
            lr_mult=lr_mult,
            layer_decay=layer_decay,
        )
        if channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.class_weights = _checked(class_weights, model)
        self._weights: Tensor | None = None  # of each class, once known
        self.separate_biases = separate_biases
        self.inference = inference
        self.log_val_loss = log_val_loss
        self.loss_metric = "val/loss" if log_val_loss else "train/loss"
        self.eval_backend = eval_backend
        masks = getattr(model, "predicts_masks", True)
        self.iou_types: tuple[IouType, ...] = ("bbox", "segm") if masks else ("bbox",)
        self.category_map: CategoryMap | None = None
        self.scores: CocoScores | None = None
        self.results: list[dict[str, Any]] = []
        self._evaluator: CocoEvaluator | None = None
        self._losses = ItemLosses()
        self._steps: float = 1  # optimizer steps of the training

    @property
    def network(self) -> SegModel:
        """The model under its contract's type."""
        model: Any = self.model
        return model  # type: ignore[no-any-return]

    def setup(self, stage: str) -> None:
        """Take the categories from the datamodule and check that the data have the same classes.

        Raises:
            ValueError: the data have other classes, the precision would convert batches, or
                training would use bfloat16 on a processor without units for it.
        """
        self._check_precision(training=stage == "fit")
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        self.take_categories(data)
        if stage == "fit" and self.class_weights is not None:
            counts = functools.partial(_object_counts, data)
            names = data.category_map.names
            self._set_weights(resolve_class_weights(self.class_weights, names, counts))

    def take_categories(self, data: Any) -> None:
        """Take the classes of the predictions from the data, or check that they are the same.

        Raises:
            ValueError: the data have other classes than the checkpoint.
        """
        if self.category_map is not None:
            self.category_map.check_same(data.category_map, "the checkpoint", "the data")
        else:
            self.category_map = data.category_map

    def _set_weights(self, weights: Tensor) -> None:
        assert isinstance(self.model, UsesClassWeights)
        self._weights = weights
        self.model.set_class_weights(weights)

    def _check_precision(self, training: bool) -> None:
        precision = str(self.trainer.precision)
        check_precision(precision)
        if not training or precision != "bf16-mixed" or has_bfloat16_units():
            return
        if self.trainer.strategy.root_device.type != "cpu":
            return
        message = (
            "trainer.precision bf16-mixed: this processor has no bfloat16 units, so training would "
            "be slower than in single precision; leave out configs/_base/bf16.yaml, or set "
            "--trainer.precision 32-true"
        )
        if not getattr(self.trainer, "fast_dev_run", False):
            raise ValueError(message)
        rank_zero_warn(message)

    def facts(self) -> dict[str, Any]:
        """Return categories, preprocessing of evaluation and the eps of frozen norms."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.category_map is None or data is None:
            return {}
        weights = {} if self._weights is None else {"class_weights": self._weights.tolist()}
        return {
            "category_map": self.category_map.to_dict(),
            "preprocessing": data.evaluation_arguments(),
            "categories": data.category_arguments(),
            **weights,
            "norm_eps": self.norm_eps,
        }

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Restore categories, eps of frozen norms, and class weights unless the data set them."""
        if "category_map" in facts:
            self.category_map = CategoryMap.from_dict(facts["category_map"])
        self.norm_eps = facts.get("norm_eps")
        if self.norm_eps is not None:
            set_frozen_eps(self.model, float(self.norm_eps))
        weights = facts.get("class_weights")
        if None not in (weights, self.class_weights) and self._weights is None:
            self._set_weights(torch.tensor(weights))

    def undefined(self, metric: str) -> str:
        """Return why an AP or AR has no value on the validation images, or an empty text."""
        data: Any = getattr(self.trainer, "datamodule", None)
        counts = None if data is None else data.object_counts("val")
        if counts is None or not metric.startswith(("val/segm_", "val/box_")):
            return ""
        if not counts.by_class.any():
            return "no validation image has an object"
        size = metric.rpartition("_")[2]
        return without_size(size, data.labelled_truth("val")) if size in AREAS[1:] else ""

    def on_fit_start(self) -> None:
        """Warn about objects that cannot be found and classes that are rarely seen."""
        super().on_fit_start()
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is None or not self.trainer.is_global_zero:
            return
        in_tiles = self.inference is not None and self.inference.tile is not None
        counts = {split: data.object_counts(split) for split in ("train", "val")}
        limit = None if in_tiles else self.network.max_dets
        for message in data_warnings(counts, data.class_names, limit):
            rank_zero_warn(message)

    def on_train_start(self) -> None:
        """Tell a model that follows the training where it begins, also when it is resumed."""
        super().on_train_start()
        self._steps = self.trainer.estimated_stepping_batches
        self._tell_progress(self.global_step)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Run the optimizer step; update what the model keeps of steps, tell how far it is."""
        super().optimizer_step(*args, **kwargs)
        if isinstance(self.model, UpdatesAfterStep):
            self.model.update_after_step()
        self._tell_progress(self.global_step + 1)  # Lightning counts this step later

    def _tell_progress(self, steps: int) -> None:
        if isinstance(self.model, FollowsTraining):
            self.model.set_progress(min(steps / self._steps, 1.0))

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Return the weighted sum of the loss terms."""
        del batch_idx
        return self.training_loss(self.training_terms(batch), batch.image_ids, len(batch))

    def training_terms(self, batch: SegBatch) -> dict[str, Tensor]:
        """Return the loss terms of a training step.

        Raises:
            ValueError: the batch is not valid, or too small for a batch norm.
        """
        try:
            return self.network.losses(batch, key=self.global_step)
        except ValueError as error:
            raise named_batch_norm_error(error, batch) from error

    def validation_step(self, batch: SegBatch, batch_idx: int) -> list[Instances]:  # type: ignore[override]
        """Return the predictions and keep them as run-length encodings."""
        del batch_idx
        if self.log_val_loss:
            terms = self.network.losses(batch, reduction="none")
            self._losses.add(batch.index, batch.image_ids, terms)
        return self._predict_and_keep(batch)

    def test_step(self, batch: SegBatch, batch_idx: int) -> list[Instances]:  # type: ignore[override]
        """Return the predictions and keep them as run-length encodings."""
        del batch_idx
        return self._predict_and_keep(batch)

    def predict_step(self, batch: SegBatch, batch_idx: int) -> list[Instances]:
        """Return the predictions of each image."""
        del batch_idx
        return predict(self.network, batch, self.inference)

    def _predict_and_keep(self, batch: SegBatch) -> list[Instances]:
        predictions = predict(self.network, batch, self.inference)
        assert self._evaluator is not None
        for image_id, instances in zip(batch.image_ids, predictions, strict=True):
            self._evaluator.add(image_id, instances)
        return predictions

    def on_validation_epoch_start(self) -> None:
        """Start with an empty evaluator."""
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        """Start with an empty evaluator."""
        self._start_evaluation()

    def on_validation_epoch_end(self) -> None:
        """Score all images of all processes."""
        self._finish_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Score all images of all processes."""
        self._finish_evaluation("test")

    def _start_evaluation(self) -> None:
        if self.category_map is None:
            raise ValueError("evaluation needs a SegDataModule or a checkpoint with categories")
        self.scores, self.results, self._losses = None, [], ItemLosses()
        self._evaluator = CocoEvaluator(
            self.category_map,
            max_dets=self.network.max_dets,
            backend=self.eval_backend,
            iou_types=self.iou_types,
        )

    def _finish_evaluation(self, split: str) -> None:
        evaluator, self._evaluator = self._evaluator, None
        assert evaluator is not None
        if split == "val" and self.log_val_loss:
            self.log_item_losses(split, self._losses)
        evaluator.merge(gather_to_all(evaluator.state()))
        self.results = evaluator.results()
        self.score_predictions(evaluator, split)

    def score_predictions(self, evaluator: CocoEvaluator, split: str) -> None:
        """Score the predictions of all processes and log the metrics; all processes call it."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.scores = evaluator.compute(data.labelled_truth(split))
        self.log_metrics(split, self.scores.metrics, headline=("segm_map", "box_map"))


def _checked(
    class_weights: dict[str, float] | Literal["balanced"] | None, model: nn.Module
) -> dict[str, float] | Literal["balanced"] | None:
    """Return weights of classes that a model can use.

    Raises:
        TypeError: the model cannot weight classes.
        ValueError: a weight is not positive.
    """
    if class_weights is not None and not isinstance(model, UsesClassWeights):
        raise TypeError(f"{type(model).__name__} cannot weight classes (class_weights)")
    if class_weights is None or isinstance(class_weights, str):
        return class_weights
    named = {str(name): weight for name, weight in class_weights.items()}  # names may be numbers
    check_weights(named)
    return named


def _object_counts(data: Any) -> Tensor:
    """Return how many training objects each class has, (C,)."""
    labels = torch.from_numpy(data.train_objects()[1])
    return labels.bincount(minlength=data.num_classes)
