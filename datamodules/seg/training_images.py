"""Which images training uses and how often it repeats them, with a report of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pytorch_lightning.utilities import rank_zero_info

from datamodules.sampling.repeats import repeat_factors
from datamodules.seg.dataset import ImageSource

Ints = npt.NDArray[np.int64]

MIN_SIDE = 32  # pixels; open-world training leaves smaller images out


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


def chosen_images(source: ImageSource, filter_empty: bool, open_world: bool) -> Ints:
    """Return the numbers of the images that training uses, ascending; log how many it doesn't.

    Args:
        source: the training images.
        filter_empty: leave out images without an object.
        open_world: also leave out images with a side below `MIN_SIDE`; objects are the known ones.

    Raises:
        ValueError: no image is left.
    """
    kept = np.arange(len(source))
    if open_world:
        large = source.sizes().min(axis=1) >= MIN_SIDE
        known = np.bincount(source.objects()[0], minlength=len(source)) > 0
        kept = np.flatnonzero(large & known)
        rank_zero_info(
            f"open world: {len(kept)} of {len(source)} training images are used; "
            f"{int((~large).sum())} have a side below {MIN_SIDE} px, "
            f"{int((large & ~known).sum())} others no known object"
        )
    elif filter_empty:
        kept = np.flatnonzero(source.counts() > 0)
        left_out = len(source) - kept.size
        rank_zero_info(f"filter_empty leaves out {left_out} of {len(source)} images")
    if kept.size == 0:
        remedy = "name other known categories" if open_world else "set filter_empty: false"
        raise ValueError(
            "no training image is left: no image has an instance that is not a crowd; "
            f"{remedy} or check the annotations"
        )
    return kept
