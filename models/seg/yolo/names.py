"""Conversion of the weight names of YOLOv8-seg to those of `YOLOSeg`.

The original numbers its layers 0 to 22 in the order of the forward pass: 0 to 9 are the backbone
with its spatial pyramid pooling, 10 to 21 the neck (of which 12, 15, 16, 18, 19, 21 have weights)
and 22 is the head. A numbered layer corresponds to one module here, whose parts have the same order
and shapes. Derived by comparing names and shapes of the two networks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from models.backbones.csp import SCALES

_HEAD, _POOLING = 22, 9
_MODULES = {
    **{0: "backbone.stem", 9: "neck.pool", 12: "neck.down4", 15: "neck.down3"},
    **{16: "neck.halve3", 18: "neck.up4", 19: "neck.halve4", 21: "neck.up5"},
    **{n: f"backbone.stage{2 + (n - 1) // 2}.{(n - 1) % 2}" for n in range(1, 9)},
}
_BRANCHES = {
    **{"cv2.": "head.box.", "cv3.": "head.classes.", "cv4.": "head.coefficients."},
    **{"proto.cv1.": "head.prototypes.0.", "proto.upsample.": "head.prototypes.1."},
    **{"proto.cv2.": "head.prototypes.2.", "proto.cv3.": "head.prototypes.3."},
}
_CONSTANTS = "dfl."  # the bins 0 to 15, which are not parameters here
_NUMBERED = re.compile(r"(?:model\.)?(\d{1,3})\.(.+)")
_WIDTH_SHOWN_BY = ("neck.halve3.conv.weight", 256)  # its channels identify the scale


def is_original(names: Mapping[str, object]) -> bool:
    """Return whether weights have the names of the original, with numbered layers."""
    return bool(names) and all(_NUMBERED.fullmatch(name) for name in names)


def convert_name(name: str) -> str | None:
    """Return the name in `YOLOSeg` of a weight of the original, None without a counterpart.

    >>> convert_name("model.4.m.1.cv2.bn.weight")
    'backbone.stage3.1.chain.1.second.norm.weight'
    """
    numbered = _NUMBERED.fullmatch(name)
    if numbered is None:
        return None
    number, rest = int(numbered[1]), numbered[2].replace("bn.", "norm.")
    if number == _HEAD:
        key = next((key for key in _BRANCHES if rest.startswith(key)), None)
        return None if key is None else _BRANCHES[key] + rest.removeprefix(key)
    if number not in _MODULES:
        return None
    rest = re.sub(r"^m\.(\d+)\.cv1\.", r"chain.\1.first.", rest)
    rest = re.sub(r"^m\.(\d+)\.cv2\.", r"chain.\1.second.", rest)
    rest = re.sub(r"^cv1\.", "reduce." if number == _POOLING else "split.", rest)
    return f"{_MODULES[number]}.{re.sub(r'^cv2[.]', 'merge.', rest)}"


def convert_names(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the original.

    Args:
        given: weights by their original names, with or without ``model.`` before the number.
        own: weights of the network, which determine its scale.

    Returns:
        ``given`` with the names of `YOLOSeg`; weights without a counterpart keep their names, the
        16 constants are dropped. Shapes can differ from ``own``.

    Raises:
        ValueError: the weights belong to another family of networks or another scale, or were
            fused for inference.
    """
    numbers = {int(match[1]) for name in given if (match := _NUMBERED.fullmatch(name))}
    if max(numbers) != _HEAD:
        raise ValueError(
            f"its layers are numbered to {max(numbers)}, those of YOLOv8-seg to {_HEAD}: it is "
            "another kind of network"
        )
    if not any(".bn." in name for name in given):
        raise ValueError(
            "it has no batch norms: the network was fused for inference; use the unfused weights"
        )
    renamed = {
        convert_name(name) or name: value
        for name, value in given.items()
        if not _NUMBERED.fullmatch(name)[2].startswith(_CONSTANTS)  # type: ignore[index]
    }
    theirs, ours = _scale(renamed), _scale(own)
    if theirs and theirs != ours:
        raise ValueError(
            f"it seems to be of scale {theirs}, the model is of {ours}: give the model that scale"
        )
    return renamed


def _scale(weights: Mapping[str, Tensor]) -> str | None:
    name, base = _WIDTH_SHOWN_BY
    if name not in weights or not weights[name].ndim:
        return None
    channels = weights[name].shape[0]
    known = (scale for scale, size in SCALES.items() if size.channels(base) == channels)
    return next(known, f"another width ({channels} channels at stride 16)")
