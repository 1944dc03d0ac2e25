"""Albumentations transforms named in a recipe, with keyed seeds and exact masks."""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.transforms.label_maps import LabelMaps

ImageArray = npt.NDArray[np.uint8]

# modules of albumentations with transforms that change the scale by cv2.resize
_RESIZING_MODULES = ("geometric.resize", "crops.transforms")


def _build_one(number: int, spec: Mapping[str, Any], library: Any) -> Any:
    """Build one transform; raise an error if it cannot keep masks exact."""
    arguments = dict(spec)
    name = arguments.pop("name", None)
    where = f"augmentations[{number}]"
    kind: Any = getattr(library, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, library.BasicTransform)):
        raise ValueError(
            f"{where}: {name!r} is not an albumentations transform; write for example "
            "{name: HorizontalFlip, p: 0.5}"
        )
    try:
        transform = kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name}: {error}") from error
    if transform.invalid_args:  # the library only warns
        raise ValueError(f"{where}: {name} has no argument {', '.join(transform.invalid_args)}")
    if np.any(np.asarray(getattr(transform, "fill_mask", None) or 0)):
        raise ValueError(f"{where}: {name}: fill_mask must be 0, the value of the background")
    return transform


_LIBRARY_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Augmentation:
    """A sequence of albumentations transforms for an image and its instances.

    Only the image and label maps pass through the library: its own boxes are hulls of rotated
    boxes and no longer match the masks. Boxes are computed from the masks afterwards.

    Args:
        specs: one mapping per transform, in order: ``name`` is the class in ``albumentations``,
            and the other entries are its arguments.

    Raises:
        ValueError: a name or an argument is unknown, or ``fill_mask`` is not 0; the message names
            the entry.
    """

    def __init__(self, specs: Sequence[Mapping[str, Any]]) -> None:
        # otherwise the import asks the package index for a newer version
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations  # takes seconds to import
        import cv2

        transforms = [_build_one(n, spec, albumentations) for n, spec in enumerate(specs)]
        # Maps contain instance numbers, which must not be interpolated. OpenCV's resize uses pixel
        # corners for INTER_NEAREST but centres for images, a difference of up to a pixel;
        # INTER_NEAREST_EXACT uses centres, but OpenCV's warps neither support nor need it.
        for transform in transforms:
            resizes = type(transform).__module__.endswith(_RESIZING_MODULES)
            nearest = cv2.INTER_NEAREST_EXACT if resizes else cv2.INTER_NEAREST
            if hasattr(transform, "mask_interpolation"):
                transform.mask_interpolation = nearest
        self._compose = albumentations.Compose(transforms)
        crop_error = albumentations.augmentations.crops.transforms.CropSizeError
        # transforms raise errors of any kind when they cannot handle an image
        self._library_errors = (*_LIBRARY_ERRORS, crop_error, cv2.error)

    def __call__(
        self, image: ImageArray, maps: LabelMaps, rng: np.random.Generator
    ) -> tuple[ImageArray, LabelMaps]:
        """Transform an image and its masks together.

        Args:
            image: (h, w, 3) uint8, or RAW data of float32 in [0, 255].
            maps: masks of its instances.
            rng: the only source of randomness.

        Returns:
            The image and the maps, of equal size; some instances may have no pixel left.

        Raises:
            ValueError: a transform cannot handle the image or changes its type; the message names
                it.
        """
        self._compose.set_random_state(rng, random.Random(int(rng.integers(2**62))))
        deep = image.dtype == np.float32
        given = image / 255 if deep else image  # the library's floats end at 1
        try:
            result = self._compose(image=given, masks=maps.maps if len(maps.maps) else [])
        except self._library_errors as error:
            raise ValueError(
                f"{self._failed(error)} failed with {type(error).__name__}: {error}; change its "
                "arguments or leave it out (data.augmentations)"
            ) from error
        changed: ImageArray = result["image"]
        if changed.dtype != image.dtype or changed.ndim != 3 or changed.shape[2] != 3:
            raise ValueError(
                f"augmentation gave {changed.dtype} of shape {changed.shape}; leave images "
                "uint8 with 3 channels (models normalise)"
            )
        changed = changed * 255 if deep else changed
        if not len(maps.maps):
            return changed, maps.with_maps(np.zeros((0, *changed.shape[:2]), dtype=np.uint8))
        return changed, maps.with_maps(np.asarray(result["masks"], dtype=np.uint8))

    def _failed(self, error: BaseException) -> str:
        """Return the entry and the name of the transform that raised an error."""
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for number, transform in enumerate(self._compose.transforms):
                if frame.f_locals.get("self") is transform:
                    return f"augmentations[{number}] ({type(transform).__name__})"
        return "augmentations"
