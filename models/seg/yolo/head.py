"""Head of the one-stage network with decoupled branches (YOLOX, arXiv 2107.08430) and prototypes.

Each level has a branch for boxes as bins of side distances (Li et al. 2020, arXiv 2006.04388), one
for classes and one for mask coefficients; prototypes are YOLACT's (Bolya et al. 2019,
arXiv 1904.02689), from the finest level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.backbones.csp_layers import ConvNormAct
from models.seg.yolo.output import NUM_SIDES, YOLOOutput

STRIDES = (8, 16, 32)
_REFERENCE_SIDE, _OBJECTS_PER_IMAGE = 640, 5  # for the initial class scores
_BOX_BIAS = 1.0


class YOLOHead(nn.Module):
    """Class, box and coefficient branches of three levels, and the prototypes.

    With c the channels of N3, a branch is two 3x3 convolutions and a biased 1x1 one; widths are
    max(16, c / 4, 4 bins) for boxes, max(c, min(classes, 100)) for classes, and
    max(c / 4, prototypes) for coefficients. The initial probability of every class is
    5 / classes / (640 / stride)^2, as for an image of 640 x 640 with five objects (A201).

    Args:
        in_channels: channels of N3, N4, N5.
        num_classes: foreground classes.
        prototype_width: hidden channels of the prototype branch.
        num_bins: number of bins per side.
        num_prototypes: number of prototype masks.
    """

    def __init__(
        self,
        in_channels: tuple[int, int, int],
        num_classes: int,
        prototype_width: int,
        num_bins: int = 16,
        num_prototypes: int = 32,
    ) -> None:
        super().__init__()
        finest = in_channels[0]
        box_width = max(16, finest // 4, NUM_SIDES * num_bins)
        class_width = max(finest, min(num_classes, 100))
        coefficient_width = max(finest // 4, num_prototypes)
        self.box = _branches(in_channels, box_width, NUM_SIDES * num_bins)
        self.classes = _branches(in_channels, class_width, num_classes)
        self.coefficients = _branches(in_channels, coefficient_width, num_prototypes)
        self.prototypes = nn.Sequential(
            ConvNormAct(finest, prototype_width, 3),
            nn.ConvTranspose2d(prototype_width, prototype_width, kernel_size=2, stride=2),
            ConvNormAct(prototype_width, prototype_width, 3),
            ConvNormAct(prototype_width, num_prototypes),
        )
        self._start_biases(num_classes)

    def forward(self, levels: list[Tensor]) -> YOLOOutput:
        """Return the outputs of all cells of N3, N4, N5 in that order, row by row."""
        points, strides = anchor_points([tuple(level.shape[-2:]) for level in levels], levels[0])
        return YOLOOutput(
            class_logits=_by_anchor(self.classes, levels),
            box_logits=_by_anchor(self.box, levels),
            coefficients=_by_anchor(self.coefficients, levels),
            prototypes=self.prototypes(levels[0]),
            points=points,
            strides=strides,
        )

    @torch.no_grad()
    def _start_biases(self, num_classes: int) -> None:
        for stride, box, classes in zip(STRIDES, self.box, self.classes, strict=True):
            cells = (_REFERENCE_SIDE / stride) ** 2
            box[-1].bias.fill_(_BOX_BIAS)  # type: ignore[index]  # a Sequential in a ModuleList
            classes[-1].bias.fill_(  # type: ignore[index]
                math.log(_OBJECTS_PER_IMAGE / num_classes / cells)
            )


def anchor_points(sizes: list[tuple[int, ...]], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cell centres of the levels of strides 8, 16, 32, row by row, and their strides.

    Args:
        sizes: (height, width) of each level in cells.
        like: tensor on the target device.

    Returns:
        (A, 2) float32 points (x, y) in pixels and (A,) float32 strides in pixels; both exact.
    """
    points, strides = [], []
    for stride, (height, width) in zip(STRIDES, sizes, strict=True):
        y = torch.arange(height, dtype=torch.float32, device=like.device) + 0.5
        x = torch.arange(width, dtype=torch.float32, device=like.device) + 0.5
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack((columns, rows), dim=-1).flatten(0, 1) * stride)
        strides.append(torch.full_like(points[-1][:, 0], stride))
    return torch.cat(points), torch.cat(strides)


def _branches(in_channels: tuple[int, int, int], width: int, outputs: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Sequential(
            ConvNormAct(channels, width, 3),
            ConvNormAct(width, width, 3),
            nn.Conv2d(width, outputs, kernel_size=1),
        )
        for channels in in_channels
    )


def _by_anchor(branches: nn.ModuleList, levels: list[Tensor]) -> Tensor:
    maps = [branch(level) for branch, level in zip(branches, levels, strict=True)]
    return torch.cat([values.permute(0, 2, 3, 1).flatten(1, 2) for values in maps], dim=1)
