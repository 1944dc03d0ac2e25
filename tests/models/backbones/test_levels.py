"""Checks of the levels of a backbone."""

import pytest
import torch
from torch import nn

from models.backbones.levels import check_levels, level_channels


class Two(nn.Module):
    feature_channels = (8, 16)


def test_widths_are_those_that_the_backbone_declares():
    assert level_channels(Two(), (8, 16)) == (8, 16)
    message = r"Two .* of strides 8, 16 and 32 in feature_channels, but \(8, 16\); use TimmFeatures"
    with pytest.raises(ValueError, match=message):
        level_channels(Two(), (8, 16, 32))
    with pytest.raises(ValueError, match="Identity .* but None"):
        level_channels(nn.Identity(), (4, 8))


def test_levels_have_the_sizes_of_their_strides():
    levels = [torch.zeros(1, 2, 8, 4), torch.zeros(1, 2, 4, 2)]
    check_levels(levels, (64, 32), (8, 16), Two())
    message = r"Two must return levels of \[\(4, 2\), \(2, 1\)\] cells for an image of 64 x 32"
    with pytest.raises(ValueError, match=message):
        check_levels(levels, (64, 32), (16, 32), Two())
