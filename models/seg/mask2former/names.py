"""Conversion of the weight names of ``transformers``' Mask2Former to those of `Mask2Former`.

``save_pretrained`` and ``state_dict`` name a Swin differently: files keep the names of version 4 of
the library. Backbones are the library's own ResNet and Swin, and networks of timm in its wrapper.
Queries, keys and values of an attention are three tensors there and one here. Derived by comparing
names and shapes of the networks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from formats.weights.compare import compare_weights, some_of
from formats.weights.public import PublicWeights, for_four_channels
from formats.weights.report import without_counters

_QUERIES: Final = "transformer_module.queries_features.weight"
_UNUSED = re.compile(
    r"criterion\..*|.*\.relative_position_index"  # constants
    r"|pixel_level_module\.encoder\.(swin\.)?layernorm\..*"  # norm of a classifier
)
# The head of the classes keeps its initial values where the number of classes differs (A555).
_HEAD: Final = "decoder.class_embed."
_PART = re.compile(r"(.*)#([012])")  # of a tensor of queries, keys and values

_Rule = tuple[str, str | Callable[[re.Match[str]], str]]
_MASK_FORMER: tuple[_Rule, ...] = (
    (r"^class_predictor\.", "decoder.class_embed."),
    (r"^transformer_module\.queries_embedder\.", "decoder.query_embed."),
    (r"^transformer_module\.queries_features\.", "decoder.query_feat."),
    (r"^transformer_module\.level_embed\.", "decoder.level_embed."),
    (r"^transformer_module\.decoder\.layernorm\.", "decoder.norm."),
    (
        r"^transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d+)\.0\.",
        lambda found: f"decoder.mask_embed.{2 * int(found[1])}.",
    ),
    (r"^transformer_module\.decoder\.layers\.", "decoder.layers."),
    (r"^(decoder\..*\.self_attn)\.q_proj\.", r"\1.in_proj_#0"),
    (r"^(decoder\..*\.self_attn)\.k_proj\.", r"\1.in_proj_#1"),
    (r"^(decoder\..*\.self_attn)\.v_proj\.", r"\1.in_proj_#2"),
    (r"in_proj_#(\d)(weight|bias)$", r"in_proj_\2#\1"),
    (r"^(decoder\..*)\.self_attn_layer_norm\.", r"\1.self_norm."),
    (r"^(decoder\..*)\.cross_attn_layer_norm\.", r"\1.cross_norm."),
    (r"^(decoder\..*)\.final_layer_norm\.", r"\1.norm."),
    (r"^pixel_level_module\.decoder\.input_projections\.", "pixel_decoder.projections."),
    (r"^pixel_level_module\.decoder\.mask_projection\.", "pixel_decoder.mask_features."),
    (r"^pixel_level_module\.decoder\.adapter_1\.", "pixel_decoder.lateral."),
    (r"^pixel_level_module\.decoder\.layer_1\.", "pixel_decoder.output."),
    (r"^pixel_level_module\.decoder\.(encoder\.)?", "pixel_decoder."),
    (r"^(pixel_decoder\..*)\.self_attn\.", r"\1."),
    (r"^(pixel_decoder\..*)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"^(pixel_decoder\..*)\.final_layer_norm\.", r"\1.norm2."),
    (r"^((?:pixel_)?decoder\..*)\.fc([12])\.", r"\1.linear\2."),
)
_BACKBONE: tuple[_Rule, ...] = (
    (r"^pixel_level_module\.encoder\.(_backbone\.|swin\.)?", "backbone.body."),
    # ResNet
    (r"^(backbone\.body)\.embedder\.embedder\.convolution\.", r"\1.conv1."),
    (r"^(backbone\.body)\.embedder\.embedder\.normalization\.", r"\1.bn1."),
    (
        r"^(backbone\.body)\.encoder\.stages\.(\d+)\.layers\.",
        lambda found: f"{found[1]}.layer{int(found[2]) + 1}.",
    ),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.(\d+)\.convolution\.", lambda found: f".conv{int(found[1]) + 1}."),
    (r"\.layer\.(\d+)\.normalization\.", lambda found: f".bn{int(found[1]) + 1}."),
    # Swin
    (r"\.embeddings\.patch_embeddings\.projection\.", ".patch_embed.proj."),
    (r"\.embeddings\.norm\.", ".patch_embed.norm."),
    (
        r"\.body\.hidden_states_norms\.stage(\d+)\.",
        lambda found: f".level_norms.{int(found[1]) - 1}.",
    ),
    (
        r"\.encoder\.layers\.(\d+)\.downsample\.",
        lambda found: f".layers_{int(found[1]) + 1}.downsample.",
    ),
    (r"\.encoder\.layers\.(\d+)\.", r".layers_\1."),
    (r"\.attention\.(self\.query|q_proj)\.(weight|bias)$", r".attn.qkv.\2#0"),
    (r"\.attention\.(self\.key|k_proj)\.(weight|bias)$", r".attn.qkv.\2#1"),
    (r"\.attention\.(self\.value|v_proj)\.(weight|bias)$", r".attn.qkv.\2#2"),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(self|relative_position_bias)\.", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)


def convert_name(name: str) -> str:
    """Return the name in `Mask2Former`; a third of a tensor ends in its number.

    >>> convert_name("model.transformer_module.decoder.layers.2.self_attn.k_proj.weight")
    'decoder.layers.2.self_attn.in_proj_weight#1'
    >>> convert_name("model.pixel_level_module.encoder.swin.encoder.layers.0.blocks.1.mlp.fc1.bias")
    'backbone.body.layers_0.blocks.1.mlp.fc1.bias'
    """
    name = name.removeprefix("model.")
    rules = _BACKBONE if name.startswith("pixel_level_module.encoder.") else _MASK_FORMER
    for pattern, now in rules:
        name = re.sub(pattern, now, name)
    return name


def transformers_weights(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> PublicWeights | None:
    """Convert weights of ``transformers``' Mask2FormerForUniversalSegmentation.

    Args:
        given: weights by the names on disk or in memory.
        own: ``state_dict`` of the model without layers that no file has. The head of the classes
            alone may have another shape.

    Returns:
        The weights, or None if the file has other names.

    Raises:
        ValueError: the file is of another size or architecture.
    """
    if not {_QUERIES, f"model.{_QUERIES}"} & given.keys():
        return None
    tensors = _joined(
        {
            convert_name(name): value
            for name, value in given.items()
            if not _UNUSED.fullmatch(name.removeprefix("model."))
        }
    )
    _check(tensors | for_four_channels(tensors, own), own)
    return PublicWeights("transformers' Mask2Former", tensors)


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the queries, keys and values of each attention; incomplete ones keep their names."""
    whole = {name: value for name, value in tensors.items() if not _PART.fullmatch(name)}
    for name in dict.fromkeys(found[1] for found in map(_PART.fullmatch, tensors) if found):
        names = [f"{name}#{n}" for n in range(3)]
        thirds = {third: tensors[third] for third in names if third in tensors}
        alike = len({tuple(third.shape) for third in thirds.values()}) == 1
        if len(thirds) == 3 and alike and next(iter(thirds.values())).ndim:
            whole[name] = torch.cat(list(thirds.values()))
        else:
            whole |= thirds
    return whole


def _check(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless the tensors are those of the model, but for the head."""
    missing, unexpected, mismatched = compare_weights(tensors, own)
    missing, unexpected = without_counters(missing), without_counters(unexpected)
    faults = [
        f"{name} is {theirs} in the file, {ours} in the model"
        for name, (theirs, ours) in mismatched.items()
        if not name.startswith(_HEAD)
    ]
    faults += [
        f"{name} {tuple(own[name].shape)} is not in the file"
        for name in missing
        if not name.startswith(_HEAD)
    ]
    faults += [f"{name} {tuple(tensors[name].shape)} is not in the model" for name in unexpected]
    if faults:
        raise ValueError(
            "it is a Mask2Former of another size, or with another backbone: " + some_of(faults, 4)
        )
