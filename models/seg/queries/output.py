"""Outputs of a model with object queries.

Letters: B images, Q queries, K classes, h x w cells of a mask.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class QueryOutput(NamedTuple):
    """Predictions of every supervised output, the first layer's first and the last layer's last.

    Attributes:
        class_logits: each (B, Q, K + 1) for a softmax whose last class is no object, or (B, Q, K)
            for a sigmoid.
        mask_logits: each (B, Q, h, w), before the sigmoid; only the last output's if the others
            have no masks of every query.
        boxes: each (B, Q, 4), (centre x, centre y, width, height) as fractions of the padded image;
            None for a model without boxes.
    """

    class_logits: list[Tensor]
    mask_logits: list[Tensor]
    boxes: list[Tensor] | None = None
