"""Where the patches of a slide lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SLIVER = 1e-6  # part of a patch by which the last one may miss the bounds


def grid(bounds: Sequence[int], step: float) -> NDArray[np.int64]:
    """Return the corners of patches that cover a rectangle without gap or overlap.

    Patch i begins at ``x0 + round(i * step)``. Rounding the place and not the step keeps each patch
    within half a pixel of where it should be, however many there are. The last patches of rows and
    columns can reach beyond the rectangle.  # A503

    Args:
        bounds: x, y, width, height in pixels of level 0.
        step: side of a patch in pixels of level 0, not rounded.

    Returns:
        (N, 2) x and y of the top-left corners, rows from the top.

    Raises:
        ValueError: the step is not positive.
    """
    if not step > 0:
        raise ValueError(f"the side of a patch must be positive, got {step}")
    x0, y0, width, height = bounds
    across, down = (
        np.rint(np.arange(max(1, math.ceil(side / step - _SLIVER))) * step).astype(np.int64)
        for side in (width, height)
    )
    y, x = np.meshgrid(y0 + down, x0 + across, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)
