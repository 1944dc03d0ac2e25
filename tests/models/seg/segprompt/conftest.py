"""A small SegPrompt and the scenes that the tests of this folder share."""

import pytest
import torch

from models.backbones.timm_features import TimmFeatures
from models.seg.mask2former import Mask2Former
from models.seg.segprompt import SegPrompt

SMALL = {
    "num_queries": 6, "width": 32, "num_heads": 2, "encoder_layers": 1, "encoder_ffn": 32,
    "decoder_layers": 2, "decoder_ffn": 32, "num_points": 32,
}  # fmt: skip


def make_segprompt(classes=3, **options):
    torch.manual_seed(0)
    backbone = TimmFeatures("resnet10t", norm="frozen_bn", strides=(4, 8, 16, 32))
    prompting = {"prompt_categories": 3, "repeat": 2, "examples": 2}
    return SegPrompt(classes, backbone, **SMALL, **(prompting | options))


@pytest.fixture(scope="session")
def segprompt():
    return make_segprompt


@pytest.fixture(scope="session")
def plain():
    """Return a function that gives Mask2Former of one class with the weights of a SegPrompt."""

    def made(model):
        backbone = TimmFeatures("resnet10t", norm="frozen_bn", strides=(4, 8, 16, 32))
        other = Mask2Former(1, backbone, **SMALL)
        missing, more = other.load_state_dict(model.state_dict(), strict=False)
        assert not missing
        assert all(name.startswith("prompts.") for name in more)
        assert dict(other.named_parameters()).keys() <= dict(model.named_parameters()).keys()
        return other

    return made
