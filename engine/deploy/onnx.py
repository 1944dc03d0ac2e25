"""ONNX export of one-stage segmentation checkpoints, for use without PyTorch.

    images        (B, 3, H, W)      float32 RGB in [0, 1]; H and W are multiples of 32
    boxes         (B, A, 4)         xyxy in pixels of the input, not cut to the image
    scores        (B, A, C)         in [0, 1], one per class
    coefficients  (B, A, P)         weights of the prototypes
    prototypes    (B, P, H/4, W/4)  a mask is where their weighted sum is positive

B, H and W are dynamic. Normalisation and box decoding are part of the graph; suppression and masks
are not, they are a few lines in any language (docs/export.md). Low-pass branches beside
convolutions are folded into them. The file's metadata contains the
values that they need, see `deployment_facts`.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.transforms.raw.low_light import LowLightOptions
from engine.checkpoints.restore import Restored, restore
from formats.files import atomic_write
from lightning_modules.segmentation import SegmentationModule
from models.ops.low_light.smooth_convolution import fold_smooth_convs
from models.seg.yolo import YOLOSeg
from models.seg.yolo.head import STRIDES
from models.seg.yolo.losses import PROTOTYPE_STRIDE
from models.seg.yolo.output import decode_boxes

INPUT = "images"
OUTPUTS = ("boxes", "scores", "coefficients", "prototypes")
METADATA_FORMAT = 1
OPSET = 18
# A252: far above rounding errors, far below the errors of a wrong graph. Boxes in pixels.
TOLERANCES = {"boxes": 1e-2, "scores": 1e-4, "coefficients": 1e-3, "prototypes": 1e-3}
_SIDES = STRIDES[-1]
_CHECKED = ((1, 2 * _SIDES, 3 * _SIDES), (2, 4 * _SIDES, 2 * _SIDES), (3, _SIDES, _SIDES))


class DeployedOutputs(NamedTuple):
    """Outputs of the exported network; see the module docstring."""

    boxes: Tensor
    scores: Tensor
    coefficients: Tensor
    prototypes: Tensor


class DeployedYOLO(nn.Module):
    """`YOLOSeg` followed by the decoding of boxes and scores.

    Args:
        network: the model, used as it is.
    """

    def __init__(self, network: YOLOSeg) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> DeployedOutputs:
        """Return boxes, scores, coefficients and prototypes of (B, 3, H, W) RGB in [0, 1]."""
        found = self.network(images)
        boxes = decode_boxes(found.box_logits, found.points, found.strides)
        scores = found.class_logits.sigmoid()
        return DeployedOutputs(boxes, scores, found.coefficients, found.prototypes)


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export.

    Attributes:
        size: size of the file in bytes.
        metadata: the file's metadata.
        differences: largest absolute difference of each output from PyTorch's; empty if
            onnxruntime is not installed.
        checked: (batch, height, width) of the compared inputs.
    """

    size: int
    metadata: dict[str, str]
    differences: dict[str, float]
    checked: tuple[tuple[int, int, int], ...]


def export_checkpoint(checkpoint: Path, target: Path, check: bool = False) -> Exported:
    """Write the ONNX file of a checkpoint and compare it with the checkpoint.

    The file is written atomically, and only if its outputs are right. If onnxruntime is installed,
    the outputs are compared at three input shapes within `TOLERANCES`.

    Args:
        checkpoint: file written by `train.py`.
        target: file to write.
        check: whether onnxruntime is required.

    Raises:
        ValueError: a package is missing, the checkpoint is broken or holds a model that cannot be
            exported, or the outputs differ.
    """
    _require(("onnx", "onnxscript", "onnxruntime") if check else ("onnx", "onnxscript"))
    restored = restore(checkpoint)
    network = _exportable(checkpoint, restored)
    metadata = deployment_facts(network, restored.facts)
    fold_smooth_convs(network)
    deployed = DeployedYOLO(network).eval()
    content = to_onnx(deployed, metadata)
    differences: dict[str, float] = {}
    if find_spec("onnxruntime") is not None:
        differences = largest_differences(deployed, content, _CHECKED)
        _refuse_differences(differences)
    with atomic_write(target, durable=True) as file:
        file.write(content)
    return Exported(len(content), metadata, differences, _CHECKED if differences else ())


