"""Repeat factors of training images, with a report of what they change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pytorch_lightning.utilities import rank_zero_info

from datamodules.sampling.repeats import repeat_factors

Ints = npt.NDArray[np.int64]


def image_repeats(
    objects: tuple[Ints, Ints], items: Ints, class_names: Sequence[str], threshold: float
) -> list[float]:
    """Return the repeat factor of each image of a training; log which classes are repeated.

    The share of images with a class is that among ``items`` (A331).

    Args:
        objects: images and labels, (M,) each, of the instances that can be learnt.
        items: (n,) numbers of the training images, ascending.
        class_names: name of each class.
        threshold: share of images below which a class is repeated.
    """
    images, labels = objects
    used = np.isin(images, items)
    places, labels = np.searchsorted(items, images[used]), labels[used]
    factors = repeat_factors(places, labels, items.size, threshold)
    pairs = np.unique(np.stack([labels, places]), axis=1)
    found = np.bincount(pairs[0], minlength=len(class_names))
    rare = np.flatnonzero((found > 0) & (found < threshold * items.size))
    text = (
        f"repeat_threshold {threshold:g}: {rare.size} of {len(class_names)} classes are in fewer "
    )
    text += f"than {100 * threshold:g} % of the {items.size} training images"
    if rare.size:
        rarest = int(rare[found[rare].argmin()])
        text += (
            f"; an epoch has {int(factors.sum())} images; the rarest class, "
            f"{class_names[rarest]}, is in {found[rarest]}, each repeated up to "
            f"{factors.max():.2f} times"
        )
    rank_zero_info(text)
    repeats: list[float] = factors.tolist()
    return repeats
