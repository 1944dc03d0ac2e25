"""Prediction files of `test` and `predict` for use by other programs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from callbacks.mil.bag_outputs import BagAttention, bag_attention
from callbacks.mil.slide_parts import slide_source
from callbacks.results.prediction_files import overlay_names, write_attention
from callbacks.seg.dark_views import brighten, dark_views
from callbacks.seg.frames import image_in_frame, original_size
from callbacks.seg.overlay import draw_overlay
from evaluation.mil.collector import BagCollector, BagScores
from evaluation.mil.predictions_csv import Decisions, write_bag_csv
from evaluation.seg.coco import CocoEvaluator
from evaluation.targets.files import write_target_csv
from formats.coco.predictions import prediction_document
from formats.coco.results import write_results
from formats.files import write_json
from loggers.run_files import run_folder, write_png
from structures import BagBatch, CategoryMap, Instances, MILOutput, SegBatch
from structures.processes import gather_to_first
from structures.tasks import MILTask, has_classes

DEFAULT_SCORE = 0.5  # of the predictions that are drawn and in the COCO file (A340)
_TESTED_OVERLAYS = 20


class PredictionWriter(pl.Callback):
    """Write the predictions of `test` and `predict`, each sample once for any number of processes.

    For images:
        ``test.json`` or ``predict.json``: a COCO results list with the ids of the data set,
        containing all predictions regardless of score;
        after `predict`, if the datamodule knows its images (``image_records``),
        ``predict_coco.json``: a COCO instances file of the predictions with at least ``score``,
        see `formats.coco.predictions.prediction_document`, and
        ``predict_images.json``: id, file name and size of each image;
        ``overlays/<file name>.png``, or ``<image id>.png`` after `test`: the predictions with at
        least ``score``, drawn over the image; not over a dark one, but over
        what it shows (`callbacks.seg.dark_views`).
    For bags:
        ``bags.csv``: ``bag_id,label,score[,patient_id],prediction,threshold``, see
        `evaluation.mil.predictions_csv.write_bag_csv`, or times or values, see
        `evaluation.targets.files`;
        ``attention.csv``: ``bag_id[,slide_id],instance,attention[,witness][,x,y]`` if the model has
        attention, see `callbacks.results.prediction_files`.

    Requires a module with ``category_map`` (images) or ``task`` (bags). Nothing is written if the
    run has no folder (``fast_dev_run``) and none is given.

    Args:
        output_dir: folder to write to; None for ``<run>/predictions``.
        overlays: ``all``, ``none``, or draw the images whose number in the data set is below this
            value; None for all in `predict` and 20 in `test`.
        score: predictions with a lower score are neither drawn nor in ``predict_coco.json``.
        attention: whether to write ``attention.csv``, with one row per instance.

    Attributes:
        summary: what was found in the images of `predict`, one sentence, or empty.

    Raises:
        ValueError: an argument is out of range.
    """

    entry = "predictions"
    order = 120

    def __init__(
        self,
        output_dir: Path | None = None,
        overlays: int | Literal["all", "none"] | None = None,
        score: float = DEFAULT_SCORE,
        attention: bool = True,
    ) -> None:
        if isinstance(overlays, int) and overlays < 0:
            raise ValueError(f"overlays must be 'all', 'none' or at least 0, got {overlays}")
        if not 0 <= score <= 1:
            raise ValueError(f"score must be in [0, 1], got {score}")
        self.output_dir = output_dir
        self.overlays = overlays
        self.score = score
        self.attention = attention
        self.summary = ""
        self._folder: Path | None = None
        self._records: dict[Any, dict[str, Any]] = {}  # of the images to predict, by id
        self._names: dict[Any, str] = {}
        self._source: Any = None  # of the images to predict
        self._data: Any = None
        self._drawn: float = 0  # images with a number below this are drawn
        self._forget()

    def _forget(self) -> None:
        self._images: CocoEvaluator | None = None
        self._bags: BagCollector | None = None
        self._attention: dict[int, BagAttention] = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with nothing kept."""
        self._begin(trainer, trainer.test_dataloaders)
        self._records, self._names, self._source = {}, {}, None
        self._data = getattr(trainer, "datamodule", None)
        self._drawn = self._number_drawn(_TESTED_OVERLAYS)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with nothing kept."""
        self._begin(trainer, trainer.predict_dataloaders)
        data: Any = getattr(trainer, "datamodule", None)
        self._data = data
        known = self._folder is not None and hasattr(data, "image_records")
        self._records = {r["id"]: r for r in data.image_records("predict")} if known else {}
        self._names = overlay_names(self._records.values())
        self._source = data.source("predict") if known and hasattr(data, "source") else None
        self._drawn = self._number_drawn(math.inf)

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
        self._keep(pl_module, outputs, batch, "test")

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
        self._keep(pl_module, outputs, batch, "predict")

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
        self.summary = ""

    def _number_drawn(self, default: float) -> float:
        named = {None: default, "all": math.inf, "none": 0}
        return self.overlays if isinstance(self.overlays, int) else named[self.overlays]

    def _keep(self, module: Any, outputs: Any, batch: Any, split: str) -> None:
        if self._folder is None:
            return
        if isinstance(batch, SegBatch):
            self._keep_images(module.category_map, outputs, batch)
        elif isinstance(batch, BagBatch):
            self._keep_bags(module, outputs, batch, slide_source(self._data, split))

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
            if index < self._drawn:
                self._draw(batch, position, predictions[position], category_map)

    def _draw(
        self, batch: SegBatch, position: int, instances: Instances, category_map: CategoryMap
    ) -> None:
        number = batch.image_ids[position]
        if self._source is None:
            size = original_size(batch, position)
            views = dark_views(self._data, "test", batch, position, size)
            image = image_in_frame(batch, position, size) if views is None else views.seen
        else:  # sharper than what the network has seen, which may be reduced
            image = self._source.read(int(batch.index[position])).image
            if hasattr(self._data, "shows_dark") and self._data.shows_dark("predict"):
                image = brighten(image / 255)
        record = self._records.get(number)
        title = f"image {number}" if record is None else record["file_name"]
        drawn = draw_overlay(image, instances, category_map.names, self.score, title)
        assert self._folder is not None
        name = self._names.get(number, f"{number}.png")
        write_png(self._folder / "overlays" / name, drawn, compression=3)

    def _keep_bags(self, module: Any, output: MILOutput, bags: BagBatch, slides: Any) -> None:
        if self._bags is None:
            self._bags = BagCollector()
        classes = has_classes(module.task)
        found = output.probabilities(module.task) if classes else module.predicted(output)
        # Without attention: its agreement with witnesses is not part of the files.
        self._bags.add(bags, found, None)
        if self.attention and output.attention is not None:
            for one in bag_attention(bags, output.attention, slides):
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
        module: Any = pl_module
        images = [state for state, _, _ in states if state is not None]
        if images:
            evaluator = CocoEvaluator(module.category_map, iou_types=("bbox",))
            evaluator.merge(images)
            write_results(self._folder / f"{split}.json", evaluator.results())
            self._write_document(evaluator, module.category_map)
        bags = [state for _, state, _ in states if state is not None]
        if bags:
            collector = BagCollector()
            collector.merge(bags)
            _write_table(self._folder / "bags.csv", module, collector.scores())
        attention = {index: one for _, _, part in states for index, one in part.items()}
        if attention:
            ordered = [attention[index] for index in sorted(attention)]
            write_attention(self._folder / "attention.csv", ordered)

    def _write_document(self, evaluator: CocoEvaluator, category_map: CategoryMap) -> None:
        """Write the COCO file of `predict` and say what is in it."""
        if self._folder is None or not self._records:
            return
        keys = ("id", "file_name", "height", "width")
        records = [{key: record[key] for key in keys} for record in self._records.values()]
        write_json(self._folder / "predict_images.json", records)
        rows, predicted = evaluator.results(), evaluator.state()
        images = [record for record in records if record["id"] in predicted]
        document = prediction_document(images, category_map.to_coco(), rows, self.score)
        write_json(self._folder / "predict_coco.json", document)
        found = document["annotations"]
        self.summary = (
            f"{len(found)} objects with a score of {self.score:g} or more in "
            f"{len({one['image_id'] for one in found})} of {len(images)} images"
        )
        if not found:
            best = max((row["score"] for row in rows), default=0.0)
            self.summary += f"; the highest score is {best:.3g}, and --score sets the lowest"


def _write_table(path: Path, module: Any, scores: BagScores) -> None:
    """Write the bags with the columns of the task."""
    if has_classes(module.task):
        task: MILTask = "multiclass" if module.task == "ordinal" else module.task
        write_bag_csv(path, scores, Decisions(task, module.threshold, module.class_names))
    else:
        write_target_csv(path, module.target_predictions(scores), module.training_bags)
