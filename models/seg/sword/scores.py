"""Scores of SWORD's predictions: the class probability p and the predicted IoUs of box and mask.

    cls         p                        product     p u_box
    iou         u_box                    geometric   sqrt(p u_box), as UNINEXT's (arXiv 2303.06674)
                                         cube_root   cbrt(p u_box u_mask), as that of UDOS

Assumption A616.

Letters: B images, Q queries, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from models.ops.precision import at_least_float32

Score = Literal["cls", "iou", "product", "geometric", "cube_root"]


def score_logits(classes: Tensor, box: Tensor, mask: Tensor, score: Score) -> Tensor:
    """Return the logits of scores, computed from logarithms, so that no two scores become equal.

    Args:
        classes: (B, Q, K) logits of the classes.
        box: (B, Q, 1) logits of the IoU of the box.
        mask: (B, Q, 1) logits of the IoU of the mask.
        score: the formula.

    Returns:
        (B, Q, K), at least float32; the score is their sigmoid.

    >>> import torch
    >>> p, u = torch.tensor([[[0.9, 0.4]]]), torch.tensor([[[0.4]]])
    >>> score_logits(p.logit(), u.logit(), u.logit(), "geometric").sigmoid()
    tensor([[[0.6000, 0.4000]]])
    """
    if score == "cls":
        return at_least_float32(classes)
    if score == "iou":
        return at_least_float32(box).expand(classes.shape)
    parts = [classes, box, mask] if score == "cube_root" else [classes, box]
    logs = sum((F.logsigmoid(at_least_float32(part)) for part in parts), classes.new_zeros(()))
    log = logs if score == "product" else logs / len(parts)
    return log - (-log.expm1()).log()
