"""What the names of logged metrics say about their values."""

from __future__ import annotations

import re
from typing import Literal


def best_of(name: str) -> Literal["max", "min"] | None:
    """Return which value of a metric is its best; None where that means nothing.

    >>> best_of("val/segm_map_50"), best_of("val/loss_mask"), best_of("lr-AdamW")
    ('max', 'min', None)
    """
    if re.match(r"(train|val)/loss", name):
        return "min"
    return "max" if re.match(r"val/(segm_|box_|bag_|witness_)", name) else None
