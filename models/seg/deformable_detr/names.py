"""Conversion of what transformers writes for DeformableDetrForObjectDetection to `DeformableDETR`.

``save_pretrained`` writes older names than ``state_dict()`` has (``self_attn.out_proj``, ``fc1`` on
disk, ``self_attn.o_proj`` and ``mlp.fc1`` in memory); both are read, with a ResNet of timm or of
transformers as the backbone. Heads that are shared are written once, or once per layer: a single
class head serves all layers (A565).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from formats.weights.public import PublicWeights

_REMEDY: Final = "give the model the file's backbone, width, layers and queries"
_KNOWN: Final = ("model.level_embed", "model.input_proj.0.0.weight")
_RENAMED = tuple(
    (re.compile(pattern), now)
    for pattern, now in (
        (r"model\.backbone\.(?:conv_encoder\.)?model\.", "backbone.body."),
        (r"model\.level_embed", "pyramid.level_embed"),
        (r"model\.input_proj\.", "pyramid.projections."),
        (r"model\.query_position_embeddings\.", "query_embed."),
        (r"model\.reference_points\.", "reference_points."),
        (r"model\.enc_output\.", "proposal_head.project."),
        (r"model\.enc_output_norm\.", "proposal_head.project_norm."),
        (r"model\.pos_trans\.", "proposal_head.query."),
        (r"model\.pos_trans_norm\.", "proposal_head.query_norm."),
        (r"model\.encoder\.layers\.(\d+)\.self_attn\.", r"encoder.\1.attention."),
        (r"model\.encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.\1.attention_norm."),
        (r"model\.decoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"decoder.\1.self_norm."),
        (r"model\.decoder\.layers\.(\d+)\.encoder_attn\.", r"decoder.\1.cross_attention."),
        (r"model\.decoder\.layers\.(\d+)\.encoder_attn_layer_norm\.", r"decoder.\1.cross_norm."),
        (
            r"model\.decoder\.layers\.(\d+)\.self_attn\.(?:o|out)_proj\.",
            r"decoder.\1.self_attention.out_proj.",
        ),
        (r"model\.(en|de)coder\.layers\.(\d+)\.(?:mlp\.)?fc1\.", r"\1coder.\2.ffn.0."),
        (r"model\.(en|de)coder\.layers\.(\d+)\.(?:mlp\.)?fc2\.", r"\1coder.\2.ffn.3."),
        (r"model\.(en|de)coder\.layers\.(\d+)\.final_layer_norm\.", r"\1coder.\2.ffn_norm."),
    )
)
_QUERY_KEY_VALUE = re.compile(r"model\.decoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)")
_HEAD = re.compile(r"(?:model\.decoder\.)?(class|bbox)_embed\.(\d+)\.(.+)")
_HEADS = {"class": "class_heads", "bbox": "box_heads"}
_RESNET = tuple(
    (re.compile(r"backbone\.body\." + pattern), "backbone.body." + now)
    for pattern, now in (
        (r"embedder\.embedder\.convolution\.", "conv1."),
        (r"embedder\.embedder\.normalization\.", "bn1."),
    )
)
_RESNET_BLOCK = re.compile(
    r"backbone\.body\.encoder\.stages\.(\d+)\.layers\.(\d+)\."
    r"(?:layer\.(\d+)|shortcut)\.(convolution|normalization)\.(\w+)"
)


def convert_name(name: str) -> str:
    """Return our name of a tensor; heads and the projections of self-attention keep theirs.

    >>> convert_name("model.encoder.layers.0.fc1.weight")
    'encoder.0.ffn.0.weight'
    >>> convert_name("model.backbone.model.encoder.stages.1.layers.0.shortcut.convolution.weight")
    'backbone.body.layer2.0.downsample.0.weight'
    """
    for pattern, now in _RENAMED:
        if pattern.match(name):
            return _resnet_name(pattern.sub(now, name, count=1))
    return name


def transformers_weights(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> PublicWeights | None:
    """Convert the weights of a file of transformers.

    Args:
        given: weights by the names in the file.
        wanted: ``state_dict`` of the model.

    Returns:
        The weights, or None if the file has other names.

    Raises:
        ValueError: the file is of another variant or size of the network. Another number of classes
            is none; its class heads are left out by whoever loads the weights.
    """
    if not given.keys() >= set(_KNOWN):
        given = {f"model.{name}": value for name, value in given.items()}  # taken off by the reader
    if not given.keys() >= set(_KNOWN):
        return None
    _check_variant(given, wanted)
    tensors: dict[str, Tensor] = {}
    heads: dict[str, dict[int, dict[str, Tensor]]] = {"class": {}, "bbox": {}}
    for name, value in given.items():
        head = _HEAD.fullmatch(name)
        if head is not None:
            heads[head[1]].setdefault(int(head[2]), {})[head[3]] = value
        elif _QUERY_KEY_VALUE.fullmatch(name) is None:
            tensors[convert_name(name)] = value
    tensors |= _self_attention(given)
    for kind, found in heads.items():
        tensors |= _spread(_HEADS[kind], found, wanted)
    _check_sizes(tensors, wanted)
    return PublicWeights("transformers' Deformable DETR", tensors)


def _resnet_name(name: str) -> str:
    """Return timm's name for a tensor of transformers' ResNet."""
    block = _RESNET_BLOCK.fullmatch(name)
    if block is not None:
        stage, layer, number, kind, leaf = block.groups()
        conv = kind == "convolution"
        own = f"downsample.{0 if conv else 1}"
        if number is not None:
            own = f"{'conv' if conv else 'bn'}{int(number) + 1}"
        return f"backbone.body.layer{int(stage) + 1}.{layer}.{own}.{leaf}"
    for pattern, now in _RESNET:
        name = pattern.sub(now, name)
    return name


def _self_attention(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the projections of query, key and value of each layer as one tensor."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in given.items():
        found = _QUERY_KEY_VALUE.fullmatch(name)
        if found is not None:
            own = f"decoder.{found[1]}.self_attention.in_proj_{found[3]}"
            parts.setdefault(own, {})[found[2]] = value
    return {
        name: torch.cat([each[letter] for letter in "qkv"])
        for name, each in parts.items()
        if each.keys() == set("qkv")
    }


def _spread(
    name: str, found: Mapping[int, Mapping[str, Tensor]], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the heads of all layers; one that is alone serves all."""
    number = 1 + max(int(key.split(".")[1]) for key in wanted if key.startswith(f"{name}."))
    layers = range(number) if len(found) == 1 or number == 1 else sorted(found)
    return {
        f"{name}.{layer}.{leaf}": value
        for layer in layers
        for leaf, value in found.get(layer, found.get(0, {})).items()
    }


