"""Two canvases blended (mixup: Zhang et al. 2018, arXiv 1710.09412)."""

from __future__ import annotations

import numpy as np

from datamodules.transforms.canvas import Canvas

_ALPHA = 32.0  # of the one-stage recipe: shares near one half


def mix(rng: np.random.Generator, canvas: Canvas, other: Canvas) -> None:
    """Blend another canvas into one of equal size and add its instances whole.

    The share of each follows Beta(32, 32). Labels aren't weighted: each object is there (A233).

    Args:
        rng: gives the share.
        canvas: is changed.
        other: stays.
    """
    import cv2

    share = float(rng.beta(_ALPHA, _ALPHA))
    mixed = cv2.addWeighted(canvas.image, share, other.image, 1 - share, 0)
    canvas.image = np.asarray(mixed, dtype=np.uint8)
    canvas.instances += other.instances
