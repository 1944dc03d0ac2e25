"""Records numbers of the original YOLOv8-seg, run as a black box, for `yolo_compare.py`.

The package (`ultralytics`) is AGPL-3.0: it is no dependency of this project, its source is not
read, and only public calls, names and shapes of parameters and numbers are used. Run this file
with the Python of a throw-away environment (README.md): `python yolo_original.py OUT`.

Letters: B pictures, A anchors, C classes, M objects. Inputs are made from fixed seeds.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

HEIGHT, WIDTH, CLASSES = 128, 160, 5
NETWORKS = {"n80": ("yolov8n-seg.yaml", 80), "s80": ("yolov8s-seg.yaml", 80)}
NETWORKS["n3"] = ("yolov8n-seg.yaml", 3)
ORDINARY = [[10.0, 12, 60, 70], [50, 41, 121, 110], [31, 30, 90, 99]]
NESTED = [[21.0, 21, 101, 101], [30, 30, 110, 110], [41, 19, 70, 61], [61, 50, 141, 121]]
SHIFTED = [[32.3 + d, 32.3 + d, 71.8 + d, 72.4 + d] for d in range(0, 12, 2)]
CASES: dict[str, tuple[list[list[float]], list[int], list[int]]] = {
    # boxes xyxy in pixels, classes, pictures; no side lies on an anchor point
    "ordinary": (ORDINARY, [0, 2, 4], [0, 0, 1]),
    "overlap": (NESTED, [0, 1, 1, 2], [0, 0, 0, 1]),
    "one_empty": (ORDINARY[:2], [0, 2], [1, 1]),
    "no_objects": ([], [], []),
    "tiny": ([[20.5, 20.5, 23.2, 23.4], ORDINARY[1], [97, 33, 103, 39]], [1, 2, 3], [0, 0, 1]),
    "crowded": ([*SHIFTED, [30.7, 30.3, 80.2, 80.1]], [0, 1, 2, 3, 4, 0, 1], [0] * 6 + [1]),
}


def randomise(model: nn.Module, seed: int) -> None:
    """Replace parameters and BatchNorm statistics by random ones that keep signals in range."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("dfl.conv.weight") or not value.is_floating_point():
                continue  # the 16 fixed bins, the counter of BatchNorm
            if value.ndim > 1:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5)
            elif name.endswith(("running_var", "bn.weight")):
                value.copy_(1 + 0.3 * noise.clamp(-2, 2))
            else:
                value.copy_(0.2 * noise)


def record_network(out: Path, name: str, scale: str, classes: int) -> None:
    """Save weights, pictures and the raw outputs of one network with BatchNorm fixed."""
    from ultralytics.nn.tasks import SegmentationModel

    model = SegmentationModel(scale, nc=classes, verbose=False)
    randomise(model, seed=len(name) + classes)
    model.eval()
    images = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        decoded, raw = model(images)
    weights = {k: v.clone().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, out / f"network_{name}_weights.safetensors")
    outputs = {key: raw[key] for key in ("boxes", "scores", "mask_coefficient", "proto")}
    outputs |= {"images": images, "decoded": decoded[0]}
    contiguous = {k: v.clone().contiguous() for k, v in outputs.items()}
    save_file(contiguous, out / f"network_{name}_outputs.safetensors")


def predictions(seed: int, sharpness: float) -> dict[str, Any]:
    """Return raw head outputs from noise: boxes (B, 64, A), scores (B, C, A) and the rest."""
    generator = torch.Generator().manual_seed(seed)
    cells = [(HEIGHT // s, WIDTH // s) for s in (8, 16, 32)]
    anchors = sum(h * w for h, w in cells)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "boxes": noise(2, 64, anchors) * sharpness,
        "scores": noise(2, CLASSES, anchors) - 2,
        "mask_coefficient": noise(2, 32, anchors) * 0.5,
        "proto": noise(2, 32, HEIGHT // 4, WIDTH // 4),
        "feats": [torch.zeros(2, 1, h, w) for h, w in cells],
    }


def targets(boxes: list[list[float]], classes: list[int], pictures: list[int]) -> dict[str, Tensor]:
    """Return a batch: normalised xywh boxes, and ellipses painted from large to small."""
    xyxy = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    size, frame = xyxy[:, 2:] - xyxy[:, :2], torch.tensor([WIDTH, HEIGHT])
    masks = torch.zeros(2, HEIGHT // 4, WIDTH // 4)
    y, x = torch.meshgrid(torch.arange(2.0, HEIGHT, 4), torch.arange(2.0, WIDTH, 4), indexing="ij")
    for row in size.prod(dim=1).argsort(descending=True).tolist():
        x1, y1, x2, y2 = xyxy[row].tolist()
        inside = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1
        rank = pictures[:row].count(pictures[row])
        masks[pictures[row]][inside] = rank + 1
    return {
        "bboxes": torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2 / frame, size / frame], dim=1),
        "cls": torch.tensor(classes, dtype=torch.float32).view(-1, 1),
        "batch_idx": torch.tensor(pictures, dtype=torch.float32),
        "masks": masks,
    }


def record_losses(out: Path) -> None:
    """Save predictions, targets and the terms with the gains as they come and with gains of 1."""
    from ultralytics.nn.tasks import SegmentationModel
    from ultralytics.utils import DEFAULT_CFG

    model = SegmentationModel("yolov8n-seg.yaml", nc=CLASSES, verbose=False)
    model.args = DEFAULT_CFG
    criterion = model.init_criterion()
    gains = {key: getattr(criterion.hyp, key) for key in ("box", "cls", "dfl")}
    records: dict[str, np.ndarray] = {}
    for sharpness in (1, 3):
        for number, (case, rows) in enumerate(CASES.items()):
            given, batch = predictions(number + 10 * sharpness, sharpness), targets(*rows)
            key = f"{case}_{sharpness}"
            for kind, values in (("weighted", gains), ("plain", dict.fromkeys(gains, 1.0))):
                for name, value in values.items():
                    setattr(criterion.hyp, name, value)
                total, terms = criterion(dict(given), dict(batch))
                records[f"{key}/{kind}_total"] = total.numpy()  # box, mask, class, DFL, none
                for name, value in terms.items():
                    records[f"{key}/{kind}_{name}"] = np.asarray(float(value))
            for name, value in (given | batch).items():
                if isinstance(value, Tensor):
                    records[f"{key}/{name}"] = value.numpy()
    np.savez_compressed(out / "losses.npz", **records)


def main() -> None:
    """Write all records and the version of the package into the folder given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    import ultralytics

    for name, (scale, classes) in NETWORKS.items():
        record_network(out, name, scale, classes)
    record_losses(out)
    facts = {"package": "ultralytics", "version": ultralytics.__version__}
    facts |= {"license": "AGPL-3.0, run as a black box", "torch": torch.__version__}
    (out / "package.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
