"""Objects of one image pasted on another (Ghiasi et al. 2021, arXiv 2012.07177, sec. 3)."""

from __future__ import annotations

import numpy as np

from datamodules.transforms.canvas import Canvas


def paste_objects(
    rng: np.random.Generator, canvas: Canvas, donor: Canvas, min_side: float, min_visible: float
) -> None:
    """Paste a random subset of a canvas's objects on another of equal size.

    Each object that is sufficiently seen in the donor is taken with probability one half (A229);
    crowds never are. Pasted objects cover the masks that they fall upon.

    Args:
        rng: gives one number for each instance of the donor.
        canvas: is changed.
        donor: stays; drawn with its own scale, shift and mirroring.
        min_side: see ``Instance.is_visible``.
        min_visible: see ``Instance.is_visible``.
    """
    taken = (rng.uniform(size=len(donor.instances)) < 0.5).tolist()
    canvas.paste(
        donor.image,
        [
            thing
            for thing, chosen in zip(donor.instances, taken, strict=True)
            if chosen and not thing.crowd and thing.is_visible(min_side, min_visible)
        ],
    )