def _check_variant(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    refined = any(name.startswith("model.decoder.bbox_embed.") for name in given)
    ours = "box_heads.1.layers.0.weight" in wanted
    if refined != ours and "decoder.1.ffn.0.weight" in wanted:
        raise ValueError(
            f"it {'has' if refined else 'lacks'} a box head per layer "
            f"(model.decoder.bbox_embed.1); use box_refine: {str(refined).lower()}"
        )
    staged = "model.enc_output.weight" in given
    ours = "proposal_head.project.weight" in wanted
    if staged != ours:
        raise ValueError(
            f"it {'has' if staged else 'lacks'} the proposals of two stages "
            f"(model.enc_output.weight); use two_stage: {str(staged).lower()}"
        )


def _check_sizes(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that everything but masks, counters and class heads is there and fits."""
    counter = "num_batches_tracked"
    for name, value in wanted.items():
        if name.startswith("mask_head.") or name.endswith(counter):
            continue
        if name not in tensors:
            raise ValueError(f"it lacks {name} {tuple(value.shape)} of the model; {_REMEDY}")
        shapes = (tuple(tensors[name].shape), tuple(value.shape))
        if shapes[0] != shapes[1] and not name.startswith("class_heads."):
            raise ValueError(
                f"{name} is {shapes[0]} in the file and {shapes[1]} in the model; {_REMEDY}"
            )
    for name in sorted(tensors.keys() - wanted.keys()):
        if not name.endswith(counter):
            shape = tuple(tensors[name].shape)
            raise ValueError(f"it has {name} {shape}, which the model lacks; {_REMEDY}")
