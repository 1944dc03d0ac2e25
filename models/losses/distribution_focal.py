"""Distribution Focal Loss (Li et al. 2020, arXiv 2006.04388, eq. 6)."""

from __future__ import annotations

from torch import Tensor

from models.ops.precision import at_least_float32

_BELOW_LAST = 0.01  # A213


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Return the cross-entropy of the two bins around each true distance, averaged over sides.

    DFL = -((y_{i+1} - y) log S_i + (y - y_i) log S_{i+1}) with y_i <= y < y_{i+1}; the bins are
    0, 1, ..., K - 1, S is the softmax over them. The loss is smallest where the expectation of the
    bins is y.

    Args:
        logits: (N, S K), side-major.
        distances: (N, S), true distances in bins; clamped to [0, K - 1.01] (A213).

    Returns:
        (N,) non-negative, at least float32.

    Raises:
        ValueError: ``logits`` do not have the same number of bins, at least 2, for each side.

    >>> import torch
    >>> distribution_focal_loss(torch.zeros(1, 16), torch.ones(1, 4))  # log 4
    tensor([1.3863])
    """
    sides, width = distances.shape[-1], logits.shape[-1]
    if width % sides or width // sides < 2:
        raise ValueError(f"{width} logits are not {sides} x bins, at least 2 bins each")
    by_side = at_least_float32(logits).reshape(*logits.shape[:-1], sides, width // sides)
    log_probs = by_side.log_softmax(dim=-1)
    place = at_least_float32(distances).clamp(min=0, max=width // sides - 1 - _BELOW_LAST)
    low = place.long().unsqueeze(-1)  # (N, S, 1)
    upper = place - low.squeeze(-1)
    at_low = log_probs.gather(-1, low).squeeze(-1)
    at_high = log_probs.gather(-1, low + 1).squeeze(-1)
    loss: Tensor = -((1 - upper) * at_low + upper * at_high).mean(dim=-1)
    return loss
