"""Conversion of published EoMT weights: the authors' checkpoints and those of `transformers`.

The authors' networks stand below ``network.``, the transformer in it below ``encoder.backbone.`` by
timm's names. `transformers` has names of its own, in files and in memory the same, and separate
projections of queries, keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

_BODY: Final = "backbone.body."
_AUTHORS: Final = (
    (re.compile(r"encoder\.backbone\.(.*)"), _BODY + r"\1"),
    (re.compile(r"q\.weight"), "query.weight"),
)
_TRANSFORMERS: Final = (
    (re.compile(r"embeddings\.cls_token"), _BODY + "cls_token"),
    (re.compile(r"embeddings\.register_tokens"), _BODY + "reg_token"),
    (re.compile(r"embeddings\.patch_embeddings\.projection\.(.*)"), _BODY + r"patch_embed.proj.\1"),
    (re.compile(r"embeddings\.position_embeddings\.weight"), _BODY + "pos_embed"),
    (re.compile(r"layernorm\.(.*)"), _BODY + r"norm.\1"),
    (re.compile(r"layers\.(\d+\.)attention\.out_proj\.(.*)"), _BODY + r"blocks.\1attn.proj.\2"),
    (re.compile(r"layers\.(\d+\.)layer_scale(\d)\.lambda1"), _BODY + r"blocks.\1ls\2.gamma"),
    (re.compile(r"layers\.(\d+\.)mlp\.(?:weights_in|fc1)\.(.*)"), _BODY + r"blocks.\1mlp.fc1.\2"),
    (
        re.compile(r"layers\.(\d+\.)mlp\.(?:weights_out|down_proj|fc2)\.(.*)"),
        _BODY + r"blocks.\1mlp.fc2.\2",
    ),
    (re.compile(r"layers\.(.*)"), _BODY + r"blocks.\1"),
    (re.compile(r"upscale_block\.block\.(\d+)\.layernorm2d\.(.*)"), r"upscale.\1.norm.\2"),
    (re.compile(r"upscale_block\.block\.(.*)"), r"upscale.\1"),
    (re.compile(r"mask_head\.fc1\.(.*)"), r"mask_head.0.\1"),
    (re.compile(r"mask_head\.fc2\.(.*)"), r"mask_head.2.\1"),
    (re.compile(r"mask_head\.fc3\.(.*)"), r"mask_head.4.\1"),
    (re.compile(r"class_predictor\.(.*)"), r"class_head.\1"),
)
# Parts of `transformers`' linear layers that timm has in one, first to last.
_JOINED: Final = (
    (re.compile(r"(.*)\.attention\.q_proj\.(.*)"), ("q_proj", "k_proj", "v_proj"), "attn.qkv"),
    (re.compile(r"(.*)\.mlp\.gate_proj\.(.*)"), ("gate_proj", "up_proj"), "mlp.fc1"),
)
_UNUSED: Final = ("criterion.empty_weight", "encoder.pixel_mean", "encoder.pixel_std")


def published_names(given: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
    """Rename published weights.

    Args:
        given: weights by the names in the file.

    Returns:
        What the file is, and the weights by the names of `EoMT`, with the shares of masked queries
        as ``attn_mask_probs``, floats; None if the file is of another kind.
    """
    plain = {name.removeprefix("network."): value for name, value in given.items()}
    plain = {name: value for name, value in plain.items() if not name.startswith(_UNUSED)}
    if {"q.weight", "encoder.backbone.pos_embed"} <= plain.keys():
        return "EoMT of the authors", {_renamed(n, _AUTHORS): v for n, v in plain.items()}
    if not {"query.weight", "embeddings.position_embeddings.weight"} <= plain.keys():
        return None
    found = {_renamed(n, _TRANSFORMERS): v for n, v in _joined(plain).items()}
    found[_BODY + "pos_embed"] = found[_BODY + "pos_embed"][None]  # (N, D) in the file
    if not found.get(_BODY + "reg_token", torch.ones(1)).numel():
        del found[_BODY + "reg_token"]
    return "EoMT of transformers", found


def _renamed(name: str, table: tuple[tuple[re.Pattern[str], str], ...]) -> str:
    for pattern, ours in table:
        if pattern.fullmatch(name):
            return pattern.sub(ours, name)
    return name


def _joined(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with the parts of each packed layer side by side."""
    found = dict(given)
    for pattern, parts, ours in _JOINED:
        for name in given:
            match = pattern.fullmatch(name)
            if match is None:
                continue
            names = [name.replace(f".{parts[0]}.", f".{part}.") for part in parts]
            if all(part in found for part in names):
                packed = torch.cat([found.pop(part) for part in names])
                found[f"{match[1]}.{ours}.{match[2]}"] = packed
    return found
