"""Labels that hold for a whole image, as LVIS has them in the records of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"
KEYS = (NEGATIVE, NOT_EXHAUSTIVE)


class ImageLabels(NamedTuple):
    """Labels of one image, each (C,) bool.

    Attributes:
        negative: classes that annotators have looked for in vain.
        not_exhaustive: classes of which some objects have no mask.
    """

    negative: npt.NDArray[np.bool_]
    not_exhaustive: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ImageLabelStore:
    """Labels of P images, sorted by id as those of an `AnnotationStore`, a bit each.

    Attributes:
        packed: (P, 2, ceil(C / 8)) uint8, negative and not exhaustive ones.
        num_classes: C.
    """

    packed: npt.NDArray[np.uint8]
    num_classes: int

    @classmethod
    def from_coco(
        cls, images: Sequence[Mapping[str, Any]], labels: Mapping[int, int], num_classes: int
    ) -> ImageLabelStore | None:
        """Return the labels, or None if no image states any.

        Args:
            images: checked records.
            labels: category id -> label; other categories are left out.
            num_classes: C.
        """
        if not any(image.get(key) is not None for image in images for key in KEYS):
            return None
        packed = np.zeros((len(images), len(KEYS), -(-num_classes // 8)), dtype=np.uint8)
        for row, image in zip(packed, sorted(images, key=lambda one: one["id"]), strict=True):
            for bits, key in zip(row, KEYS, strict=True):
                flags = np.zeros(num_classes, dtype=bool)
                flags[[labels[i] for i in image.get(key) or () if i in labels]] = True
                bits[:] = np.packbits(flags)
        return cls(packed, num_classes)

    def image(self, index: int) -> ImageLabels:
        """Return the labels of an image."""
        flags = np.unpackbits(self.packed[index], axis=1, count=self.num_classes).astype(bool)
        return ImageLabels(*flags)
