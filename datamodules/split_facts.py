"""Text of the counts of classes, for the lines that `fit` prints about its data."""

from __future__ import annotations

from collections.abc import Sequence

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
