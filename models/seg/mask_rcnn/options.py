"""Options of the parts of Mask R-CNN; all defaults are equal to torchvision's first model.

Each class raises ValueError for a count below 1 and for thresholds in the wrong order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.backbones.norm import Norm


def _check(owner: object, *, at_least_one: tuple[str, ...], in_order: tuple[str, ...]) -> None:
    """Check that counts are at least 1 and that fractions are ascending and within [0, 1]."""
    for name in at_least_one:
        if getattr(owner, name) < 1:
            raise ValueError(
                f"{type(owner).__name__}.{name} must be at least 1, got {getattr(owner, name)}"
            )
    fractions = [0.0, *(getattr(owner, name) for name in in_order), 1.0]
    if fractions != sorted(fractions):
        raise ValueError(
            f"{type(owner).__name__} needs 0 <= {' <= '.join(in_order)} <= 1, got {fractions[1:-1]}"
        )


@dataclass(frozen=True)
class RPNOptions:
    """Options of the proposal network; the defaults are torchvision's.

    Attributes:
        anchor_sizes: side in pixels, one per level of the backbone, finest first.
        anchor_ratios: ratios of height to width, the same at every level.
        conv_depth: number of 3x3 convolutions before the two outputs.
        pre_nms_train: best proposals per level before suppression, for losses.
        pre_nms_test: best proposals per level before suppression, for predictions.
        post_nms_train: proposals per image after suppression, for losses.
        post_nms_test: proposals per image after suppression, for predictions.
        nms_thresh: IoU above which the weaker of two proposals of a level is dropped.
        fg_iou_thresh: an anchor with at least this IoU is a positive example.
        bg_iou_thresh: an anchor below this IoU with every instance is a negative example.
        batch_size_per_image: anchors per image in the loss.
        positive_fraction: largest fraction of positives among them.
    """

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    conv_depth: int = 1
    pre_nms_train: int = 2000
    pre_nms_test: int = 1000
    post_nms_train: int = 2000
    post_nms_test: int = 1000
    nms_thresh: float = 0.7
    fg_iou_thresh: float = 0.7
    bg_iou_thresh: float = 0.3
    batch_size_per_image: int = 256
    positive_fraction: float = 0.5

    def __post_init__(self) -> None:
        limits = ("pre_nms_train", "pre_nms_test", "post_nms_train", "post_nms_test")
        _check(
            self,
            at_least_one=(*limits, "conv_depth", "batch_size_per_image"),
            in_order=("bg_iou_thresh", "fg_iou_thresh"),
        )
        _check(self, at_least_one=(), in_order=("positive_fraction",))
        _check(self, at_least_one=(), in_order=("nms_thresh",))
        if not self.anchor_sizes or min(self.anchor_sizes) <= 0:
            raise ValueError(f"anchor_sizes must be positive, got {self.anchor_sizes}")


@dataclass(frozen=True)
class BoxHeadOptions:
    """Options of the box head; the defaults are torchvision's.

    Attributes:
        head: ``mlp`` for two linear layers, ``conv`` for 3x3 convolutions and one linear layer.
        width: units of the linear layers.
        conv_width: channels of the convolutions of ``conv``.
        num_convs: convolutions of ``conv``.
        norm: normalisation after each convolution of ``conv``, or None.
        roi_size: cells per side of a pooled region.
        sampling_ratio: sampling points per side of a cell.
        canonical_size: side in pixels of a region pooled from the level of stride 16, for boxes
            and masks (FPN eq. 1).
        fg_iou_thresh: a proposal with at least this IoU is a positive example.
        bg_iou_thresh: a proposal below this IoU with every instance is a negative example.
        batch_size_per_image: proposals per image in the loss.
        positive_fraction: largest fraction of positives among them.
    """

    head: Literal["mlp", "conv"] = "mlp"
    width: int = 1024
    conv_width: int = 256
    num_convs: int = 4
    norm: Norm | None = None
    roi_size: int = 7
    sampling_ratio: int = 2
    canonical_size: float = 224.0
    fg_iou_thresh: float = 0.5
    bg_iou_thresh: float = 0.5
    batch_size_per_image: int = 512
    positive_fraction: float = 0.25

    def __post_init__(self) -> None:
        counts = ("width", "conv_width", "num_convs", "roi_size", "sampling_ratio")
        _check(self, at_least_one=("batch_size_per_image",), in_order=())
        _check(self, at_least_one=counts, in_order=("bg_iou_thresh", "fg_iou_thresh"))
        _check(self, at_least_one=(), in_order=("positive_fraction",))


@dataclass(frozen=True)
class MaskHeadOptions:
    """Options of the mask head; the defaults are torchvision's.

    Attributes:
        width: channels of all its convolutions.
        num_convs: 3x3 convolutions before the upsampling.
        norm: normalisation after each of these convolutions, or None.
        roi_size: cells per side of a pooled region; masks have twice as many.
        sampling_ratio: sampling points per side of a cell.
        max_rois_per_image: positives per image that enter the mask loss, drawn by key; None for
            all.
    """

    width: int = 256
    num_convs: int = 4
    norm: Norm | None = None
    roi_size: int = 14
    sampling_ratio: int = 2
    max_rois_per_image: int | None = None

    def __post_init__(self) -> None:
        _check(self, at_least_one=("width", "num_convs", "roi_size", "sampling_ratio"), in_order=())
        if self.max_rois_per_image is not None:
            _check(self, at_least_one=("max_rois_per_image",), in_order=())
