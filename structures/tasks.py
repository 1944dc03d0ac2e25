"""What the label of a bag is, and with it what the logits of a model mean."""

from __future__ import annotations

from typing import Literal

MILTask = Literal[
    "binary", "multiclass", "multilabel", "cox", "discrete_time", "regression", "ordinal"
]

# The label is a class. The grades of ``ordinal`` are classes with an order, which it has instead.
CLASS_TASKS: frozenset[str] = frozenset({"binary", "multiclass", "multilabel"})
# The label is a time and whether the event happened then.
TIME_TASKS: frozenset[str] = frozenset({"cox", "discrete_time"})


def has_classes(task: MILTask) -> bool:
    """Return True if every label names classes: also grades, but neither times nor values.

    >>> [task for task in ("binary", "cox", "regression", "ordinal") if has_classes(task)]
    ['binary', 'ordinal']
    """
    return task in CLASS_TASKS or task == "ordinal"
