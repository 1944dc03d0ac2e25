"""Masks that cover no pixel, of which nothing can be learnt and which nothing can find."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from formats.coco.store import AnnotationStore
from structures import Problem
from structures.problem import EXAMPLES


def empty_masks(file: Path, split: str, store: AnnotationStore) -> tuple[Problem | None, str]:
    """Count the objects of a split whose mask has no pixel.

    Args:
        file: the file that declares the split, for the messages.
        split: ``train``, ``val`` or ``test``.
        store: annotations of the split.

    Returns:
        A problem if no object that is to be learnt or scored has a pixel, and a note about single
        ones, with their number and three examples, or nothing.  # A442
    """
    objects = ~store.crowd
    empty = objects & (store.pixels == 0)
    count, total = int(empty.sum()), int(objects.sum())
    if count == 0:
        return None, ""
    if count == total and split != "test":
        use = "learnt" if split == "train" else "scored"
        reason = f"none of the {total} masks of {split} covers a pixel: nothing can be {use}"
        remedy = "write coordinates in pixels of the image, or export larger masks"
        return Problem(file, None, None, reason, remedy), ""
    owners = np.repeat(np.arange(len(store)), np.diff(store.offsets))
    shown = np.flatnonzero(empty)[:EXAMPLES]
    examples = ", ".join(f"{store.ids[k]} of {store.name(owners[k])}" for k in shown)
    return None, (
        f"{file}: {count} of {total} annotations of {split} have a mask without a pixel, such as "
        f"{examples}; they are not learnt, and count as missed"
    )
