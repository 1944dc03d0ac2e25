"""Widths, depths and strides of the one-stage network's backbone."""

import pytest
import torch

from models.backbones.csp import SCALES, CSPBackbone, Scale, named_scale

# Channels of P3, P4, P5 and blocks of the stages of the published networks.
PUBLISHED = {
    "n": ((64, 128, 256), (1, 2, 2, 1)),
    "s": ((128, 256, 512), (1, 2, 2, 1)),
    "m": ((192, 384, 576), (2, 4, 4, 2)),
    "l": ((256, 512, 512), (3, 6, 6, 3)),
    "x": ((320, 640, 640), (3, 6, 6, 3)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_widths_and_depths(name):
    channels, repeats = PUBLISHED[name]
    with torch.device("meta"):
        backbone = CSPBackbone(name)
        levels = backbone(torch.empty(1, 3, 64, 96))
    assert backbone.feature_channels == channels
    assert [tuple(level.shape[1:]) for level in levels] == [
        (c, 64 // stride, 96 // stride) for c, stride in zip(channels, (8, 16, 32), strict=True)
    ]
    assert tuple(SCALES[name].repeats(base) for base in (3, 6, 6, 3)) == repeats


@pytest.mark.parametrize(
    ("width", "base", "channels"), [(0.25, 32, 8), (0.25, 33, 16), (0.3, 64, 24), (2.0, 100, 160)]
)
def test_widths_are_rounded_up_to_eights_after_the_cut(width, base, channels):
    assert Scale(depth=1.0, width=width, max_channels=80).channels(base) == channels


def test_wrong_scales():
    assert named_scale("n") is SCALES["n"]
    with pytest.raises(ValueError, match="one of n, s, m, l, x or a Scale, got 'q'"):
        named_scale("q")
    for wrong in ({"depth": 0.0}, {"width": -1.0}, {"max_channels": 0}):
        with pytest.raises(ValueError, match="depth > 0, width > 0 and max_channels >= 1"):
            Scale(**({"depth": 1.0, "width": 1.0, "max_channels": 64} | wrong))
