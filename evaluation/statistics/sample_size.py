"""Numbers of samples below which intervals and p-values are withheld (A451).

Beside 40 negative bags, 95 % intervals contain the true value .91 of the time with 5 positive ones,
.85 with 2 and .56 with 1 (A187), and a number that looks exact would be taken for evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from evaluation.mil.collector import BagScores
from evaluation.mil.metrics import BoolArray, IntArray
from structures import MILTask

FEWEST_BAGS = 10  # of each class; patients where they are known
FEWEST_IMAGES = 20

K = TypeVar("K")


def class_members(labels: IntArray, task: MILTask, num_classes: int) -> BoolArray:
    """Return (B, C) bool, True if a bag belongs to a class; a binary task has C = 2."""
    several = task == "multilabel"
    found: BoolArray = labels == 1 if several else labels[:, None] == np.arange(num_classes)
    return found


def units_per_class(
    scores: BagScores, task: MILTask, classes: Sequence[str] = (), groups: Sequence[str] = ()
) -> dict[str, int]:
    """Return the number of bags, or of patients if known, for each class that occurs.

    For a multilabel task, bags without each class are counted too.

    Args:
        scores: labels and predictions of B bags.
        task: task of the scores.
        classes: name of each class, or empty for their numbers.
        groups: (B,) the patient of each bag, or empty.
    """
    count = 2 if task == "binary" else scores.probabilities.shape[1]
    names = classes or [str(number) for number in range(count)]
    members = class_members(scores.labels, task, count)
    held = {f"class {name}": column for name, column in zip(names, members.T, strict=True)}
    if task == "multilabel":
        without = zip(names, ~members.T, strict=True)
        held |= {f"the rest of class {name}": column for name, column in without}
    unit = np.array(groups or scores.bag_ids)
    return {name: len(set(unit[column])) for name, column in held.items() if column.any()}


def too_few_bags(
    scores: BagScores, task: MILTask, classes: Sequence[str] = (), groups: Sequence[str] = ()
) -> str:
    """Return why intervals and p-values of bag metrics are withheld, or an empty string.

    Args:
        scores: see `units_per_class`.
        task: see `units_per_class`.
        classes: see `units_per_class`.
        groups: see `units_per_class`.
    """
    held = units_per_class(scores, task, classes, groups)
    rarest = min(held, key=lambda name: held[name])
    kind = "patient" if groups else "bag"
    return _reason(rarest, held[rarest], kind, FEWEST_BAGS, " of each class")


def too_few_units(holder: str, count: int, each: str, patients: bool = False) -> str:
    """Return why intervals and p-values are withheld, or an empty string.

    Args:
        holder: what has the fewest bags, such as ``grade 2`` or ``the event``.
        count: number of its bags, or patients.
        each: what needs as many as `FEWEST_BAGS`, to follow their number in the text.
        patients: whether patients are counted.
    """
    return _reason(holder, count, "patient" if patients else "bag", FEWEST_BAGS, f" {each}")


def too_few_images(count: int) -> str:
    """Return why intervals and p-values of image metrics are withheld, or an empty string.

    Args:
        count: number of annotated images.
    """
    return _reason("the ground truth", count, "image", FEWEST_IMAGES, "")


def withheld(names: Iterable[K]) -> dict[K, tuple[float, float]]:
    """Return an interval of NaN for each metric."""
    return dict.fromkeys(names, (float("nan"), float("nan")))


def _reason(holder: str, count: int, kind: str, fewest: int, each: str) -> str:
    if count >= fewest:
        return ""
    return (
        f"{holder} has {count} {kind}{'' if count == 1 else 's'}: intervals and p-values are "
        f"withheld, because with fewer than {fewest} {kind}s{each} they claim too much"
    )
