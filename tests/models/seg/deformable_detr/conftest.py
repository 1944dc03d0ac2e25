"""Small networks of transformers and ours with the same weights."""

import functools

import pytest
import torch

from models.backbones.timm_features import TimmFeatures
from models.seg.deformable_detr import DeformableDETR

CLASSES, QUERIES = 5, 12
SIZES = {"encoder_layers": 2, "decoder_layers": 3}
NARROW = {
    **SIZES,
    "d_model": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_queries": QUERIES,
    "two_stage_num_proposals": QUERIES,
    "num_labels": CLASSES,
    "auxiliary_loss": True,
}
VARIANTS = {
    "refined": {"with_box_refine": True},
    "fixed": {},
    "two stages": {"with_box_refine": True, "two_stage": True},
}


def build_ours(**options):
    """Return our network of the sizes of ``NARROW``, in eval mode."""
    given = {"num_queries": QUERIES, "width": 64, "num_heads": 4, "ffn": 96, **SIZES, **options}
    backbone = TimmFeatures("resnet18", "frozen_bn")
    return DeformableDETR(CLASSES, backbone, **given).eval()


@functools.cache
def build_theirs(variant, resnet="timm"):
    """Return the network of transformers with weights that leave nothing out, in eval mode."""
    hf = pytest.importorskip("transformers")
    options = {"backbone": "resnet18"}
    if resnet == "transformers":
        sizes = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
        own = {**sizes, "depths": [2, 2, 2, 2], "out_features": ["stage2", "stage3", "stage4"]}
        options = {"backbone_config": hf.ResNetConfig(**own), "use_timm_backbone": False}
    config = hf.DeformableDetrConfig(**NARROW, **VARIANTS[variant], **options)
    torch.manual_seed(5)
    network = hf.DeformableDetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
                value.uniform_(0.5, 1.5)
            elif ".bn" in name or "downsample.1" in name or "normalization" in name:
                value.uniform_(0.3, 0.7) if name.endswith("weight") else value.normal_(0, 0.1)
            elif name.startswith("model.backbone"):
                continue
            elif value.ndim == 2:
                torch.nn.init.xavier_uniform_(value)
            elif name.endswith("bias") or "bbox_embed" in name:
                value.add_(torch.randn(value.shape) * 0.1)
    return network


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


def our_options(variant):
    """Return the arguments of our network for a variant."""
    return {"box_refine": variant != "fixed", "two_stage": variant == "two stages"}
