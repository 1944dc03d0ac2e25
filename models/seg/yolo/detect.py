"""Boxes, scores and labels from the raw outputs of the one-stage network.

    candidates   pairs of an anchor and a class with sigmoid(class logit) > score_thresh
    boxes        decoded (output.py), clipped to the image; dropped without area (A221)
    detections   by class-wise suppression, the best max_dets per image

A box may thus be detected for several classes. Letters: B images, A anchors, C classes, N
candidates, K detections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.ops.boxes.nms import class_nms
from models.ops.precision import at_least_float32
from models.seg.yolo.output import YOLOOutput, decode_boxes

_SLACK = 1e-3  # far more than the rounding error of a float32 logit


@dataclass(frozen=True, slots=True)
class DetectOptions:
    """Options of the choice of detections.

    Attributes:
        score_thresh: score that detections must exceed.
        nms_thresh: IoU above which the weaker of two detections of a class is dropped.
        max_dets: detections kept per image.
        pre_nms: largest number of candidates per image, best first.

    Raises:
        ValueError: a threshold is outside [0, 1] or a number below 1.
    """

    score_thresh: float
    nms_thresh: float
    max_dets: int
    pre_nms: int

    def __post_init__(self) -> None:
        if not (0 <= self.score_thresh <= 1 and 0 <= self.nms_thresh <= 1):
            raise ValueError(
                "score_thresh and nms_thresh lie in [0, 1], "
                f"got {self.score_thresh} and {self.nms_thresh}"
            )
        if self.max_dets < 1 or self.pre_nms < 1:
            raise ValueError(
                f"max_dets and pre_nms must be at least 1, got {self.max_dets} and {self.pre_nms}"
            )


class Found(NamedTuple):
    """Detections of all images, sorted by image and by score within an image.

    Attributes:
        boxes: (K, 4) at least float32, in pixels of the padded frame, inside the image.
        scores: (K,) at least float32.
        labels: (K,) int64.
        anchors: (K,) int64 in [0, A).
        images: (K,) int64 in [0, B).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    anchors: Tensor
    images: Tensor


def detect(output: YOLOOutput, sizes: Tensor, options: DetectOptions) -> Found:
    """Choose the detections of a batch.

    Args:
        output: of the network.
        sizes: (B, 2) int64 valid (height, width) of the images.
        options: thresholds and limits.
    """
    image, anchor, label, scores = _candidates(output.class_logits, options)
    boxes = decode_boxes(
        output.box_logits[image, anchor], output.points[anchor], output.strides[anchor]
    )
    limits = sizes.flip(1).repeat(1, 2).to(boxes.dtype)  # (B, 4) width, height, width, height
    boxes = torch.minimum(boxes.clamp(min=0), limits[image])
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1).nonzero().flatten()  # also drops NaN
    kept = kept[
        class_nms(
            boxes[kept],
            scores[kept],
            label[kept],
            image[kept],
            iou_thresh=options.nms_thresh,
            max_dets=options.max_dets,
        )
    ]
    return Found(boxes[kept], scores[kept], label[kept], anchor[kept], image[kept])


def _candidates(logits: Tensor, options: DetectOptions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return image, anchor, label and score, (N,) each, of at most ``pre_nms`` per image."""
    # Avoids the sigmoid of all others. Not >, as half precision may round the bound up.
    near = logits >= _logit(options.score_thresh) - _SLACK
    image, anchor, label = near.nonzero(as_tuple=True)
    scores = at_least_float32(logits[image, anchor, label]).sigmoid()
    counts = torch.bincount(image, minlength=len(logits))
    if int(counts.max()) > options.pre_nms:
        order = scores.argsort(descending=True, stable=True)
        order = order[image[order].argsort(stable=True)]
        rank = torch.arange(len(order), device=order.device)
        rank = rank - (counts.cumsum(0) - counts)[image[order]]
        kept = order[rank < options.pre_nms].sort().values
        image, anchor, label, scores = (v[kept] for v in (image, anchor, label, scores))
    sure = scores > options.score_thresh
    return image[sure], anchor[sure], label[sure], scores[sure]


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))
