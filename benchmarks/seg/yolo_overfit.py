"""Overfitting test of the one-stage network and its losses on 16 images.

Run `python benchmarks/seg/yolo_overfit.py [--root DIR] [--pictures 16] [--epochs E]`. It trains
scale n from scratch at 640 px on the first annotated images of a COCO-format folder (images/train
and annotations/instances_train.json), without augmentation, and scores the same images. Masks at a
quarter of the resolution limit the AP. The run folder is runs/yolo_overfit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import evaluate
import train

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "runs"
RECIPE = """
model:
  class_path: lightning_modules.segmentation.SegmentationModule
  init_args:
    model: {class_path: models.seg.yolo.YOLOSeg, init_args: {scale: n}}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 2.0e-3, weight_decay: 0.0}}
    lr_scheduler: {class_path: optim.schedules.Cosine, init_args: {warmup: 0.05}}
    loss_weights: {box: 7.5, class: 0.5, dfl: 1.5, mask: 7.5}
    channels_last: true
data:
  class_path: datamodules.seg.coco.CocoDataModule
  init_args:
    batch_size: 4
    eval_batch_size: 1
    train_short_sides: [4096]        # the longer side decides
    eval_short_side: 4096
    max_long_side: 640
    mask_stride: 4
trainer: {gradient_clip_val: 10.0, max_epochs: 300, check_val_every_n_epoch: 300}
checkpoint: {monitor: val/segm_map}
"""


def subset(source: Path, count: int) -> dict[str, object]:
    """Return the first images with an object that is not a crowd, and their annotations."""
    data = json.loads(source.read_text())
    annotated = {a["image_id"] for a in data["annotations"] if not a.get("iscrowd")}
    images = [i for i in data["images"] if i["id"] in annotated][:count]
    kept = {image["id"] for image in images}
    annotations = [a for a in data["annotations"] if a["image_id"] in kept]
    return {"images": images, "annotations": annotations, "categories": data["categories"]}


def main() -> int:
    """Train on a few images and score the same images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared/data/coco_small")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe, annotations = Path(folder) / "overfit.yaml", Path(folder) / "instances_train.json"
        recipe.write_text(RECIPE)
        data = subset(args.root / "annotations/instances_train.json", args.pictures)
        annotations.write_text(json.dumps(data))
        words = ["fit", "--config", str(recipe), "--name", "yolo_overfit", "--runs_dir", str(RUNS)]
        words += ["--trainer.max_epochs", str(args.epochs)]
        words += ["--trainer.check_val_every_n_epoch", str(args.epochs)]
        for split in ("train", "val"):
            words += [f"--data.{split}_annotations", str(annotations)]
            words += [f"--data.{split}_images", str(args.root / "images/train")]
        code = train.main(words)
        run = max((RUNS / "yolo_overfit").glob("version_*"), key=lambda p: int(p.name[8:]))
        score = ["coco", "--ckpt", str(run / "checkpoints/last.ckpt")]
        score += ["--annotations", str(annotations), "--images", str(args.root / "images/train")]
        return code or evaluate.main([*score, "--out", str(run / "overfit.json")])


if __name__ == "__main__":
    sys.exit(main())
