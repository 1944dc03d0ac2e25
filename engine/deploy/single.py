"""Images and bags that a program hands over, prepared as for the validation of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from callbacks.seg.dark_views import brighten
from datamodules.mil.standardisation import Standardisation
from datamodules.sampling.keys import SampleKey
from datamodules.seg.arrays import ImageArrays
from datamodules.seg.base import SegDataModule
from datamodules.seg.collate import collate_images
from datamodules.seg.dataset import SegDataset
from datamodules.transforms.raw.data import in_normal_light
from engine.checkpoints.data import data_at
from engine.checkpoints.restore import Restored, restore
from evaluation.seg.coco import CocoEvaluator
from evaluation.targets.files import text
from formats.coco.predictions import prediction_document
from formats.feature_arrays import FeatureKeys
from formats.features import first_not_finite, read_features
from formats.raw_files import is_raw
from lightning_modules.rebuilding import class_of
from structures import BagBatch, CategoryMap, Instances, MILOutput, SegBatch
from structures.tasks import has_classes

ImageArray = npt.NDArray[np.uint8]


def restored_on(checkpoint: Path, device: str) -> Restored:
    """Restore a checkpoint with its network on a device.

    Args:
        checkpoint: file written by `train.py`.
        device: name of the device; ``auto`` is CUDA where there is one.

    Raises:
        ValueError: the checkpoint is broken, or there is no such device.
    """
    restored = restore(checkpoint)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        restored.module.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # as torch reports a device that is not there
        raise ValueError(f"device {device!r} cannot be used ({error}); use auto or cpu") from None
    return restored


def predict_batch(batch: Any, restored: Restored) -> Any:
    """Return what the checkpoint's module predicts for a batch, computed on the module's device.

    Gradients are off, and mixed precision of the trainer is used again. Processors have no
    ``16-mixed``: bfloat16 takes its place, as in Lightning.
    """
    module: Any = restored.module
    device, precision = module.device, restored.precision
    half = torch.float16 if precision == "16-mixed" and device.type != "cpu" else torch.bfloat16
    mixed = precision.endswith("-mixed")
    with torch.no_grad(), torch.autocast(device.type, half, enabled=mixed):
        return module.predict_step(batch.to(device), 0)


def predict_files(path: Path, restored: Restored) -> Iterator[tuple[str, Instances]]:
    """Yield the file name and the predictions of each image, in the batches of `train.py predict`.

    Args:
        path: what ``--data`` accepts: an image or a folder of images.
        restored: a checkpoint of a segmentation model.

    Raises:
        ValueError: the path is missing, holds no image, or some images cannot be read.
    """
    data = _image_data(path, restored)
    names = {record["id"]: record["file_name"] for record in data.image_records("predict")}
    for images in data.predict_dataloader():
        own = data.already_dark  # RAW files are as the network knows them
        batch = images if own else in_normal_light(images, restored.facts["preprocessing"])
        for number, found in zip(batch.image_ids, predict_batch(batch, restored), strict=True):
            yield names[number], found.to("cpu")


def _image_data(path: Path, restored: Restored) -> SegDataModule:
    """Return the datamodule by which `train.py predict --data PATH` reads images."""
    section = data_at(path, restored.record)
    datamodule: Any = class_of(section)
    built: SegDataModule = datamodule(**section["init_args"])
    return built


def pixels_of(image: Any, restored: Restored) -> ImageArray:
    """Return an image, given as an array or as a file, in its own size as (H, W, 3) uint8 RGB.

    RAW files are brightened, to be looked at; `predict_files` predicts them.

    Raises:
        ValueError: see `rgb_array` and `predict_files`.
    """
    if isinstance(image, str | Path):
        pixels = _image_data(Path(image), restored).source("predict").read(0).image
        return brighten(pixels / 255) if is_raw(Path(image)) else pixels
    return rgb_array(image)


def rgb_array(image: Any) -> ImageArray:
    """Return an image as 8-bit RGB.

    Args:
        image: (H, W, 3) RGB, uint8 or floating point in [0, 1], an array or a host tensor. Floating
            point is rounded to 8 bits, as image files have (A344).

    Raises:
        ValueError: shape, type or range differ.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(
            f"an image is an RGB array of shape (H, W, 3), got {pixels.shape}; repeat a grey "
            "channel three times, drop an alpha channel, move the channels to the end"
        )
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"an image is uint8, or floating point in [0, 1], got {pixels.dtype}")
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # also False for NaN
        raise ValueError(
            f"a floating-point image has values in [0, 1], got {pixels.min():g} to "
            f"{pixels.max():g}; divide by 255 or convert to uint8"
        )
    return np.round(pixels * 255).astype(np.uint8)


