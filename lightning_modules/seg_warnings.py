"""Facts about the data that a user should know before a segmentation model is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from structures import SegBatch

_IMBALANCE = 100  # objects of the most frequent class for one of another  # A324
_NAMED = 5  # classes that a message lists
# Areas in pixels of COCO's sizes, both ends included
_SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}

Ints = npt.NDArray[np.int64]


def data_warnings(
    counts: Mapping[str, Any], class_names: Sequence[str], max_dets: int | None
) -> Iterator[str]:
    """Yield warnings about objects that cannot be found and classes that are rarely seen.

    Args:
        counts: what `SegDataModule.object_counts` returns for ``train`` and ``val``.
        class_names: name of each class, indexed by label.
        max_dets: largest number of predictions per image, or None if there is no limit.
    """
    known = {split: found for split, found in counts.items() if found is not None}
    if max_dets is not None:
        yield from _crowded({s: found.by_image for s, found in known.items()}, max_dets)
    if "train" in known:
        yield from _imbalance(known["train"].by_class.tolist(), class_names)


def _crowded(numbers: Mapping[str, Ints], max_dets: int) -> Iterator[str]:
    above = {split: int((found > max_dets).sum()) for split, found in numbers.items()}
    if any(above.values()):
        parts = [f"{n} of {len(numbers[split])} {split} images" for split, n in above.items() if n]
        most = max(int(found.max()) for split, found in numbers.items() if above[split])
        yield (
            f"{' and '.join(parts)} have more than {max_dets} objects (at most {most}), but the "
            "model predicts no more than max_dets of an image: raise "
            f"model.init_args.model.init_args.max_dets from {max_dets} to {most} or more, or "
            "predict in tiles (model.init_args.inference)"
        )


def _imbalance(numbers: Sequence[int], class_names: Sequence[str]) -> Iterator[str]:
    most = max(numbers, default=0)
    rare = sorted((n, label) for label, n in enumerate(numbers) if n * _IMBALANCE < most)
    if rare:
        listed = ", ".join(f"{class_names[label]} {n}" for n, label in rare[:_NAMED])
        more = f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else ""
        yield (
            f"classes are imbalanced by more than {_IMBALANCE} : 1 in the training images: "
            f"{class_names[list(numbers).index(most)]} has {most} objects, but {listed}{more}; "
            "rare classes are hardly learnt: add images, leave these classes out "
            "(data.categories), repeat their images (data.repeat_threshold) or weight them "
            "(model.init_args.class_weights; docs/training.md)"
        )


def without_size(size: str, truth: Mapping[str, Any]) -> str:
    """Return that no object of the ground truth has a size of COCO, or an empty text.

    Args:
        size: ``small``, ``medium`` or ``large``.
        truth: COCO dictionary of the validation images.
    """
    low, high = _SIZES[size]
    single = (a["area"] for a in truth["annotations"] if not a.get("iscrowd"))
    found = any(low <= area <= high for area in single)
    return "" if found else f"no object of the validation images is {size}"


def named_batch_norm_error(error: ValueError, batch: SegBatch) -> ValueError:
    """Return an error that names the remedy if a batch norm had one value; other errors unchanged.

    Args:
        error: raised by the losses of a model.
        batch: the batch.
    """
    if "Expected more than 1 value per channel" not in str(error):
        return error
    height, width = batch.images.shape[-2:]
    return ValueError(
        f"a batch norm has a single value per channel to normalise: {len(batch)} image(s) of "
        f"{height} x {width} px in a batch (ids {list(batch.image_ids)}) leave one cell; train on "
        "larger images (data.train_short_sides, data.scale), with data.batch_size 2 or more, or "
        "with another norm (model.init_args.model.init_args.norm: gn)"
    )
