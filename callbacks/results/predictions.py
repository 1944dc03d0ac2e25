"""Prediction files of `test` and `predict` for use by other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from callbacks.mil.bag_outputs import BagAttention, bag_attention
from callbacks.results.prediction_files import write_attention
from callbacks.seg.frames import image_in_frame, instances_in_frame, original_size
from evaluation.mil.collector import BagCollector
from evaluation.mil.predictions_csv import write_bag_csv
from evaluation.seg.coco import CocoEvaluator
from evaluation.seg.draw import draw_instances
from formats.coco.results import write_results
from formats.files import write_json
from loggers.run_files import run_folder, write_png
from structures import BagBatch, CategoryMap, Instances, MILOutput, SegBatch
from structures.processes import gather_to_first


class PredictionWriter(pl.Callback):
    """Write the predictions of `test` and `predict`, each sample once for any number of processes.

    For images:
        ``test.json`` or ``predict.json``: a COCO results list with the ids of the data set,
        containing all predictions regardless of score;
        ``predict_images.json``: id, file name and size of each image, after `predict` if the
        datamodule knows them (``image_records``);
        ``overlays/<image id>.png``: the predictions drawn over the image.
    For bags:
        ``bags.csv``: ``bag_id,label,score``, see `evaluation.mil.predictions_csv.write_bag_csv`;
        ``attention.csv``: ``bag_id,instance,attention[,witness][,x,y]`` if the model has attention,
        see `callbacks.results.prediction_files`.

    Requires a module with ``category_map`` (images) or ``task`` (bags). Nothing is written if the
    run has no folder (``fast_dev_run``) and none is given.

    Args:
        output_dir: folder to write to; None for ``<run>/predictions``.
        overlays: draw the images whose number in the data set is below this value, or ``all``.
        score: predictions with a lower score are not drawn.
        attention: whether to write ``attention.csv``, with one row per instance.

    Raises:
        ValueError: an argument is out of range.
    """

    entry = "predictions"
    order = 120

    def __init__(
        self,
        output_dir: Path | None = None,
        overlays: int | Literal["all"] = 20,
        score: float = 0.5,
        attention: bool = True,
    ) -> None:
        if (overlays != "all" and overlays < 0) or not 0 <= score <= 1:
            raise ValueError(
                f"overlays must be 'all' or >= 0 and score in [0, 1], got {overlays!r}, {score}"
            )
        self.output_dir = output_dir
        self.overlays = overlays
        self.score = score
        self.attention = attention
        self._folder: Path | None = None
        self._forget()

    def _forget(self) -> None:
        self._images: CocoEvaluator | None = None
        self._bags: BagCollector | None = None
        self._attention: dict[int, BagAttention] = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with nothing kept."""
        self._begin(trainer, trainer.test_dataloaders)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with nothing kept."""
        self._begin(trainer, trainer.predict_dataloaders)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the predictions of the batch."""
        self._keep(pl_module, outputs, batch)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the predictions of the batch."""
        self._keep(pl_module, outputs, batch)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files."""
        self._write(trainer, pl_module, "test")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files."""
        self._write(trainer, pl_module, "predict")

    def _begin(self, trainer: pl.Trainer, loaders: Any) -> None:
        if isinstance(loaders, list | tuple | dict) and len(loaders) > 1:
            raise ValueError(
                f"PredictionWriter writes one set of files, but the run has {len(loaders)} "
                "dataloaders, whose ids may clash; run them one by one"
            )
        default = run_folder(trainer, "predictions")
        self._folder = default if self.output_dir is None else Path(self.output_dir)
        self._forget()

    def _keep(self, pl_module: pl.LightningModule, outputs: Any, batch: Any) -> None:
        module: Any = pl_module
        if self._folder is None:
            return
        if isinstance(batch, SegBatch):
            self._keep_images(module.category_map, outputs, batch)
        elif isinstance(batch, BagBatch):
            self._keep_bags(module, outputs, batch)

    def _keep_images(
        self, category_map: CategoryMap, predictions: list[Instances], batch: SegBatch
    ) -> None:
        if self._images is None:
            self._images = CocoEvaluator(category_map, iou_types=("bbox",))
        if not batch.image_ids:
            raise ValueError("SegBatch.image_ids is empty; results need the data set's image ids")
        for image_id, instances in zip(batch.image_ids, predictions, strict=True):
            self._images.add(image_id, instances)
        for position, index in enumerate(batch.index.tolist()):
            if self.overlays == "all" or index < self.overlays:
                self._draw(batch, position, predictions[position], category_map)

    def _draw(
        self, batch: SegBatch, position: int, instances: Instances, category_map: CategoryMap
    ) -> None:
        size = original_size(batch, position)
        shown = instances_in_frame(instances.select(instances.scores >= self.score), size)
        drawn = draw_instances(
            image_in_frame(batch, position, size),
            shown.boxes,
            shown.labels,
            shown.masks,
            category_map.names,
            scores=shown.scores,
        )
        assert self._folder is not None
        write_png(self._folder / "overlays" / f"{batch.image_ids[position]}.png", drawn)

    def _keep_bags(self, module: Any, output: MILOutput, bags: BagBatch) -> None:
        if self._bags is None:
            self._bags = BagCollector()
        # Without attention: its agreement with witnesses is not part of the files.
        self._bags.add(bags, output.probabilities(module.task), None)
        if self.attention and output.attention is not None:
            for one in bag_attention(bags, output.attention):
                self._attention.setdefault(one.index, one)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str) -> None:
        # Any process, including the first, may have had no batch and kept nothing.
        states = gather_to_first(
            (
                None if self._images is None else self._images.state(),
                None if self._bags is None else self._bags.state(),
                self._attention,
            )
        )
        self._forget()
        if self._folder is None or not trainer.is_global_zero:
            return
        images = [state for state, _, _ in states if state is not None]
        if images:
            module: Any = pl_module
            evaluator = CocoEvaluator(module.category_map, iou_types=("bbox",))
            evaluator.merge(images)
            write_results(self._folder / f"{split}.json", evaluator.results())
            self._write_records(trainer, split, self._folder)
        bags = [state for _, state, _ in states if state is not None]
        if bags:
            collector = BagCollector()
            collector.merge(bags)
            write_bag_csv(self._folder / "bags.csv", collector.scores())
        attention = {index: one for _, _, part in states for index, one in part.items()}
        if attention:
            ordered = [attention[index] for index in sorted(attention)]
            write_attention(self._folder / "attention.csv", ordered)

    @staticmethod
    def _write_records(trainer: pl.Trainer, split: str, folder: Path) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if split != "predict" or not hasattr(data, "image_records"):
            return
        keys = ("id", "file_name", "height", "width")
        records = [{key: record[key] for key in keys} for record in data.image_records("predict")]
        write_json(folder / "predict_images.json", records)