def image_batch(image: ImageArray, restored: Restored) -> SegBatch:
    """Return a batch of one image, resized and padded as in validation.

    Args:
        image: (H, W, 3) uint8 RGB.
        restored: a checkpoint of a segmentation model.
    """
    known = restored.facts["preprocessing"]
    dataset = SegDataset(
        ImageArrays(image[None]),
        short_side=known["eval_short_side"],
        scale=known["scale"],
        max_long_side=known["max_long_side"],
        mask_stride=known["mask_stride"],
    )
    batch = collate_images([dataset[SampleKey(0)]], known["size_multiple"])
    return in_normal_light(batch, known)


def predicted_document(
    found: Mapping[str, Instances], category_map: CategoryMap, score: float
) -> dict[str, Any]:
    """Return predictions as the content of a COCO file (`prediction_document`).

    Args:
        found: predictions by file name; images are numbered from 1 in this order.
        category_map: the categories of the model.
        score: predictions with a lower score are left out.
    """
    evaluator, images = CocoEvaluator(category_map, iou_types=("bbox",)), []
    for number, (name, instances) in enumerate(found.items(), start=1):
        evaluator.add(number, instances)
        height, width = instances.size
        images.append({"id": number, "file_name": name, "height": height, "width": width})
    return prediction_document(images, category_map.to_coco(), evaluator.results(), score)


def feature_bag(features: Any, restored: Restored) -> BagBatch:
    """Return a batch of one bag, standardised as in training.

    Args:
        features: (N, D) array or tensor, or the path of a file of features.
        restored: a checkpoint of a multiple-instance model.

    Raises:
        ValueError: the file cannot be read, there is no instance, another number of features, or a
            value is not finite.
    """
    known, name = restored.facts["preprocessing"], "features"
    if isinstance(features, str | Path):
        keys = FeatureKeys(*(known.get(f"{k}_key", k) for k in FeatureKeys._fields))
        name, features = str(features), read_features(Path(features), keys).features
    values: Tensor = torch.as_tensor(features).detach().cpu().float()
    width = restored.links["in_features"]
    if values.ndim < 2 or not len(values) or (values.ndim == 2 and values.shape[1] != width):
        raise ValueError(
            f"{name}: a bag has at least one row of {width} features, shape (N, {width}); got "
            f"{tuple(values.shape)}"
        )
    if (place := first_not_finite(values.flatten(1))) is not None:
        raise ValueError(f"{name}: row {place[0]}, column {place[1]} is not finite; remove the row")
    if "mean" in known:
        statistics = Standardisation.from_lists(known["mean"], known["std"], known.get("clip"))
        values = statistics.apply(values.numpy())
    one = torch.zeros(1, dtype=torch.int64)
    return BagBatch(values, torch.tensor([0, len(values)]), labels=one - 1, index=one)


def class_probabilities(output: MILOutput, restored: Restored) -> dict[str, float]:
    """Return the probability of each class of one bag by the name of the class.

    Of times, the ``risk`` and, where bins are known, the survival at their edges as
    ``survival_<t>``; of values, each predicted value by its name.
    """
    module: Any = restored.module
    if not has_classes(module.task):
        return _target_of(output, module)
    values = output.probabilities(module.task).float().cpu()
    if module.task == "binary":
        values = torch.stack([1 - values, values], dim=1)
    return dict(zip(module.class_names, values[0].tolist(), strict=True))


def _target_of(output: MILOutput, module: Any) -> dict[str, float]:
    if module.task == "regression":
        values = module.predicted(output)[0].tolist()
        names = module.target_names or tuple(map(str, range(len(values))))
        return dict(zip(names, values, strict=True))
    found = {"risk": float(output.risk(module.task)[0])}
    if module.task == "discrete_time":
        edges = module.target_coding.edges[1:]
        survival = output.survival()[0].tolist()
        found |= {f"survival_{text(e)}": s for e, s in zip(edges, survival, strict=True)}
    return found
