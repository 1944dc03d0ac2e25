"""Compares YOLOSeg and its losses with the records of `yolo_original.py`.

Run `python benchmarks/parity/yolo_compare.py RECORDS`. It prints the largest difference of every
output and loss term, relative to the largest value, and fails if one exceeds 1e-3.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.backbones.csp import ScaleName
from models.seg.yolo_head import anchor_points
from models.seg.yolo_losses import yolo_losses
from models.seg.yolo_output import YOLOOutput, decode_boxes
from models.seg.yolo_seg import YOLOSeg
from structures import SegBatch

NETWORKS: dict[str, tuple[ScaleName, int]] = {"n80": ("n", 80), "s80": ("s", 80), "n3": ("n", 3)}
TERMS = {"box": "box_loss", "class": "cls_loss", "dfl": "dfl_loss", "mask": "seg_loss"}
CLASSES, HEIGHT, WIDTH, STRIDE, LIMIT = 5, 128, 160, 4, 1e-3
MODULES = {  # number in the original's list -> our module
    **{0: "backbone.stem", 9: "neck.pool", 12: "neck.down4", 15: "neck.down3"},
    **{16: "neck.halve3", 18: "neck.up4", 19: "neck.halve4", 21: "neck.up5"},
    **{n: f"backbone.stage{2 + (n - 1) // 2}.{(n - 1) % 2}" for n in range(1, 9)},
}
HEAD = {
    **{"cv2.": "head.box.", "cv3.": "head.classes.", "cv4.": "head.coefficients."},
    **{"proto.cv1.": "head.prototypes.0.", "proto.upsample.": "head.prototypes.1."},
    **{"proto.cv2.": "head.prototypes.2.", "proto.cv3.": "head.prototypes.3."},
}


def our_name(name: str) -> str | None:
    """Return our parameter of one of the original's, None for its 16 constants."""
    number, rest = re.fullmatch(r"model\.(\d+)\.(.+)", name).groups()  # type: ignore[union-attr]
    rest = rest.replace("bn.", "norm.")
    if number == "22":
        if rest.startswith("dfl."):
            return None
        key = next(key for key in HEAD if rest.startswith(key))
        return HEAD[key] + rest.removeprefix(key)
    rest = re.sub(r"^m\.(\d+)\.cv1\.", r"chain.\1.first.", rest)
    rest = re.sub(r"^m\.(\d+)\.cv2\.", r"chain.\1.second.", rest)
    first = "reduce." if number == "9" else "split."
    rest = re.sub(r"^cv1\.", first, rest)
    return f"{MODULES[int(number)]}.{re.sub(r'^cv2[.]', 'merge.', rest)}"


def difference(ours: Tensor, original: Tensor) -> float:
    """Return the largest absolute difference over the largest absolute value."""
    if ours.shape != original.shape:
        raise ValueError(f"shapes {tuple(ours.shape)} and {tuple(original.shape)} differ")
    return float((ours - original).abs().max() / original.abs().max().clamp(min=1e-6))


def compare_network(records: Path, name: str) -> dict[str, float]:
    """Return the difference of every raw output and of decoded boxes and scores."""
    model = YOLOSeg(*NETWORKS[name])
    given = load_file(records / f"network_{name}_weights.safetensors")
    model.load_state_dict({ours: v for k, v in given.items() if (ours := our_name(k))})
    wanted = load_file(records / f"network_{name}_outputs.safetensors")
    with torch.no_grad():
        out = model.eval()(wanted["images"])
    boxes = decode_boxes(out.box_logits, out.points, out.strides)
    x1y1, x2y2 = boxes.split(2, dim=-1)
    centred = torch.cat([(x1y1 + x2y2) / 2, x2y2 - x1y1], dim=-1)
    decoded = wanted["decoded"].transpose(1, 2)  # centre, size, scores, coefficients
    return {
        "box logits": difference(out.box_logits, wanted["boxes"].transpose(1, 2)),
        "class logits": difference(out.class_logits, wanted["scores"].transpose(1, 2)),
        "coefficients": difference(out.coefficients, wanted["mask_coefficient"].transpose(1, 2)),
        "prototypes": difference(out.prototypes, wanted["proto"]),
        "boxes": difference(centred, decoded[..., :4]),
        "scores": difference(
            out.class_logits.sigmoid(), decoded[..., 4 : -out.prototypes.shape[1]]
        ),
    }


def seg_batch(record: dict[str, Tensor]) -> SegBatch:
    """Return the recorded targets as a batch with masks at a quarter of the resolution."""
    pictures = record["batch_idx"].long()
    counts = torch.bincount(pictures, minlength=2)
    rank = torch.cat([torch.arange(int(count)) for count in counts])
    centre, size = (record["bboxes"] * torch.tensor([WIDTH, HEIGHT] * 2)).split(2, dim=1)
    sizes = torch.tensor([[HEIGHT, WIDTH]] * 2)
    return SegBatch(
        images=torch.zeros(2, 3, HEIGHT, WIDTH),
        sizes=sizes,
        boxes=torch.cat([centre - size / 2, centre + size / 2], dim=1),
        labels=record["cls"].long().flatten(),
        masks=record["masks"][pictures] == (rank + 1).view(-1, 1, 1),
        counts=counts,
        crowd=torch.zeros(len(pictures), dtype=torch.bool),
        index=torch.arange(2),
        original_sizes=sizes,
        mask_stride=STRIDE,
    )


def compare_losses(record: dict[str, Tensor]) -> dict[str, float]:
    """Return the difference of each term without gains, relative where it is above 1."""
    cells = [(HEIGHT // stride, WIDTH // stride) for stride in (8, 16, 32)]
    points, strides = anchor_points(cells, record["proto"])
    output = YOLOOutput(
        class_logits=record["scores"].transpose(1, 2),
        box_logits=record["boxes"].transpose(1, 2),
        coefficients=record["mask_coefficient"].transpose(1, 2),
        prototypes=record["proto"],
        points=points,
        strides=strides,
    )
    ours = yolo_losses(output, seg_batch(record), CLASSES)
    wanted = {term: float(record[f"plain_{name}"]) for term, name in TERMS.items()}
    return {term: abs(float(ours[term]) - w) / max(abs(w), 1) for term, w in wanted.items()}


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path)
    records = parser.parse_args().records
    rows = {name: compare_network(records, name) for name in NETWORKS}
    with np.load(records / "losses.npz") as stored:
        tensors = {key: torch.from_numpy(stored[key]) for key in stored}
    for case in sorted({key.split("/")[0] for key in tensors}):
        prefix = f"{case}/"
        found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        rows[case] = compare_losses(found)
    for name, values in rows.items():
        print(f"{name:14}", "  ".join(f"{key} {value:.1e}" for key, value in values.items()))
    worst = max(value for values in rows.values() for value in values.values())
    print(f"largest: {worst:.1e}")
    if not worst <= LIMIT:
        raise SystemExit(f"a difference exceeds {LIMIT}")


if __name__ == "__main__":
    main()
