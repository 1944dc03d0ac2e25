"""Data sections that apply a checkpoint to the data of a path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

PICTURES = "datamodules.seg.image_folder.PictureFolderDataModule"


BAGS = "datamodules.mil.npz.TabularBagsDataModule"


SLIDES = "datamodules.mil.features.FeatureBagsDataModule"


def data_at(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a datamodule that applies a checkpoint to other data.

    Args:
        path: a picture or a folder of pictures for a segmentation checkpoint; an npz file of bags
            or a CSV of slides for a MIL checkpoint. Features of slides lie in ``features`` beside
            the CSV, or where the checkpoint's training data had them.
        record: the checkpoint's ``segmil`` record.

    Raises:
        ValueError: see `bags_at`.
    """
    facts = record["facts"]
    arguments = dict(facts["preprocessing"])
    if "category_map" in facts:
        arguments |= {"root": str(path), "category_map": facts["category_map"]}
        return {"class_path": PICTURES, "init_args": arguments}
    return bags_at(path, facts, record["blueprint"]["links"], record["blueprint"]["data"])


# What another datamodule takes over of how a checkpoint's bags were prepared.
_NPZ = ("eval_batch_size", "standardise", "mean", "std", "clip", "class_names", "task")


_CSV = ("eval_batch_size", "bag", "features_key", "coords_key", "class_names", "task")


def bags_at(
    path: Path,
    facts: Mapping[str, Any],
    links: Mapping[str, Any],
    trained_on: Mapping[str, Any],
    features: Path | None = None,
) -> dict[str, Any]:
    """Return the configuration of a datamodule that reads bags as a MIL checkpoint knows them.

    Args:
        path: an npz file of bags or a CSV of slides.
        facts: of the checkpoint, see `Restored`.
        links: likewise.
        trained_on: the configuration of the checkpoint's own data.
        features: folder of the slides' features.

    Raises:
        ValueError: slides cannot be prepared as the checkpoint's bags were.
    """
    known = {"class_names": list(facts["class_names"]) or None, "task": links["task"]}
    arguments = dict(facts["preprocessing"]) | known
    if path.suffix.lower() != ".csv":
        kept = {name: arguments[name] for name in _NPZ if name in arguments}
        return {"class_path": BAGS, "init_args": kept | {"file": str(path)}}
    if "mean" in arguments:
        raise ValueError(
            f"{path}: the checkpoint standardises the features of an npz file, which features of "
            "slides are not; give an npz file"
        )
    kept = {name: arguments[name] for name in _CSV if name in arguments}
    if features is None and not (path.parent / "features").is_dir():
        features = _trained_features(trained_on["init_args"])
    if features is not None:
        kept["features"] = str(features)
    return {"class_path": SLIDES, "init_args": kept | {"table": str(path)}}


def _trained_features(arguments: Mapping[str, Any]) -> Path | None:
    """Return where training had the features of its slides, if that is still there."""
    folder, table = arguments.get("features"), arguments.get("table")
    if folder is None and table is not None:
        folder = Path(table).parent / "features"
    if folder is None or not Path(folder).is_dir():
        return None
    rank_zero_info(f"features are read where the training read them: {folder}")
    return Path(folder)
