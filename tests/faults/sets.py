"""Small valid inputs, made once; every case breaks a copy."""

import atexit
import copy
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.faults.case import ROOT, run_here

CPU = ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
ONE_STEP = ["--trainer.fast_dev_run", "true", *CPU]
SEG = ["train", "fit", "--config", "configs/quickstart/mask_rcnn.yaml"]
COCO = [
    *SEG, "--config", "configs/_base/data/coco.yaml", "--data.num_workers", "0",
    "--data.train_short_sides", "null", "--data.eval_short_side", "null", *ONE_STEP,
]  # fmt: skip
MIL = [
    "train", "fit", "--config", "configs/quickstart/abmil.yaml",
    "--config", "configs/_base/data/tabular_bags.yaml", *ONE_STEP,
]  # fmt: skip

_SQUARE = [[4.0, 4.0, 16.0, 4.0, 16.0, 16.0, 4.0, 16.0]]
_RUNS = {"size": [32, 32], "counts": [32 * 4, 64, 32 * 26]}  # columns 4 and 5
_ANNOTATION = {"category_id": 3, "iscrowd": 0, "area": 144, "bbox": [4, 4, 12, 12]}


def truth() -> dict[str, Any]:
    """Return a COCO dictionary of three images of 32 x 32 px; the third has no object."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 32, "width": 32} for i in (11, 12, 13)]
    annotations = [
        {"id": 101, "image_id": 11, "segmentation": _SQUARE},
        {"id": 102, "image_id": 11, "segmentation": _RUNS, "bbox": [4, 0, 2, 32], "area": 64},
        {"id": 103, "image_id": 12, "segmentation": _SQUARE, "category_id": 7},
        {"id": 104, "image_id": 12, "segmentation": _RUNS, "iscrowd": 1},
    ]
    annotations = [{**_ANNOTATION, **a} for a in annotations]
    categories = [{"id": 3, "name": "cell"}, {"id": 7, "name": "dot"}]
    return copy.deepcopy({"images": images, "annotations": annotations, "categories": categories})


def results() -> list[dict[str, Any]]:
    """Return valid predictions for ``truth``."""
    row = {"image_id": 11, "category_id": 3, "score": 0.9, "bbox": [4, 4, 12, 12]}
    rows = [row, row | {"image_id": 12, "category_id": 7, "score": 0.4}]
    return copy.deepcopy([r | {"segmentation": _RUNS} for r in rows])


def write_images(folder: Path) -> None:
    """Write the images of ``truth``."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    for number in (11, 12, 13):
        Image.fromarray(pixels + np.uint8(number)).save(folder / f"{number}.png")


def write_coco(root: Path) -> Path:
    """Write a COCO folder with the same images in ``train`` and ``val``."""
    for split in ("train", "val"):
        write_images(root / "images" / split)
        file = root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(truth()))
    return root


def bags() -> dict[str, Any]:
    """Return arrays of 20 bags of 3 instances with 4 features; bag b is from patient b // 2."""
    labels = np.arange(20) // 2 % 2
    features = np.random.default_rng(0).normal(size=(60, 4)) + labels.repeat(3)[:, None]
    return {"X": features, "bag_index": np.arange(60) // 3, "y": labels}


def write_bags(file: Path, **changes: Any) -> Path:
    """Write ``bags`` with some arrays changed, or left out if None."""
    arrays = {k: v for k, v in (bags() | changes).items() if v is not None}
    np.savez(file, **arrays)
    return file


def write_recipe(file: Path, source: str = "configs/mil/abmil.yaml", **trainer: Any) -> Path:
    """Write a recipe of configs/ that trains for three steps, or with the given ``trainer``."""
    recipe = yaml.safe_load((ROOT / source).read_text())
    recipe["trainer"] |= {"max_steps": 3} | trainer
    recipe["model"]["init_args"]["threshold"] = 0.5  # a fold of small sets has nothing to choose by
    file.write_text(yaml.safe_dump(recipe))
    return file


@functools.cache
def shared() -> Path:
    """Return a folder that exists until the process ends, for inputs that are slow to make."""
    folder = Path(tempfile.mkdtemp(prefix="segmil-faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _train(words: list[object]) -> Path:
    folder = shared() / "runs"
    arguments = [str(word) for word in words if word not in ("--trainer.fast_dev_run", "true")]
    brief = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    outcome = run_here([*arguments, *brief, "--runs_dir", str(folder)], limit=120)
    if outcome.code != 0:
        raise RuntimeError(f"a sound set was refused: {arguments}\n{outcome.err}")
    name = "mask_rcnn" if "mask_rcnn" in str(words[3]) else "abmil"
    return folder / name / "version_0" / "checkpoints" / "last.ckpt"


@functools.cache
def seg_checkpoint() -> Path:
    """Train a small Mask R-CNN for one step on ``truth`` and return its checkpoint."""
    network = "--model.init_args.model.init_args."
    small = [f"{network}box.width", 16, f"{network}mask.width", 8]
    return _train([*COCO, *small, "--data.root", write_coco(shared() / "coco")])


@functools.cache
def mil_checkpoint() -> Path:
    """Train an ABMIL for one step on ``bags`` and return its checkpoint."""
    return _train([*MIL, "--data.file", write_bags(shared() / "bags.npz")])
