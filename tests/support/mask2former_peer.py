"""Small Mask2Former models of ours and of ``transformers``, for comparison."""

import pytest
import torch

from models.backbones.lazy_timm import load_timm
from models.backbones.timm_features import TimmFeatures
from models.seg.mask2former import Mask2Former

CLASSES = 5
SIZES = {
    "num_queries": 12,
    "width": 64,
    "num_heads": 4,
    "encoder_layers": 2,
    "encoder_ffn": 48,
    "decoder_layers": 9,
    "decoder_ffn": 80,
}
SWIN = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}


def narrow_swin(pretrained=False, **options):
    """A Swin of windows of 7 x 7 with few channels, a model of timm by this name."""
    return load_timm().models.swin_transformer._create_swin_transformer(
        "swin_tiny_patch4_window7_224",
        pretrained=pretrained,
        **(SWIN | {"window_size": 7}),
        **options,
    )


def register_narrow_swin():
    """Let timm know ``narrow_swin``."""
    load_timm()
    from timm.models import is_model, register_model

    if not is_model("narrow_swin"):
        register_model(narrow_swin)


def ours(kind, seed=1, **changed):
    """Return a model of ours in eval mode.

    Args:
        kind: of the backbone, ``resnet``, ``timm`` (both are a ResNet-18) or ``swin``.
        seed: of the initial weights.
        **changed: arguments that differ from ``SIZES``.
    """
    register_narrow_swin()
    torch.manual_seed(seed)
    name = "narrow_swin" if kind == "swin" else "resnet18"
    features = TimmFeatures(name, strides=(4, 8, 16, 32))
    return Mask2Former(**({"num_classes": CLASSES, "backbone": features} | SIZES | changed)).eval()


def theirs(backbone, seed=0):
    """Return the model of ``transformers`` in eval mode, norms and biases drawn at random."""
    transformers = pytest.importorskip("transformers")
    stages = [f"stage{n}" for n in range(1, 5)]
    configs = {
        "resnet": lambda: transformers.ResNetConfig(
            embedding_size=64,
            hidden_sizes=[64, 128, 256, 512],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            out_features=stages,
        ),
        "timm": lambda: transformers.TimmBackboneConfig(
            backbone="resnet18", use_pretrained_backbone=False, out_indices=(1, 2, 3, 4)
        ),
        "swin": lambda: transformers.SwinConfig(**SWIN, window_size=7, out_features=stages),
    }
    config = transformers.Mask2FormerConfig(
        backbone_config=configs[backbone](),
        feature_size=SIZES["width"],
        mask_feature_size=SIZES["width"],
        hidden_dim=SIZES["width"],
        encoder_feedforward_dim=SIZES["encoder_ffn"],
        encoder_layers=SIZES["encoder_layers"],
        decoder_layers=SIZES["decoder_layers"] + 1,
        dim_feedforward=SIZES["decoder_ffn"],
        num_attention_heads=SIZES["num_heads"],
        num_queries=SIZES["num_queries"],
        num_labels=CLASSES,
    )
    torch.manual_seed(seed)
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    scatter(model, seed)
    return model


def scatter(model, seed):
    """Draw what the initialisation leaves at 0 or 1, and what batch norms measure."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator) if value.is_floating_point() else None
        if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
            value.copy_(1 + 0.2 * noise.clamp(-2, 2))
        elif noise is not None and (
            value.ndim == 1 or any(key in name for key in ("sampling_off", "attention_w", "bias_t"))
        ):
            value.add_(0.1 * noise)
