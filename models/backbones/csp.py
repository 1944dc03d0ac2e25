"""Cross-stage-partial backbone of YOLOv8 and its five scales.

The architecture follows the published network; the parameter counts of all five scales are equal
(docs/METHODS.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from models.backbones.csp_layers import Bottleneck, C2f, ConvNormAct
from models.backbones.in_channels import set_in_channels
from models.backbones.low_light import LowPassOptions, adaptive_filter
from models.backbones.norm import Norm, convert_norm
from models.ops.low_light.smooth_convolution import SmoothConv

ScaleName = Literal["n", "s", "m", "l", "x"]


@dataclass(frozen=True)
class Scale:
    """Depth and width of a network of the YOLOv8 family.

    Attributes:
        depth: factor on the repeats of a block, positive.
        width: factor on channels, positive.
        max_channels: upper limit of the channels before ``width`` is applied, at least 1.

    Raises:
        ValueError: a factor is not positive or ``max_channels`` is below 1.
    """

    depth: float
    width: float
    max_channels: int

    def __post_init__(self) -> None:
        if not (self.depth > 0 and self.width > 0 and self.max_channels >= 1):
            raise ValueError(
                "Scale needs depth > 0, width > 0 and max_channels >= 1, "
                f"got {self.depth}, {self.width} and {self.max_channels}"
            )

    def channels(self, base: int) -> int:
        """Return min(base, max_channels) x width, rounded up to a multiple of 8.

        >>> Scale(0.67, 0.75, 768).channels(1024)
        576
        """
        scaled = min(base, self.max_channels) * self.width
        return -int(-scaled // 8) * 8

    def repeats(self, base: int) -> int:
        """Return base x depth, rounded, at least 1.

        >>> [Scale(0.33, 0.25, 1024).repeats(base) for base in (1, 3, 6)]
        [1, 1, 2]
        """
        return max(round(base * self.depth), 1)


SCALES: dict[ScaleName, Scale] = {
    "n": Scale(depth=0.33, width=0.25, max_channels=1024),
    "s": Scale(depth=0.33, width=0.50, max_channels=1024),
    "m": Scale(depth=0.67, width=0.75, max_channels=768),
    "l": Scale(depth=1.00, width=1.00, max_channels=512),
    "x": Scale(depth=1.00, width=1.25, max_channels=512),
}


def named_scale(scale: ScaleName | Scale) -> Scale:
    """Return the scale with a given name; a ``Scale`` is returned unchanged.

    Raises:
        ValueError: no scale has that name.
    """
    if isinstance(scale, Scale):
        return scale
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)} or a Scale, got {scale!r}")
    return SCALES[scale]


class CSPBackbone(nn.Module):
    """Backbone with five downsampling stages, the last three of which give levels P3, P4, P5.

    ``forward`` takes (B, 3, H, W), sides multiples of 32, and returns three maps at strides 8, 16
    and 32 with ``feature_channels`` channels. Spatial pyramid pooling is part of the neck.

    Args:
        scale: name of a scale, or a ``Scale``.
        norm: normalisation of all layers.
        low_pass: low-pass layers for dark images; SCB is beside both 3 x 3 convolutions of every
            bottleneck (A488). None for none.
        in_channels: 3 for RGB, 4 for the planes R, Gr, B, Gb.

    Raises:
        ValueError: no scale has that name, or ``in_channels`` is another number.
    """

    feature_channels: tuple[int, int, int]

    def __init__(
        self,
        scale: ScaleName | Scale,
        norm: Norm = "bn",
        low_pass: LowPassOptions | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        size = named_scale(scale)
        c1, c2, c3, c4, c5 = (size.channels(base) for base in (64, 128, 256, 512, 1024))
        few, many = size.repeats(3), size.repeats(6)
        self.stem = ConvNormAct(3, c1, 3, stride=2)
        self.stage2 = _stage(c1, c2, few)
        self.stage3 = _stage(c2, c3, many)
        self.stage4 = _stage(c3, c4, many)
        self.stage5 = _stage(c4, c5, few)
        self.feature_channels = (c3, c4, c5)
        convert_norm(self, norm)
        self.awd = nn.ModuleDict()  # by the stage that follows
        if low_pass is not None:
            self._add_low_pass(low_pass, norm)
        set_in_channels(self, in_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of strides 8, 16 and 32."""
        levels = [self.stage2(self.stem(images))]
        for name in ("stage3", "stage4", "stage5"):
            before = self.awd[name](levels[-1]) if name in self.awd else levels[-1]
            levels.append(getattr(self, name)(before))
        return levels[1:]

    def _add_low_pass(self, options: LowPassOptions, norm: Norm) -> None:
        if options.scb:
            for block in [part for part in self.modules() if isinstance(part, Bottleneck)]:
                for layer in (block.first, block.second):
                    layer.conv = SmoothConv(layer.conv, options.init)
        if options.awd:
            for name in ("stage3", "stage4", "stage5"):
                first = getattr(self, name)[0].conv
                self.awd[name] = adaptive_filter(first.in_channels, options, norm)
                if options.placement == "stride":
                    first.stride = (1, 1)


def _stage(in_channels: int, out_channels: int, repeats: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(in_channels, out_channels, 3, stride=2),
        C2f(out_channels, out_channels, repeats, shortcut=True),
    )
