"""Copy-paste of objects between images (Ghiasi et al. 2021, arXiv 2012.07177, sec. 3)."""

from __future__ import annotations

import numpy as np

from datamodules.transforms.canvas import Canvas


def paste_objects(
    rng: np.random.Generator, canvas: Canvas, donor: Canvas, min_side: float, min_visible: float
) -> None:
    """Paste a random subset of the objects of a canvas onto another canvas of equal size.

    Each sufficiently visible object of the donor is pasted with probability one half (A229), except
    crowds. Pasted objects cover the masks below them.

    Args:
        rng: random generator; one number is drawn for each instance of the donor.
        canvas: canvas that is changed in place.
        donor: canvas that is not changed; it has its own scale, shift and mirroring.
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
