"""Supervised contrastive loss, which attracts embeddings of a class and repels all others."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.precision import at_least_float32


def supervised_contrastive_loss(
    embeddings: Tensor, labels: Tensor, temperature: float = 0.1
) -> Tensor:
    """Return the mean over anchors of the loss of Khosla et al. 2020 (arXiv 2004.11362), eq. (2).

    With P(i) the other rows that have the label of row i, and I' the rows whose P(i) is not empty:

        L = 1/|I'| sum_{i in I'} -1/|P(i)| sum_{p in P(i)} log( exp(u_i.u_p / t)
                                                             / sum_{a != i} exp(u_i.u_a / t) )

    A row whose P(i) is empty is not an anchor, but remains a negative of other anchors.

    Args:
        embeddings: (I, M) u, of unit length.
        labels: (I,) classes, or (I, C) several labels per row, all of which have to agree (A124).
        temperature: t, positive.

    Returns:
        Scalar; 0, connected to the embeddings, where no row has a partner.

    >>> rows = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    >>> loss = supervised_contrastive_loss(rows, torch.tensor([4, 4, 2]), temperature=1.0)
    >>> round(loss.item(), 4)  # log(1 + 1/e)
    0.3133
    """
    embeddings = at_least_float32(embeddings)
    count = embeddings.shape[0]
    with torch.autocast(embeddings.device.type, enabled=False):
        similarity = embeddings @ embeddings.T / temperature  # (I, I)
    itself = torch.eye(count, dtype=torch.bool, device=embeddings.device)
    # The lowest finite number instead of minus infinity, so that a single row gives 0, not NaN.
    others = similarity.masked_fill(itself, torch.finfo(similarity.dtype).min)
    log_shares = others.log_softmax(dim=1)
    rows = labels.reshape(count, -1)
    partners = (rows.unsqueeze(0) == rows.unsqueeze(1)).all(dim=2) & ~itself  # (I, I)
    partners_of = partners.sum(dim=1)
    of_anchors = log_shares.masked_fill(~partners, 0.0).sum(dim=1) / partners_of.clamp(min=1)
    return -of_anchors.sum() / (partners_of > 0).sum().clamp(min=1)
