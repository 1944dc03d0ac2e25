"""Text of the counts of classes, for the lines that `fit` prints about its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SHOWN = 12  # classes that are listed


def class_counts(names: Sequence[str], counts: Sequence[int]) -> str:
    """Return each class with its count; of many classes the most frequent and the range of others.

    >>> class_counts(["benign", "tumour"], [3, 5])
    'benign 3, tumour 5'
    >>> class_counts([str(c) for c in range(20)], range(20, 0, -1))[-35:]
    '10 10, 11 9, and 8 others of 1 to 8'
    """
    order = list(range(len(names)))
    if len(names) <= _SHOWN:
        return ", ".join(f"{names[c]} {counts[c]}" for c in order)
    order.sort(key=lambda c: -counts[c])
    rest = [counts[c] for c in order[_SHOWN:]]
    listed = class_counts([names[c] for c in order[:_SHOWN]], [counts[c] for c in order[:_SHOWN]])
    return f"{listed}, and {len(rest)} others of {min(rest)} to {max(rest)}"


def describe_images(data: Any, split: str) -> str:
    """Return the numbers of images, objects and objects of each class of a split.

    Args:
        data: a `SegDataModule`.
        split: ``train``, ``val`` or ``test``.

    Returns:
        The text, without objects if their number is unknown; empty for a test split that is missing
        or of which nothing is known.
    """
    counts = data.object_counts(split)
    if counts is None:
        return "" if split == "test" else f"{len(data.source(split))} images"
    empty = int((counts.by_image == 0).sum())
    text = f"{len(counts.by_image)} images" + f" ({empty} without an object)" * bool(empty)
    classes = class_counts(data.class_names, counts.by_class.tolist())
    return f"{text}, {counts.by_class.sum()} objects; {classes}"
