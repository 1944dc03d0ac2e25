"""Swin at any size; equality with the authors' order is in the tests of Mask2Former."""

import copy

import pytest
import torch

from models.backbones.lazy_timm import load_timm
from models.backbones.shifted_windows import ShiftedWindowBlock, is_swin, pad_before_shift
from models.backbones.timm_body import body_levels
from models.backbones.timm_features import TimmFeatures
from tests.support.mask2former_peer import register_narrow_swin


@pytest.fixture(scope="module")
def pair():
    """timm's network and a copy whose windows are padded before the shift."""
    register_narrow_swin()
    torch.manual_seed(0)
    options = {"features_only": True, "strict_img_size": False, "always_partition": True}
    plain = load_timm().create_model("narrow_swin", **options).eval()
    for block in (module for module in plain.modules() if hasattr(module, "attn")):
        torch.nn.init.normal_(block.attn.relative_position_bias_table)
    changed = copy.deepcopy(plain)
    pad_before_shift(changed)
    return plain, changed


@torch.no_grad()
def test_it_equals_timm_where_nothing_is_padded_and_there_alone(pair):
    plain, changed = pair
    assert list(changed.state_dict()) == list(plain.state_dict())
    assert sum(isinstance(module, ShiftedWindowBlock) for module in changed.modules()) == 8
    whole, padded = torch.rand(1, 3, 224, 448), torch.rand(1, 3, 96, 160)
    for one, two in zip(plain(whole), changed(whole), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    for one, two in zip(plain(padded), changed(padded), strict=True):
        assert one.shape == two.shape
        assert float((one - two).abs().max()) > 1e-2


def test_levels_of_any_stride_and_norms_of_a_swin():
    register_narrow_swin()
    network = TimmFeatures("narrow_swin", strides=(4, 8, 16, 32), drop_path=0.3).eval()
    assert network.feature_channels == (24, 48, 96, 192)
    images = torch.rand(1, 3, 64, 96)
    levels = network(images)
    assert [tuple(level.shape) for level in levels] == [
        (1, 24, 16, 24),
        (1, 48, 8, 12),
        (1, 96, 4, 6),
        (1, 192, 2, 3),
    ]
    plain = body_levels(network.body, images)[1]
    expected = torch.nn.functional.layer_norm(plain.permute(0, 2, 3, 1), (48,))
    torch.testing.assert_close(levels[1].permute(0, 2, 3, 1), expected)
    assert not is_swin(TimmFeatures("resnet10t").body)


def test_strides_are_those_of_the_network():
    assert TimmFeatures("resnet10t", strides=(4, 8)).feature_channels == (64, 128)
    assert TimmFeatures("resnet10t").feature_channels == (128, 256, 512)
    with pytest.raises(ValueError, match="each twice the one before"):
        TimmFeatures("resnet10t", strides=(4, 16))
