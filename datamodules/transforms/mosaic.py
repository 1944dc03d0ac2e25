"""Mosaic of four images around a point (Bochkovskiy et al. 2020, arXiv 2004.10934)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datamodules.transforms.affine import Matrix, Size, shift


def mosaic_layout(rng: np.random.Generator, sizes: Sequence[Size], side: int) -> list[Matrix]:
    """Return the matrices that place four images on a square of twice the side.

    The longer side of each image becomes ``side``. The images touch a point drawn from the middle
    half of the square with their bottom right, bottom left, top right and top left corner, in this
    order. Parts beyond the square are not cut off (A225).

    Args:
        rng: random generator; two numbers are drawn.
        sizes: (height, width) of each image.
        side: half the side of the square.
    """
    x, y = rng.uniform(0.5 * side, 1.5 * side, 2)
    matrices = []
    for position, (height, width) in enumerate(sizes):
        factor = side / max(height, width)
        left = x if position % 2 else x - width * factor
        top = y if position >= 2 else y - height * factor
        matrices.append(shift(left, top) @ np.diag([factor, factor, 1.0]))
    return matrices
