"""Conversion of torchvision's published Mask R-CNN weights to `MaskRCNN`.

Files of version 1 have the names of torchvision before 0.13, which torchvision itself renames when
it loads them: the convolutions of proposal head, pyramid and mask head were not parts of blocks.
Files of version 2 have today's names. Both have 91 outputs: the background and COCO's ids 1 to 90,
of which 80 are categories. The norms of version 1 were trained with eps 0 (A302, A303).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from formats.weights.public import PublicWeights

_SCORES: Final = "roi_heads.box_predictor.cls_score.weight"
_FIRST_CONV: Final = "backbone.body.conv1.weight"
_RENAMED = (
    (re.compile(r"rpn\.head\.conv\.(weight|bias)"), r"rpn.head.conv.0.0.\1"),
    (
        re.compile(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(weight|bias)"),
        r"backbone.fpn.\1_blocks.\2.0.\3",
    ),
)
_MASK_CONV = re.compile(r"roi_heads\.mask_head\.mask_fcn([1-9])\.(weight|bias)")
_COCO_OUTPUTS, _COCO_CLASSES = 91, 80
_COCO_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ids without a category, of 1 to 90
# Tensors with a row, or four for the sides of a box, for each output.
_ROWS = {
    **dict.fromkeys((_SCORES, "roi_heads.box_predictor.cls_score.bias"), 1),
    **{f"roi_heads.box_predictor.bbox_pred.{leaf}": 4 for leaf in ("weight", "bias")},
    **{f"roi_heads.mask_predictor.mask_fcn_logits.{leaf}": 1 for leaf in ("weight", "bias")},
}


def convert_name(name: str) -> str:
    """Return today's name of a tensor.

    >>> convert_name("roi_heads.mask_head.mask_fcn2.bias")
    'roi_heads.mask_head.1.0.bias'
    >>> convert_name("rpn.head.conv.weight")
    'rpn.head.conv.0.0.weight'
    """
    for pattern, now in _RENAMED:
        if pattern.fullmatch(name):
            return pattern.sub(now, name)
    mask = _MASK_CONV.fullmatch(name)
    return name if mask is None else f"roi_heads.mask_head.{int(mask[1]) - 1}.0.{mask[2]}"


def torchvision_weights(
    given: Mapping[str, Tensor], num_classes: int, rpn_convs: int
) -> PublicWeights | None:
    """Convert weights of torchvision's Mask R-CNN or Faster R-CNN.

    Args:
        given: weights by the names in the file.
        num_classes: foreground classes of the model; with 80, COCO's 91 outputs are reduced.
        rpn_convs: convolutions of the model's proposal head, which tell the versions apart.

    Returns:
        The weights, or None if the file has other names.

    Raises:
        ValueError: the file is of the other version.
    """
    if not given.keys() >= {_SCORES, _FIRST_CONV} or not given[_SCORES].ndim:
        return None
    tensors = {convert_name(name): value for name, value in given.items()}
    version = 2 if "rpn.head.conv.1.0.weight" in tensors else 1
    if version != min(rpn_convs, 2):
        recipe = "mask_rcnn_v2.yaml" if version == 2 else "mask_rcnn.yaml"
        raise ValueError(
            f"it is of torchvision's version {version}, the model is not; use configs/seg/{recipe}"
        )
    outputs = given[_SCORES].shape[0]
    kind = f"torchvision's R-CNN, version {version}, {outputs} outputs"
    if outputs == _COCO_OUTPUTS and num_classes == _COCO_CLASSES:
        tensors = {name: _coco_rows(name, value) for name, value in tensors.items()}
        kind += f" reduced to COCO's {_COCO_CLASSES} categories and the background"
    frozen = not any(name.endswith("num_batches_tracked") for name in tensors)
    published = outputs == _COCO_OUTPUTS or tensors.keys() != given.keys()
    eps = 0.0 if version == 1 and frozen and published else None
    return PublicWeights(kind, tensors, eps)


def _coco_rows(name: str, value: Tensor) -> Tensor:
    """Return the rows of the background and of the ids that are categories."""
    each = _ROWS.get(name)
    if each is None or not value.ndim or value.shape[0] != each * _COCO_OUTPUTS:
        return value
    kept = torch.tensor([k for k in range(_COCO_OUTPUTS) if k not in _COCO_UNUSED])
    return value.reshape(_COCO_OUTPUTS, each, *value.shape[1:])[kept].flatten(0, 1)
