"""How the levels meet in the one-stage neck."""

import torch
import torch.nn.functional as F
from torch import nn

from models.backbones.csp import Scale
from models.seg.yolo.neck import PathAggregation

SCALE = Scale(depth=0.33, width=0.0625, max_channels=256)


def test_levels_meet_in_their_order():
    """With blocks that pass everything on, each output is a stack of the maps that met in it."""
    neck = PathAggregation((3, 5, 7), SCALE)
    for name in ("pool", "down4", "down3", "up4", "up5"):
        setattr(neck, name, nn.Identity())
    neck.halve3 = neck.halve4 = nn.AvgPool2d(2)
    p3, p4, p5 = (torch.rand(2, c, 24 // s, 16 // s) for c, s in ((3, 1), (5, 2), (7, 4)))
    n3, n4, n5 = neck([p3, p4, p5])

    def rows(values, times):  # nearest, written out
        return values.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)

    middle = torch.cat([rows(p5, 2), p4], dim=1)
    assert torch.equal(n3, torch.cat([rows(middle, 2), p3], dim=1))
    assert torch.equal(n4, torch.cat([F.avg_pool2d(n3, 2), middle], dim=1))
    assert torch.equal(n5, torch.cat([F.avg_pool2d(n4, 2), p5], dim=1))


def test_widths_are_those_of_the_scale_whatever_comes_in():
    neck = PathAggregation((3, 5, 7), SCALE)
    outputs = neck([torch.rand(1, c, 16 // s, 24 // s) for c, s in ((3, 1), (5, 2), (7, 4))])
    assert neck.out_channels == (16, 16, 16)
    assert [tuple(o.shape[1:]) for o in outputs] == [(16, 16, 24), (16, 8, 12), (16, 4, 6)]
