"""Weights, images, predictions and targets of the comparison, the same on every machine.

Random numbers come from integer arithmetic (SplitMix64, Steele et al. 2014), not from a library's
generator, so that tests get the same numbers under any version (A249).

Letters: B images, A anchors, C classes, M objects.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from models.backbones.csp import ScaleName
from models.seg.yolo.names import convert_name

HEIGHT, WIDTH, CLASSES, SHARPNESS = 128, 160, 5, (1, 3)
NETWORKS: dict[str, tuple[ScaleName, int]] = {"n80": ("n", 80), "s80": ("s", 80), "n3": ("n", 3)}
LARGER: dict[str, tuple[ScaleName, int]] = {f"{k}80": (k, 80) for k in ("m", "l", "x")}
TERMS = {"box": "box_loss", "class": "cls_loss", "dfl": "dfl_loss", "mask": "seg_loss"}
ORDINARY = [[10.0, 12, 60, 70], [50, 41, 121, 110], [31, 30, 90, 99]]
NESTED = [[21.0, 21, 101, 101], [30, 30, 110, 110], [41, 19, 70, 61], [61, 50, 141, 121]]
SHIFTED = [[32.3 + d, 32.3 + d, 71.8 + d, 72.4 + d] for d in range(0, 12, 2)]
CASES: dict[str, tuple[list[list[float]], list[int], list[int]]] = {
    # boxes xyxy in pixels, classes, images; no side lies on an anchor point
    "ordinary": (ORDINARY, [0, 2, 4], [0, 0, 1]),
    "overlap": (NESTED, [0, 1, 1, 2], [0, 0, 0, 1]),
    "one_empty": (ORDINARY[:2], [0, 2], [1, 1]),
    "no_objects": ([], [], []),
    "tiny": ([[20.5, 20.5, 23.2, 23.4], ORDINARY[1], [97, 33, 103, 39]], [1, 2, 3], [0, 0, 1]),
    "crowded": ([*SHIFTED, [30.7, 30.3, 80.2, 80.1]], [0, 1, 2, 3, 4, 0, 1], [0] * 6 + [1]),
}


def uniform(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float64 numbers in [0, 1) that depend only on the key and their position."""
    count = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
    state = count * np.uint64(0x9E3779B97F4A7C15) + np.uint64(zlib.crc32(key.encode()) << 32)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = state ^ (state >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53


def normal(key: str, shape: tuple[int, ...]) -> Tensor:
    """Return float32 numbers of a standard normal distribution (Box and Muller 1958)."""
    radius = np.sqrt(-2 * np.log1p(-uniform(f"{key} radius", shape)))
    return torch.from_numpy(radius * np.cos(2 * np.pi * uniform(f"{key} angle", shape))).float()


def weight(network: str, name: str, like: Tensor) -> Tensor:
    """Return the value of one weight or BatchNorm statistic, such that signals stay in range.

    Args:
        network: name in ``NETWORKS``; each network gets different weights.
        name: name of the weight in our model.
        like: tensor of the same shape and dtype; the result is 0 if it is not floating-point.
    """
    if not like.is_floating_point():
        return torch.zeros_like(like)
    spread = 2 * 3**0.5 * (uniform(f"{network} {name}", tuple(like.shape)) - 0.5)  # variance 1
    noise = torch.from_numpy(spread).to(like.dtype)
    if like.ndim > 1:
        return noise * (2 / like[0].numel()) ** 0.5
    scales = name.endswith(("running_var", "norm.weight"))
    return 1 + 0.3 * noise if scales else 0.2 * noise


@torch.no_grad()
def fill(state: Mapping[str, Tensor], network: str) -> None:
    """Overwrite the weights of the original ``state_dict``, except for constants."""
    for name, value in state.items():
        if (ours := convert_name(name)) is not None:
            value.copy_(weight(network, ours, value))


def images() -> Tensor:
    """Return (2, 3, 128, 160) images of noise in [0, 1)."""
    return torch.from_numpy(uniform("pictures", (2, 3, HEIGHT, WIDTH))).float()


def predictions(case: str, sharpness: float) -> dict[str, Tensor]:
    """Return random head outputs: boxes (B, 64, A), scores (B, C, A), coefficients, prototypes."""
    anchors = sum((HEIGHT // s) * (WIDTH // s) for s in (8, 16, 32))

    def noise(name: str, *shape: int) -> Tensor:
        return normal(f"{case} {sharpness} {name}", shape)

    return {
        "boxes": noise("boxes", 2, 64, anchors) * sharpness,
        "scores": noise("scores", 2, CLASSES, anchors) - 2,
        "mask_coefficient": noise("coefficients", 2, 32, anchors) * 0.5,
        "proto": noise("prototypes", 2, 32, HEIGHT // 4, WIDTH // 4),
    }


def targets(case: str) -> dict[str, Tensor]:
    """Return targets: normalised xywh boxes, and ellipses drawn from large to small."""
    boxes, classes, rows_images = CASES[case]
    xyxy = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    size, frame = xyxy[:, 2:] - xyxy[:, :2], torch.tensor([WIDTH, HEIGHT])
    masks = torch.zeros(2, HEIGHT // 4, WIDTH // 4)
    y, x = torch.meshgrid(torch.arange(2.0, HEIGHT, 4), torch.arange(2.0, WIDTH, 4), indexing="ij")
    for row in size.prod(dim=1).argsort(descending=True).tolist():
        x1, y1, x2, y2 = xyxy[row].tolist()
        inside = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
        rank = rows_images[:row].count(rows_images[row])
        masks[rows_images[row]][inside] = rank + 1
    return {
        "bboxes": torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2 / frame, size / frame], dim=1),
        "cls": torch.tensor(classes, dtype=torch.float32).view(-1, 1),
        "batch_idx": torch.tensor(rows_images, dtype=torch.float32),
        "masks": masks,
    }


def fingerprint(values: Tensor, samples: int = 64) -> dict[str, object]:
    """Return shape, mean, norm and values at evenly spaced places, in float64."""
    flat = values.detach().double().flatten()
    places = torch.linspace(0, flat.numel() - 1, min(samples, flat.numel())).long()
    return {
        "shape": list(values.shape),
        "mean": float(flat.mean()),
        "norm": float(flat.norm()),
        "samples": [float(f"{value:.9g}") for value in flat[places].tolist()],
    }
