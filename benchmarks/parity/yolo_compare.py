"""Comparison of YOLOSeg and its losses with the records of `yolo_original.py`.

Run `python benchmarks/parity/yolo_compare.py RECORDS`. It prints the largest difference of every
output, loss term and gradient, relative to the largest value, and fails if a difference exceeds
1e-4 for a network or 1e-3 for a loss. Then it reads the checkpoints written by the original.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.parity import yolo_recipe as recipe
from formats.weights.files import load_weights
from models.backbones.csp import ScaleName
from models.seg.yolo import YOLOSeg
from models.seg.yolo.head import anchor_points
from models.seg.yolo.losses import yolo_losses
from models.seg.yolo.names import convert_name
from models.seg.yolo.output import YOLOOutput, decode_boxes
from structures import SegBatch

STRIDE, NETWORK_LIMIT, LOSS_LIMIT = 4, 1e-4, 1e-3
CHECKPOINTS: dict[str, tuple[ScaleName, int]] = {  # file -> scale, classes
    **{f"checkpoint_{name}": size for name, size in recipe.NETWORKS.items()},
    **{"checkpoint_best_n3": ("n", 3), "checkpoint_ema_n3": ("n", 3)},
    **{"checkpoint_other_classes_n80": ("n", 80), "checkpoint_detection_n80": ("n", 80)},
    **{"refused_version11_n80": ("n", 80), "refused_fused_n80": ("n", 80)},
}


def difference(ours: Tensor, original: Tensor) -> float:
    """Return the largest absolute difference over the largest absolute value."""
    if ours.shape != original.shape:
        raise ValueError(f"shapes {tuple(ours.shape)} and {tuple(original.shape)} differ")
    return float((ours - original).abs().max() / original.abs().max().clamp(min=1e-6))


def by_original_names(out: YOLOOutput) -> dict[str, Tensor]:
    """Return raw outputs under the names of the records, anchors before channels."""
    return {
        "boxes": out.box_logits,
        "scores": out.class_logits,
        "mask_coefficient": out.coefficients,
        "proto": out.prototypes,
    }


@torch.no_grad()
def compare_outputs(model: YOLOSeg, wanted: dict[str, Tensor]) -> dict[str, float]:
    """Return the difference of every raw output and of decoded boxes and scores.

    Outputs of different shape (another number of classes) are left out.
    """
    out = model.eval()(recipe.images())
    boxes = decode_boxes(out.box_logits, out.points, out.strides)
    x1y1, x2y2 = boxes.split(2, dim=-1)
    ours = by_original_names(out)
    original = {k: wanted[k] if k == "proto" else wanted[k].transpose(1, 2) for k in ours}
    decoded = wanted["decoded"].transpose(1, 2)  # centre, size, scores, coefficients
    ours["centre and size"] = torch.cat([(x1y1 + x2y2) / 2, x2y2 - x1y1], dim=-1)
    original["centre and size"] = decoded[..., :4]
    ours["probabilities"] = out.class_logits.sigmoid()
    original["probabilities"] = decoded[..., 4 : -out.prototypes.shape[1]]
    same = [name for name in ours if ours[name].shape == original[name].shape]
    return {name: difference(ours[name], original[name]) for name in same}


def compare_network(records: Path, name: str) -> dict[str, float]:
    """Return the differences with the recorded weights, all of which must be used."""
    scale, classes = {**recipe.NETWORKS, **recipe.LARGER}[name]
    model = YOLOSeg(scale, classes)
    given = load_file(records / f"network_{name}_weights.safetensors")
    model.load_state_dict({ours: v for k, v in given.items() if (ours := convert_name(k))})
    return compare_outputs(model, load_file(records / f"network_{name}_outputs.safetensors"))


def seg_batch(record: dict[str, Tensor]) -> SegBatch:
    """Return targets of the recipe as a batch with masks at a quarter of the resolution."""
    images = record["batch_idx"].long()
    counts = torch.bincount(images, minlength=2)
    rank = torch.cat([torch.arange(int(count)) for count in counts])
    frame = torch.tensor([recipe.WIDTH, recipe.HEIGHT] * 2)
    centre, size = (record["bboxes"] * frame).split(2, dim=1)
    sizes = torch.tensor([[recipe.HEIGHT, recipe.WIDTH]] * 2)
    return SegBatch(
        images=torch.zeros(2, 3, recipe.HEIGHT, recipe.WIDTH),
        sizes=sizes,
        boxes=torch.cat([centre - size / 2, centre + size / 2], dim=1),
        labels=record["cls"].long().flatten(),
        masks=record["masks"][images] == (rank + 1).view(-1, 1, 1),
        counts=counts,
        crowd=torch.zeros(len(images), dtype=torch.bool),
        index=torch.arange(2),
        original_sizes=sizes,
        mask_stride=STRIDE,
    )


def own_losses(case: str, sharpness: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return our loss terms of a case, and the gradients of their sum by the recipe's names."""
    given = {k: v.requires_grad_() for k, v in recipe.predictions(case, sharpness).items()}
    cells = [(recipe.HEIGHT // stride, recipe.WIDTH // stride) for stride in (8, 16, 32)]
    points, strides = anchor_points(cells, given["proto"])
    output = YOLOOutput(
        class_logits=given["scores"].transpose(1, 2),
        box_logits=given["boxes"].transpose(1, 2),
        coefficients=given["mask_coefficient"].transpose(1, 2),
        prototypes=given["proto"],
        points=points,
        strides=strides,
    )
    terms = yolo_losses(output, seg_batch(recipe.targets(case)), recipe.CLASSES)
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(given.values()))
    values = {name: float(value.detach()) for name, value in terms.items()}
    return values, dict(zip(given, gradients, strict=True))


def compare_losses(records: Path, case: str, sharpness: int) -> dict[str, float]:
    """Return the differences of terms without gains (relative above 1) and of gradients."""
    ours, gradients = own_losses(case, sharpness)
    with np.load(records / "losses.npz") as stored:
        wanted = {
            t: float(stored[f"{case}_{sharpness}/plain_{n}"]) for t, n in recipe.TERMS.items()
        }
        slopes = {
            n: torch.from_numpy(stored[f"{case}_{sharpness}/gradient_{n}"]) for n in gradients
        }
    differences = {term: abs(ours[term] - w) / max(abs(w), 1) for term, w in wanted.items()}
    return differences | {f"d/d {n}": difference(gradients[n], slopes[n]) for n in gradients}


def compare_checkpoint(records: Path, name: str) -> tuple[str, dict[str, float]]:
    """Read a checkpoint; return the loader's report and the differences of the outputs."""
    scale, classes = CHECKPOINTS[name]
    model = YOLOSeg(scale, classes)
    try:
        report = str(load_weights(model, records / f"{name}.pt"))
    except ValueError as error:
        if not name.startswith("refused"):
            raise
        return str(error), {}
    if name.startswith("refused"):
        raise SystemExit(f"{name} should have been rejected")
    outputs = records / f"{name}_outputs.safetensors"
    return report, compare_outputs(model, load_file(outputs)) if outputs.is_file() else {}


def show(name: str, values: dict[str, float], limit: float) -> None:
    """Print differences and exit if one exceeds the limit."""
    print(f"{name:28}", "  ".join(f"{key} {value:.1e}" for key, value in values.items()))
    if not all(value <= limit for value in values.values()):
        raise SystemExit(f"a difference exceeds {limit}")


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path)
    records = parser.parse_args().records
    for name in [*recipe.NETWORKS, *recipe.LARGER]:
        show(name, compare_network(records, name), NETWORK_LIMIT)
    for case in recipe.CASES:
        for sharpness in recipe.SHARPNESS:
            values = compare_losses(records, case, sharpness)
            show(f"{case}_{sharpness}", values, LOSS_LIMIT)
    for name in CHECKPOINTS:
        report, values = compare_checkpoint(records, name)
        print(report)
        show(name, values, NETWORK_LIMIT)


if __name__ == "__main__":
    main()
