"""Outputs of Deformable DETR.

Letters: B images, Q queries, C width, K classes, S cells of the encoder.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from models.seg.deformable_detr.two_stage import Proposals


class Decoded(NamedTuple):
    """What the heads need: one tensor per decoder layer in each list.

    Attributes:
        queries: each (B, Q, C).
        references: each (B, Q, 2), the point (x, y) that the layer started from, as fractions of
            the valid area.
        boxes: each (B, Q, 4), (centre x, centre y, width, height) as fractions of the valid area.
        mask_features: (B, 8, H / 8, W / 8).
        proposals: of the encoder, None with a single stage.
    """

    queries: list[Tensor]
    references: list[Tensor]
    boxes: list[Tensor]
    mask_features: Tensor
    proposals: Proposals | None


class DETROutput(NamedTuple):
    """Predictions of every decoder layer, the first layer's first.

    Attributes:
        class_logits: each (B, Q, K), for a sigmoid.
        mask_logits: one element, (B, Q, H / 4, W / 4): the last layer's.
        boxes: each (B, Q, 4), (centre x, centre y, width, height) as fractions of the padded image.
        decoded: what the predictions were made from.
    """

    class_logits: list[Tensor]
    mask_logits: list[Tensor]
    boxes: list[Tensor]
    decoded: Decoded
