"""Losses of `configs/seg/mask_rcnn.yaml` in the three ways to start it (docs/weights.md).

``python benchmarks/seg/starting_weights.py --root ../shared/data/coco_small`` trains 200 steps with
the packaged backbone, from a file with the names of torchvision's ResNet-50 and from scratch. It
prints the mean losses of the first and the last 20 steps. The file has random weights.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.published_weights import random_weights

ROOT = Path(__file__).resolve().parents[2]
WAYS = ("packaged_backbone", "init_from", "from_scratch")
ENDS = 20  # steps whose mean loss is printed


def command(way: str, root: Path, steps: int, folder: Path) -> list[str]:
    """Return the command of one training, as a user types it."""
    words = [sys.executable, "train.py", "fit", "--config", "configs/seg/mask_rcnn.yaml"]
    if way == "init_from":
        file = folder / "resnet50.pth"
        torch.save(random_weights("resnet50_v1"), file)
        words += ["--model.init_args.init_from", str(file)]
    else:
        words += ["--config", f"configs/_base/{way}.yaml"]
    words += ["--data.root", str(root.resolve()), "--data.batch_size", "2"]
    words += ["--data.train_short_sides", "[320]", "--data.max_long_side", "533"]
    words += ["--data.num_workers", "0", "--trainer.accelerator", "cpu"]
    words += ["--trainer.max_steps", str(steps), "--trainer.limit_val_batches", "0"]
    words += ["--trainer.log_every_n_steps", "1"]
    return [*words, "--runs_dir", str(folder), "--name", way]


def losses(metrics: Path) -> list[float]:
    """Return the logged losses of the training steps."""
    with metrics.open() as stream:
        return [float(row["train/loss"]) for row in csv.DictReader(stream) if row["train/loss"]]


def main() -> None:
    """Run the trainings one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="a COCO folder")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    args = parser.parse_args()
    for way in args.ways:
        with tempfile.TemporaryDirectory() as folder:
            words = command(way, args.root, args.steps, Path(folder))
            subprocess.run(words, cwd=ROOT, check=True)
            found = losses(Path(folder) / way / "version_0" / "metrics.csv")
        first, last = fmean(found[:ENDS]), fmean(found[-ENDS:])
        sys.stdout.write(f"{way}: {first:.3f} -> {last:.3f}, largest {max(found):.3f}\n")


if __name__ == "__main__":
    main()
