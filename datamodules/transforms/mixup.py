"""Mixup of two canvases (Zhang et al. 2018, arXiv 1710.09412)."""

from __future__ import annotations

import numpy as np

from datamodules.transforms.canvas import Canvas

_ALPHA = 32.0  # usual for one-stage detectors; the shares are near one half


def mix(rng: np.random.Generator, canvas: Canvas, other: Canvas) -> None:
    """Blend another canvas into a canvas of equal size and add all its instances.

    The share of each canvas follows Beta(32, 32). Labels are not weighted, because each object is
    present (A233).

    Args:
        rng: random generator of the share.
        canvas: canvas that is changed in place.
        other: canvas that is not changed.
    """
    import cv2

    share = float(rng.beta(_ALPHA, _ALPHA))
    mixed = cv2.addWeighted(canvas.image, share, other.image, 1 - share, 0)
    canvas.image = np.asarray(mixed, dtype=np.uint8)
    canvas.instances += other.instances
