"""Overlay of one image: its predictions above a score, and a legend that names their classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from callbacks.seg.frames import display_size, instances_in_frame
from evaluation.seg.draw import colour_of, draw_instances
from evaluation.seg.legend import Piece, with_legend
from structures import Instances

OVERLAY_SIDE = 1600  # longer images are reduced: text stays legible and files small (A342)


def draw_overlay(
    image: npt.NDArray[np.uint8],
    instances: Instances,
    class_names: Sequence[str],
    score: float,
    title: str = "",
) -> npt.NDArray[np.uint8]:
    """Draw predictions over an image, with a legend below it.

    Args:
        image: (h, w, 3) uint8 RGB, at any scale; reduced if it is longer than `OVERLAY_SIDE`.
        instances: predictions in the frame of the original image.
        class_names: name of each class, indexed by label.
        score: predictions with a lower score are not drawn.
        title: first words of the legend, such as the name of the file.

    Returns:
        (H, W, 3) uint8, a small image enlarged by an integer.
    """
    size = display_size((image.shape[0], image.shape[1]), OVERLAY_SIDE)
    if size != image.shape[:2]:
        image = np.asarray(Image.fromarray(image).resize(size[::-1], reducing_gap=2.0))
    shown = instances_in_frame(instances.select(instances.scores >= score), size)
    drawn = draw_instances(
        image, shown.boxes, shown.labels, shown.masks, class_names, scores=shown.scores
    )
    return with_legend(drawn, _pieces(shown.labels.tolist(), class_names, score, title))


def _pieces(
    labels: Sequence[int], class_names: Sequence[str], score: float, title: str
) -> list[Piece]:
    """Return the title, the number of objects, and each class that occurs with its own number."""
    found = f"{len(labels)} object{'s' * (len(labels) != 1)}" if labels else "no prediction"
    pieces: list[Piece] = [(title, None)] if title else []
    pieces.append((f"{found} with a score of {score:g} or more", None))
    one_class = len(class_names) == 1  # then colours tell instances apart
    for label, count in sorted(Counter(labels).items()):
        colour = None if one_class else colour_of(label)
        pieces.append((f"{class_names[label]} ({count})", colour))
    return pieces
