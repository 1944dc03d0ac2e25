"""Training on known categories, validation on known and on novel objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.trainer.states import TrainerFn
from torch import nn

from evaluation.open_world.protocols import known_and_novel_scores
from evaluation.seg.coco import CocoEvaluator
from lightning_modules.base import OptimizerFactory, SchedulerFactory
from lightning_modules.segmentation import SegmentationModule

_SETS = ("known", "novel")
_LOGGED = ("map", "map_50", "ar_10", "ar_100")


class OpenWorldModule(SegmentationModule):
    """`SegmentationModule` whose data have labels for some categories only.

    An evaluation pools the predictions whatever their classes and scores them by the protocol
    ``exclude-known`` (`evaluation.open_world.protocols`): for ``novel_*`` predictions that find a
    known object do not count, for ``known_*`` those that find a novel one. Models that tell
    classes apart also have ``scores`` of the known classes; other models have none.

    Checkpoints are chosen by metrics of known objects; a monitor of novel ones is refused.  # A468

    The categories that a checkpoint was trained on are among its facts. Training continues with
    these alone; validation and test follow the split of their data.

    Args:
        model: see `SegmentationModule`.
        optimizer: see there.
        lr_scheduler: see there.
        **options: further arguments of `SegmentationModule`.

    Raises:
        ValueError: the data have no split, a training would be chosen by novel objects, or it
            would continue with other known categories.
    """

    metric_names = (
        *(f"val/{of}_{kind}_{n}" for of in _SETS for kind in ("segm", "box") for n in _LOGGED),
        *(name for name in SegmentationModule.metric_names if "loss" in name),
    )

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, optimizer, lr_scheduler, **options)
        if "segm" not in self.iou_types:
            names = tuple(n for n in self.metric_names if "_segm_" not in n)
            self.metric_names = names  # type: ignore[misc]  # those that this model has
        self.trained_on: Mapping[str, Any] | None = None  # the split of the checkpoint

    def setup(self, stage: str) -> None:
        """Check that the data have a split, and what a training is chosen by."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is not None and stage != "predict" and data.known_split is None:
            raise ValueError(
                f"{type(self).__name__} needs data with known and novel categories: set "
                "data.init_args.known (voc, ids or names), or take the overlay "
                "configs/_base/data/coco_open_world.yaml or digit_open_world.yaml"
            )
        super().setup(stage)
        if stage == "fit":
            self._refuse_novel_monitors()

    def _refuse_novel_monitors(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            monitor = str(getattr(callback, "monitor", None))
            if monitor.startswith("val/novel_"):
                known = monitor.replace("novel_", "known_")
                raise ValueError(
                    f"{type(callback).__name__} monitors {monitor}, but labels of novel objects "
                    f"must not choose a model; set checkpoint.monitor: {known}"
                )

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Also restore the split."""
        super().restore_facts(facts)
        self.trained_on = facts.get("categories", {}).get("known")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also check that a training continues with the same known categories."""
        super().on_load_checkpoint(checkpoint)
        data: Any = getattr(self.trainer, "datamodule", None)
        resumes = self.trainer.state.fn == TrainerFn.FITTING
        if not resumes or data is None or self.trained_on is None:
            return
        ours, theirs = data.known_split, self.trained_on
        if set(ours.known) != set(theirs["known"]):
            raise ValueError(
                f"the checkpoint was trained on the known categories {_short(theirs['known'])} "
                f"({theirs['name']}), these data have {_short(ours.known)} ({ours.name}); give "
                "data.init_args.known as in the checkpoint, or start a new training by "
                "model.init_args.init_from"
            )

    def undefined(self, metric: str) -> str:
        """Return why a metric of known objects has no value on the validation images."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is None or not metric.startswith("val/known_"):
            return ""
        if data.object_counts("val") is None:
            return ""
        known = data.labelled_truth("val")["annotations"]
        some = any(not a.get("iscrowd") for a in known)
        return "" if some else "no validation image has a known object"

    def score_predictions(self, evaluator: CocoEvaluator, split: str) -> None:
        """Score known and novel objects; the classes too if the model tells them apart."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        truth, rows = evaluator.checked(data.ground_truth(split))
        found = known_and_novel_scores(truth, rows, data.known_split, self.iou_types)
        metrics = {
            f"{of}_{kind}_{name}": scores[f"{kind}_{name}"]
            for of, scores in found.items()
            for kind in ("segm", "box")
            for name in _LOGGED
            if f"{kind}_{name}" in scores
        }
        if len(evaluator.category_map) > 1:
            self.scores = evaluator.compute(data.labelled_truth(split))
        best = "segm_ar_100" if "segm" in self.iou_types else "box_ar_100"
        self.log_metrics(split, metrics, headline=[f"{of}_{best}" for of in _SETS])


def _short(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:10]))
    return f"{shown} and {len(ids) - 10} more" if len(ids) > 10 else shown
