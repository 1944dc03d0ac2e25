"""Applying a checkpoint to files, for the evaluation scripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from datamodules import CocoDataModule, MILDataModule, TabularBagsDataModule
from evaluation.bag_scores import BagScores
from evaluation.latency import picture_latency
from evaluation.report import file_hash
from lightning_modules.mil import MILModule
from lightning_modules.restore import Restored, instantiate_data, read_data_section, restore
from lightning_modules.segmentation import SegmentationModule
from structures import MILTask


@dataclass(frozen=True, slots=True)
class CocoPredictions:
    """A checkpoint's predictions on a COCO file.

    Attributes:
        ground_truth: the COCO dictionary, restricted to the model's categories.
        rows: COCO results rows.
        max_dets: the model's cap on detections a picture.
    """

    ground_truth: dict[str, Any]
    rows: list[dict[str, Any]]
    max_dets: int


def _trainer(precision: str) -> pl.Trainer:
    return pl.Trainer(
        logger=False,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def picture_folder_of(annotations: Path) -> Path:
    """Guess the picture folder of ``DIR/annotations/instances_SPLIT.json``: ``DIR/images/SPLIT``.

    Raises:
        ValueError: there is no such folder.
    """
    split = annotations.stem.removeprefix("instances_")
    for folder in (annotations.parent.parent / "images" / split, annotations.parent / "images"):
        if folder.is_dir():
            return folder
    raise ValueError(f"{annotations}: cannot guess the picture folder; give it by --images DIR")


def _restored(checkpoint: Path, kind: type[Any]) -> Restored:
    restored = restore(checkpoint)
    if not isinstance(restored.module, kind):
        raise ValueError(
            f"{checkpoint}: holds a {type(restored.module).__name__}; this command needs a "
            f"{kind.__name__}"
        )
    return restored


def _coco_data(
    restored: Restored, annotations: Path, images: Path | None, batch_size: int | None
) -> CocoDataModule:
    arguments = dict(restored.facts["preprocessing"])
    if batch_size is not None:
        arguments["eval_batch_size"] = batch_size
    return CocoDataModule(
        test_annotations=annotations,
        test_images=images or picture_folder_of(annotations),
        category_map=restored.facts["category_map"],
        **restored.facts["categories"],
        **arguments,
    )


def time_checkpoint(checkpoint: Path, annotations: Path, images: Path | None) -> dict[str, float]:
    """Time a segmentation checkpoint on single pictures of a COCO file.

    Returns:
        See `evaluation.latency.picture_latency`.
    """
    restored = _restored(checkpoint, SegmentationModule)
    module: Any = restored.module
    loader = _coco_data(restored, annotations, images, batch_size=1).test_dataloader()
    return picture_latency(loader, module.network.predict)


def predict_coco(
    checkpoint: Path, annotations: Path, images: Path | None, batch_size: int | None = None
) -> CocoPredictions:
    """Run a segmentation checkpoint on a COCO file with the preprocessing it was validated with.

    Args:
        checkpoint: file written by `train.py`.
        annotations: COCO ground truth.
        images: picture folder; None looks beside the annotations.
        batch_size: pictures a batch; None takes the checkpoint's, which gives its logged number.

    Raises:
        ValueError: a file is missing, broken, or means other classes than the checkpoint.
    """
    restored = _restored(checkpoint, SegmentationModule)
    data = _coco_data(restored, annotations, images, batch_size)
    module: Any = restored.module
    _trainer(restored.precision).test(module, datamodule=data, verbose=False)
    return CocoPredictions(data.ground_truth("test"), module.results, module.network.max_dets)


def predict_bags(checkpoint: Path, data_file: Path) -> tuple[BagScores, MILTask, float]:
    """Run a MIL checkpoint with the preprocessing that was fitted on its training bags.

    Args:
        checkpoint: file written by `train.py`.
        data_file: an npz file, all of whose bags are scored, unless the checkpoint was trained on
            this very file: then the test split of that training. Or a recipe, whose test split is
            scored.

    Returns:
        The scores, the task and the threshold that validation chose.

    Raises:
        ValueError: a file is missing, broken, or does not fit the checkpoint.
    """
    restored = _restored(checkpoint, MILModule)
    prepared = restored.facts["preprocessing"]
    own = restored.data["init_args"].get("file")
    everything = False
    if data_file.suffix in (".yaml", ".yml"):
        data = instantiate_data(read_data_section(data_file), prepared)
    elif own and Path(own).is_file() and file_hash(Path(own)) == file_hash(data_file):
        rank_zero_info(f"{data_file} was trained on: its test split is scored")
        data = instantiate_data(restored.data, prepared)
    else:
        data, everything = TabularBagsDataModule(file=data_file, **prepared), True
    _check_bags(data, data_file, restored.links)
    module: Any = restored.module
    bags = {"dataloaders": data.predict_dataloader()} if everything else {"datamodule": data}
    _trainer(restored.precision).test(module, verbose=False, **bags)
    return module.bag_scores, module.task, module.threshold


def _check_bags(data: Any, source: Path, links: dict[str, Any]) -> None:
    """Refuse data that the model was not built for."""
    if not isinstance(data, MILDataModule):
        raise ValueError(f"{source}: holds no bags ({type(data).__name__})")
    if data.in_features != links["in_features"]:
        raise ValueError(
            f"{source}: bags have {data.in_features} features, the checkpoint was trained on "
            f"{links['in_features']}"
        )
    if data.num_classes > links["num_classes"]:
        raise ValueError(
            f"{source}: bags have {data.num_classes} classes, the checkpoint knows "
            f"{links['num_classes']}"
        )
