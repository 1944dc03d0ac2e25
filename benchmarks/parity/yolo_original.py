"""Recording of outputs of the original YOLOv8-seg, run as a black box, for `yolo_compare.py`.

The package (`ultralytics`) is AGPL-3.0: it is not a dependency of this project, its source is not
read, and only public calls, names and shapes of parameters and numbers are used. Run this file
with the Python of a throw-away environment (README.md): `python yolo_original.py OUT [--golden]`.
The inputs come from `yolo_recipe.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.parity import yolo_recipe as recipe

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "models" / "seg" / "yolo" / "data" / "yolo_original.json"
RAW = ("boxes", "scores", "mask_coefficient", "proto")


def save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors."""
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, path)


def network(name: str) -> Any:
    """Return an original network with the weights of the recipe."""
    from ultralytics.nn.tasks import SegmentationModel

    scale, classes = {**recipe.NETWORKS, **recipe.LARGER}[name]
    model = SegmentationModel(f"yolov8{scale}-seg.yaml", nc=classes, verbose=False)
    recipe.fill(model.state_dict(), name)
    return model.eval()


@torch.no_grad()
def outputs(model: Any) -> dict[str, Tensor]:
    """Return raw and decoded outputs for the images of the recipe."""
    decoded, raw = model(recipe.images())
    return {key: raw[key] for key in RAW} | {"decoded": decoded[0]}


def record_networks(out: Path) -> dict[str, Any]:
    """Save weights and outputs of the networks; return fingerprints of their raw outputs."""
    golden = {}
    for name in [*recipe.NETWORKS, *recipe.LARGER]:
        model = network(name)
        found = outputs(model)
        save(model.state_dict(), out / f"network_{name}_weights.safetensors")
        save(found, out / f"network_{name}_outputs.safetensors")
        if name in recipe.LARGER:
            continue
        own = {k: found[k] if k == "proto" else found[k].transpose(1, 2) for k in RAW}
        golden[name] = {key: recipe.fingerprint(value) for key, value in own.items()}
    return golden


def record_losses(out: Path) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Save the loss terms, with default gains and with gains of 1, and their gradients.

    Returns the terms with gains of 1, and the norms of the gradients of their sum with respect to
    the outputs of the network.
    """
    from ultralytics.nn.tasks import SegmentationModel
    from ultralytics.utils import DEFAULT_CFG

    model = SegmentationModel("yolov8n-seg.yaml", nc=recipe.CLASSES, verbose=False)
    model.args = DEFAULT_CFG
    criterion = model.init_criterion()
    gains = {key: getattr(criterion.hyp, key) for key in ("box", "cls", "dfl")}
    levels = [torch.zeros(2, 1, recipe.HEIGHT // s, recipe.WIDTH // s) for s in (8, 16, 32)]
    records: dict[str, np.ndarray] = {}
    golden: dict[str, dict[str, float]] = {}
    norms: dict[str, dict[str, float]] = {}
    for sharpness in recipe.SHARPNESS:
        for case in recipe.CASES:
            given, batch = recipe.predictions(case, sharpness), recipe.targets(case)
            key = f"{case}_{sharpness}"
            for kind, values in (("weighted", gains), ("plain", dict.fromkeys(gains, 1.0))):
                for name, value in values.items():
                    setattr(criterion.hyp, name, value)
                leaves = {k: v.clone().requires_grad_() for k, v in given.items()}
                total, terms = criterion({**leaves, "feats": levels}, dict(batch))
                gradients = torch.autograd.grad(
                    total.sum() / len(given["proto"]), list(leaves.values())
                )
                records[f"{key}/{kind}_total"] = (
                    total.detach().numpy()
                )  # box, mask, class, DFL, none
                for name, value in terms.items():
                    records[f"{key}/{kind}_{name}"] = np.asarray(float(value))
            for name, gradient in zip(RAW, gradients, strict=True):
                records[f"{key}/gradient_{name}"] = gradient.numpy()
            norms[key] = {n: float(g.double().norm()) for n, g in zip(RAW, gradients, strict=True)}
            golden[key] = {
                term: float(records[f"{key}/plain_{name}"]) for term, name in recipe.TERMS.items()
            }
    np.savez_compressed(out / "losses.npz", **records)
    return golden, norms


def write_set(folder: Path) -> Path:
    """Write four small images of noise with two objects each as a data set; return its YAML."""
    from PIL import Image

    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            noise = recipe.uniform(f"{split} {number}", (96, 128, 3)) * 256
            Image.fromarray(noise.astype(np.uint8)).save(folder / f"images/{split}/{number}.png")
            polygons = "0 .2 .2 .6 .2 .6 .6 .2 .6\n1 .5 .5 .9 .5 .9 .9 .5 .9\n"
            (folder / f"labels/{split}/{number}.txt").write_text(polygons, encoding="utf-8")
    path = folder / "set.yaml"
    path.write_text(
        f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n",
        encoding="utf-8",
    )
    return path


def record_checkpoints(out: Path) -> None:
    """Let the package write checkpoints, and save the outputs of its networks after reading."""
    from ultralytics import YOLO

    for name in recipe.NETWORKS:
        saved = YOLO(f"yolov8{recipe.NETWORKS[name][0]}-seg.yaml")
        saved.model = network(name)
        saved.save(out / f"checkpoint_{name}.pt")
    trained = YOLO("yolov8n-seg.yaml")
    trained.train(
        data=str(write_set(out / "set")),
        **{"epochs": 2, "imgsz": 64, "batch": 4, "workers": 0, "save_period": 1, "device": "cpu"},
        **{"project": str(out.resolve() / "runs"), "name": "run", "exist_ok": True},
        **{"plots": False, "verbose": False},
    )
    weights = out / "runs" / "run" / "weights"
    for source, name in (("best", "best_n3"), ("epoch1", "ema_n3")):
        shutil.copy(weights / f"{source}.pt", out / f"checkpoint_{name}.pt")
    shutil.copy(weights / "best.pt", out / "checkpoint_other_classes_n80.pt")
    YOLO("yolov8n.yaml").save(out / "checkpoint_detection_n80.pt")
    YOLO("yolo11n-seg.yaml").save(out / "refused_version11_n80.pt")
    fused = YOLO("yolov8n-seg.yaml")
    fused.fuse()
    fused.save(out / "refused_fused_n80.pt")
    for path in sorted(out.glob("checkpoint_*.pt")):
        if "detection" not in path.stem:
            found = outputs(YOLO(path).model.float().eval())
            save(found, out / f"{path.stem}_outputs.safetensors")


def main() -> None:
    """Write all records and the version of the package to the given folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--golden", action="store_true", help=f"also write {GOLDEN.name}")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("WANDB_MODE", "disabled")
    import ultralytics

    facts = {"package": "ultralytics", "version": ultralytics.__version__}
    facts |= {"license": "AGPL-3.0, run as a black box", "torch": torch.__version__}
    facts |= {"seeds": "names of networks, weights and cases; benchmarks/parity/yolo_recipe.py"}
    golden: dict[str, Any] = {"made_by": facts, "networks": record_networks(out)}
    golden["losses"], golden["gradients"] = record_losses(out)
    record_checkpoints(out)
    (out / "package.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if arguments.golden:
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
