"""Adapters that let `evaluation/speed/latency.py` time segmentation checkpoints."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.sampling.keys import SampleKey
from datamodules.seg.arrays import ImageArrays
from datamodules.seg.collate import collate_images
from datamodules.seg.dataset import ImageSource, SegDataset
from datamodules.seg.image_folder import ImageFolderSource
from datamodules.transforms.raw.data import in_normal_light
from engine.deploy.predict import check_frames, coco_data, restored_as
from evaluation.speed.latency import TimedModel
from lightning_modules.segmentation import SegmentationModule
from models.ops.low_light.smooth_convolution import fold_smooth_convs
from models.seg.inference.predict import LARGEST_SCALE, InferenceOptions, changed_options, predict
from models.seg.inference.views import LARGEST_FRAME
from models.seg.protocol import TimedSegModel
from structures import AnnotationPolicy, SegBatch

NOISE_SIDE = 640  # side of generated images in pixels if no size is given
NOISE_IMAGES = 16  # number of different generated images


@dataclass(frozen=True, slots=True)
class ImagesToTime:
    """Images that models are timed on.

    Attributes:
        annotations: COCO file that lists the images; None for images of noise in memory.
        images: image folder; None searches next to the annotations.
        size: longer side in pixels after resizing, or the side of images of noise; None for the
            validation size of each checkpoint, or `NOISE_SIDE`.
        scale: factor on the size of every image, as an alternative to ``size``.
        bad_data: treatment of faulty images.

    Raises:
        ValueError: a size or factor is out of range, both are given, or a folder or factor is
            given without annotations.
    """

    annotations: Path | None = None
    images: Path | None = None
    size: int | None = None
    scale: float | None = None
    bad_data: AnnotationPolicy = "error"

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is the longer side in pixels, got {self.size}")
        in_range = self.scale is None or 0 < self.scale <= LARGEST_SCALE
        if self.scale is not None and (self.size is not None or not in_range):
            raise ValueError(
                f"give a size or a positive scale of at most {LARGEST_SCALE:g}, got {self.size} "
                f"and {self.scale}"
            )
        if self.annotations is None and (self.images or self.scale) is not None:
            raise ValueError("--images and --scale need --annotations, which name the images")
        side = self.size or 0
        if self.annotations is None and side * side * NOISE_IMAGES > LARGEST_FRAME:
            most = math.isqrt(LARGEST_FRAME // NOISE_IMAGES)
            raise ValueError(
                f"{NOISE_IMAGES} images of noise are held in memory, so their size is at most "
                f"{most} px, got {side}; give --annotations to time larger images"
            )

    def __str__(self) -> str:
        if self.annotations is None:
            side = self.size or NOISE_SIDE
            return (
                f"{NOISE_IMAGES} images of noise, {side} x {side}, in memory: nothing is read "
                "or decoded, and post-processing depends on the detections in noise"
            )
        how = "resized as in validation"
        if self.size is not None:
            how = f"longer side {self.size} px"
        elif self.scale is not None:
            how = f"{self.scale:g} times their size"
        return f"{self.annotations}, {how}"


def timed_models(
    checkpoints: Sequence[Path],
    images: ImagesToTime,
    device: torch.device,
    inference: Mapping[str, Any] | None = None,
) -> list[TimedModel]:
    """Restore checkpoints on a device, each with its own preprocessing of the images.

    Annotated instances are not read, because a deployed model has none. The thresholds are the
    validation thresholds (A254).

    Args:
        checkpoints: segmentation checkpoints written by `train.py`.
        images: the images to time on.
        device: device of the networks and batches.
        inference: values of `InferenceOptions` that override the checkpoints'.

    Raises:
        ValueError: a file is missing or broken, or a model cannot be timed.
    """
    return [_timed_model(path, images, device, inference or {}) for path in checkpoints]


def _timed_model(
    checkpoint: Path, images: ImagesToTime, device: torch.device, inference: Mapping[str, Any]
) -> TimedModel:
    restored = restored_as(checkpoint, SegmentationModule)
    module: Any = restored.module
    options = changed_options(module.inference, inference)
    network = module.to(device).eval().model
    fold_smooth_convs(network)  # as in an exported network
    if not isinstance(network, TimedSegModel):
        raise ValueError(
            f"{checkpoint}: {type(network).__name__} cannot be timed in parts; it needs "
            "network_outputs and instances (models/seg/protocol.py)"
        )
    dataset, multiple = _dataset(restored, images, options)

    def load(numbers: Sequence[int]) -> SegBatch:
        items = [dataset[SampleKey(number)] for number in numbers]
        batch = collate_images(items, multiple).to(device)
        return in_normal_light(batch, restored.facts["preprocessing"])

    parts: dict[str, Any] = {"network": network.network_outputs, "post": network.instances}
    if options is not None:
        parts = {
            "network": lambda batch: predict(network, batch, options),
            "post": lambda outputs, batch: outputs,
            "note": "in tiles or views: network_ms includes post-processing",
        }
    weights = list(module.model.parameters())
    tensors = [*weights, *module.model.buffers()]
    return TimedModel(
        name=str(checkpoint),
        images=len(dataset),
        load=load,
        parameters=sum(w.numel() for w in weights),
        weight_bytes=sum(t.numel() * t.element_size() for t in tensors),
        **parts,
    )


def _noise(side: int) -> ImageArrays:
    """Return square images of uniform noise; equal for equal sizes."""
    random = np.random.default_rng(0)
    return ImageArrays(random.integers(256, size=(NOISE_IMAGES, side, side, 3), dtype=np.uint8))


def _dataset(
    restored: Any, images: ImagesToTime, options: InferenceOptions | None
) -> tuple[SegDataset, int]:
    """Return images without instances, preprocessed as in validation, and the size multiple."""
    prepared = dict(restored.facts["preprocessing"])
    source: ImageSource
    if images.annotations is None:
        source = _noise(images.size or NOISE_SIDE)
        resizing: dict[str, Any] = {"scale": 1.0}
    else:
        data = coco_data(restored, images.annotations, images.images, 1, images.bad_data)
        records = data.image_records("test")
        files = tuple(Path(record["path"]) for record in records)
        source = ImageFolderSource(files, tuple(range(len(files))), data.image_options)
        names = {
            "short_side": "eval_short_side",
            "scale": "scale",
            "max_long_side": "max_long_side",
        }
        resizing = {name: prepared[key] for name, key in names.items()}
        if images.size is not None:
            resizing |= {"short_side": images.size, "max_long_side": images.size}
        if images.scale is not None:
            resizing = {"short_side": None, "scale": images.scale, "max_long_side": None}
        check_frames(images.annotations, records, resizing, options)
    stride = prepared["mask_stride"]
    return SegDataset(source, mask_stride=stride, **resizing), prepared["size_multiple"]


@contextlib.contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Set the number of threads of torch and OpenCV inside the block; None changes nothing.

    Raises:
        ValueError: the number is not positive.
    """
    if number is None:
        yield
        return
    if number < 1:
        raise ValueError(f"threads must be at least 1, got {number}")
    import cv2

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(number)
    cv2.setNumThreads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def device_named(name: str) -> torch.device:
    """Return the device of ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: the name is unknown or CUDA is not available.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("no CUDA device is available; use --device cpu")
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is auto, cpu or cuda, got {name!r}")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
