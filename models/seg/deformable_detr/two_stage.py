"""Queries from the encoder: two stages (arXiv 2010.04159, sec. 4.3 and appendix A.4).

Every cell of the encoder proposes a box around its centre, of 0.05 x 2^level of the image; the
boxes of the best scores become the references of the decoder, and their encoding its queries.

Letters: B images, S cells, Q queries, C width, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.ops.attention.sine_positions import sines
from models.seg.deformable_detr.layers import MLP
from models.seg.deformable_detr.pyramid import Cells

_SIDE = 0.05  # of the image, at the finest level
_BORDER = 0.01  # proposals nearer to 0 or 1 are left out


class Proposals(NamedTuple):
    """Proposals of all cells.

    Attributes:
        class_logits: (B, S, K), of which the first is that of an object.
        boxes: (B, S, 4), (centre x, centre y, width, height) as fractions of the valid area.
    """

    class_logits: Tensor
    boxes: Tensor


class Queries(NamedTuple):
    """Queries chosen from proposals: contents and positions (B, Q, C), references (B, Q, 4)."""

    contents: Tensor
    positions: Tensor
    references: Tensor


class ProposalHead(nn.Module):
    """Proposals of the cells, and the queries of the best.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)
        self.project_norm = nn.LayerNorm(width)
        self.query = nn.Linear(2 * width, 2 * width)
        self.query_norm = nn.LayerNorm(2 * width)

    def forward(
        self, memory: Tensor, cells: Cells, class_head: nn.Linear, box_head: MLP, number: int
    ) -> tuple[Proposals, Queries]:
        """Propose a box per cell and choose the best.

        Args:
            memory: (B, S, C), output of the encoder.
            cells: its input.
            class_head: scores of proposals.
            box_head: changes of their boxes, as logits.
            number: Q.

        Raises:
            ValueError: there are fewer cells than queries.
        """
        if memory.shape[1] < number:
            raise ValueError(
                f"two_stage chooses {number} queries among the cells of the encoder, but these "
                f"images have {memory.shape[1]}; use larger images or a smaller num_queries"
            )
        anchors, usable = _anchors(cells)
        # the logit of an anchor near 0 or 1 is replaced by infinity, its box by 1
        logits = torch.logit(anchors).masked_fill(~usable, torch.inf)
        seen = self.project_norm(self.project(memory.masked_fill(~usable, 0)))
        scores, boxes = class_head(seen), box_head(seen).to(logits.dtype) + logits
        best = scores[..., 0].topk(number, dim=1).indices[..., None].expand(-1, -1, 4)
        chosen = boxes.detach().gather(1, best).sigmoid()  # (B, Q, 4)
        encoded = sines(chosen, memory.shape[2] // 2).flatten(2)  # (B, Q, 2 C)
        positions, contents = self.query_norm(self.query(encoded)).chunk(2, dim=2)
        return Proposals(scores, boxes.sigmoid()), Queries(contents, positions, chosen)


def _anchors(cells: Cells) -> tuple[Tensor, Tensor]:
    """Return (B, S, 4) boxes around the centres of the cells and (B, S, 1), which are usable."""
    parts = []
    for level, (height, width) in enumerate(cells.shapes):
        ratio = cells.ratios[:, level, None, None]  # (B, 1, 1, 2)
        x = torch.arange(width, device=ratio.device) + 0.5
        y = torch.arange(height, device=ratio.device) + 0.5
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
        sides = torch.tensor([width, height], device=ratio.device)
        centres = grid / (ratio * sides)
        parts.append(torch.cat([centres, torch.full_like(centres, _SIDE * 2**level)], -1))
    boxes = torch.cat([part.flatten(1, 2) for part in parts], dim=1)
    inside = ((boxes > _BORDER) & (boxes < 1 - _BORDER)).all(dim=-1) & cells.valid
    return boxes, inside[..., None]
