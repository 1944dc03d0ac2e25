"""The slides in bags: which instances of a bag are of which slide, and where they lie."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from structures import BagBatch


class SlidePart(NamedTuple):
    """The n instances of a bag that are of one slide; they follow one another.

    Attributes:
        slide: id of the slide.
        rows: their places in the bag.
        coords: (n, 2) level-0 pixels (x, y), or None.
        patch_side: side of a patch in level-0 pixels, if the file of the features states it.
    """

    slide: str
    rows: slice
    coords: npt.NDArray[Any] | None = None
    patch_side: float | None = None


def slide_source(datamodule: Any, split: str) -> Any:
    """Return the bags of a split if they are of slides, else None.

    Args:
        datamodule: of a run on bags, or None.
        split: ``val``, ``test`` or ``predict``.
    """
    source: Any = datamodule.source(split) if hasattr(datamodule, "source") else None
    return source if hasattr(source, "slides") else None


def slide_parts(source: Any, bags: BagBatch, position: int) -> tuple[SlidePart, ...]:
    """Return the slides of a bag in the order of its instances, without those of no instance.

    A bag whose slides have not all coordinates comes without any; they are then read from the
    files that have them.

    Args:
        source: the bags of a data set of slides, or None.
        bags: a batch of them, perhaps with a part of the instances.
        position: of the bag in the batch.
    """
    if source is None:
        return ()
    number = int(bags.index[position])
    start, end = bags.offsets[position : position + 2].tolist()
    instances = bags.numbers()[start:end].cpu().numpy()  # of the whole bag
    slides, owner = source.slides(number), source.slide_numbers(number)
    of_slide = owner[instances]
    # In a batch, floating-point coordinates of one slide make those of all slides so.
    alone = bags.coords is None or bags.coords.is_floating_point()
    single = source.coords(number) if alone else None
    places = None if bags.coords is None else bags.coords[start:end].cpu().numpy()
    parts = []
    for k, slide in enumerate(slides):
        first, last = np.searchsorted(of_slide, [k, k + 1]).tolist()
        if first == last:
            continue
        rows, own = slice(first, last), None
        if single is None:
            own = None if places is None else places[rows].copy()
        elif single[k] is not None:
            begin = int(np.searchsorted(owner, k))
            own = single[k].numpy()[instances[rows] - begin]
        parts.append(SlidePart(slide.name, rows, own, slide.header.patch_side))
    return tuple(parts)