def deployment_facts(network: YOLOSeg, facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the values needed to use the outputs, each as JSON text.

    Args:
        network: the model.
        facts: ``facts`` of its checkpoint.

    Returns:
        ``segmil_format``; ``names`` and ``category_ids`` by class; ``strides`` of the anchors and
        ``prototype_stride`` in pixels; ``pad_value`` in [0, 1], around images; ``score_thresh``,
        ``nms_thresh``, ``pre_nms`` and ``max_dets`` of the suppression; ``mask_crop``;
        ``preprocessing``, how validation resized images (docs/export.md); for a network that was
        trained in low light also ``low_light``, which images it takes.
    """
    chosen, categories = network.detection, facts["category_map"]
    resizing = ("eval_short_side", "max_long_side", "scale", "size_multiple")
    values: dict[str, Any] = {
        "segmil_format": METADATA_FORMAT,
        "names": list(categories["names"]),
        "category_ids": list(categories["ids"]),
        "strides": list(STRIDES),
        "prototype_stride": PROTOTYPE_STRIDE,
        "pad_value": network.pad_value,
        "score_thresh": chosen.score_thresh,
        "nms_thresh": chosen.nms_thresh,
        "pre_nms": chosen.pre_nms,
        "max_dets": chosen.max_dets,
        "mask_crop": network.mask_crop,
        "preprocessing": {k: v for k, v in facts["preprocessing"].items() if k in resizing},
    }
    options = LowLightOptions.of(facts["preprocessing"].get("low_light"))
    if options is not None:
        shown = ("input", "camera", "ratio", "bits", "physics")
        record = {name: value for name, value in options.record().items() if name in shown}
        values["low_light"] = record | {"channels": options.channels}
    return {name: json.dumps(value) for name, value in values.items()}


@torch.no_grad()
def to_onnx(deployed: nn.Module, metadata: Mapping[str, str]) -> bytes:
    """Return a module as the bytes of an ONNX file with free batch, height and width.

    Args:
        deployed: module in eval mode that maps (B, 3, H, W) to the four outputs.
        metadata: name -> text, stored in the file.

    Raises:
        ValueError: the module cannot be expressed in ONNX.
    """
    dim = torch.export.Dim
    sides = (_SIDES * dim("rows", min=1, max=4096), _SIDES * dim("columns", min=1, max=4096))
    example = torch.rand(2, 3, 2 * _SIDES, 3 * _SIDES)
    try:
        with _quiet():
            program = torch.onnx.export(
                deployed,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: dim("batch"), 2: sides[0], 3: sides[1]},),
                opset_version=OPSET,
            )
    except Exception as error:  # every stage of the exporter raises its own exception class
        cause = error.__cause__ or error
        raise ValueError(
            f"{type(deployed).__name__} cannot be written as ONNX by torch {torch.__version__}: "
            f"{str(cause).strip().splitlines()[0]}; the backbone may use an unsupported operator"
        ) from error
    assert program is not None
    program.model.metadata_props.update(metadata)
    content: bytes = program.model_proto.SerializeToString()
    return content


@torch.no_grad()
def largest_differences(
    deployed: nn.Module, content: bytes, shapes: Sequence[tuple[int, int, int]]
) -> dict[str, float]:
    """Return the largest absolute difference of each output between onnxruntime and PyTorch.

    Args:
        deployed: the module given to `to_onnx`.
        content: the bytes that `to_onnx` returned.
        shapes: (batch, height, width) of random inputs.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    largest = dict.fromkeys(OUTPUTS, 0.0)
    for batch, height, width in shapes:
        images = torch.rand(batch, 3, height, width, generator=generator)
        outputs = session.run(list(OUTPUTS), {INPUT: images.numpy()})
        for name, ours, other in zip(OUTPUTS, deployed(images), outputs, strict=True):
            if tuple(ours.shape) != other.shape:
                raise ValueError(f"ONNX gives {name} of shape {other.shape}, not {(*ours.shape,)}")
            difference = (ours - torch.from_numpy(other)).abs().max().item()
            largest[name] = max(largest[name], difference)
    return largest


def _require(packages: Sequence[str]) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"export needs {' and '.join(missing)}: pip install -e '.[export]' in the clone "
            "installs them"
        )


def _exportable(checkpoint: Path, restored: Restored) -> YOLOSeg:
    module = restored.module
    if not isinstance(module, SegmentationModule):
        raise ValueError(
            f"{checkpoint}: holds a {type(module).__name__}; checkpoints of YOLOSeg can be exported"
        )
    network: Any = module.model
    if not isinstance(network, YOLOSeg):
        raise ValueError(
            f"{checkpoint}: holds a {type(network).__name__}; YOLOSeg can be exported. A two-stage "
            "model cannot: its mask head works on the boxes that remain after suppression, and "
            "torch's exporter does not support a number of boxes that depends on the image"
        )
    if network.in_channels != 3:
        raise ValueError(
            f"{checkpoint}: takes RAW images of {network.in_channels} channels (low_light.input "
            "raw4); networks of three channels can be exported"
        )
    if not {"category_map", "preprocessing"} <= set(restored.facts):
        raise ValueError(f"{checkpoint}: damaged: it lacks category_map; use another checkpoint")
    return network


def _refuse_differences(differences: Mapping[str, float]) -> None:
    wrong = [
        f"{name} by {value:.3g} (allowed {TOLERANCES[name]:g})"
        for name, value in differences.items()
        if not value <= TOLERANCES[name]  # also true for NaN
    ]
    if wrong:
        raise ValueError(
            f"the ONNX outputs differ from PyTorch's: {', '.join(wrong)}; nothing was written. "
            "Update onnxruntime and onnxscript, or report it with the checkpoint's recipe"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress messages and warnings."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
