"""Half precision on a processor with bfloat16 units: speed, and mask AP on digit scenes.

    python benchmarks/bf16.py speed [--repeats R] [--threads T]
    python benchmarks/bf16.py ap FOLDER [--seeds S]

`speed` times a training step of YOLOSeg n (640 px, 4 images of 10 objects, channels_last) in
bfloat16 against single precision, alternating in one process; that of Mask R-CNN is a row of
`benchmarks/mask_rcnn.py`. `ap` trains both quickstart recipes with and without
`configs/_base/bf16.yaml` for each of S seeds, scores the test scenes and prints a table; what
FOLDER already holds is not done again. Both end with a note where the processor has no such units.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mask_rcnn import in_turn, show
from benchmarks.parity.yolo_speed import Case, our_step
from models.ops.precision import has_bfloat16_units

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("mask_rcnn", "yolo")
OVERLAYS: dict[str, list[str]] = {"float32": [], "bf16": ["--config", "configs/_base/bf16.yaml"]}
BOUND = 0.01  # largest difference of mean mask AP


def time_yolo(repeats: int, threads: int) -> None:
    """Print the ratio of a step of YOLOSeg n to the same in single precision."""
    torch.set_num_threads(threads)
    case = Case("n", 640, 10)
    half = torch.autocast("cpu", torch.bfloat16)(our_step(case))
    show([f"YOLOSeg {case}, bfloat16"], in_turn(repeats, half, our_step(case)))


def mask_ap(folder: Path, recipe: str, precision: str, seed: int) -> float:
    """Train and score a recipe unless that is done; return mask AP on the test scenes."""
    name = f"{recipe}_{precision}_{seed}"
    files = ["--config", f"configs/quickstart/{recipe}.yaml", *OVERLAYS[precision]]
    files += ["--trainer.accelerator", "cpu", "--runs_dir", str(folder)]
    trained = folder / name / "version_0"
    if not (trained / "done").exists():
        shutil.rmtree(folder / name, ignore_errors=True)  # of a training that was interrupted
        _call("train.py", "fit", *files, "--name", name, "--seed_everything", str(seed))
        (trained / "done").touch()
    table = folder / f"{name}_test" / "version_0" / "metrics.csv"
    if not table.exists():
        checkpoint = trained / "checkpoints" / "best.ckpt"
        _call("train.py", "test", *files, "--name", f"{name}_test", "--ckpt_path", str(checkpoint))
    with table.open() as stream:
        found = [row["test/segm_map"] for row in csv.DictReader(stream)]
    return float(found[-1])


def _call(*words: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", *words], cwd=ROOT, check=True)


def compare_ap(folder: Path, seeds: int) -> bool:
    """Print mask AP of all trainings; return whether the means differ by at most the bound."""
    folder.mkdir(parents=True, exist_ok=True)
    fine = True
    for recipe in RECIPES:
        found = {
            precision: [mask_ap(folder, recipe, precision, seed) for seed in range(seeds)]
            for precision in OVERLAYS
        }
        means = {name: statistics.mean(values) for name, values in found.items()}
        difference = means["bf16"] - means["float32"]
        fine &= abs(difference) <= BOUND
        for name, values in found.items():
            print(f"{recipe:12s} {name:8s} {means[name]:.4f}  {[round(v, 4) for v in values]}")
        print(f"{recipe:12s} difference {difference:+.4f} (bound {BOUND})", flush=True)
    return fine


def main() -> int:
    """Run the chosen study; exit code 1 if a mean mask AP differs by more than the bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("--repeats", type=int, default=5)
    speed.add_argument("--threads", type=int, default=2)
    scores = commands.add_parser("ap")
    scores.add_argument("folder", type=Path)
    scores.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if not has_bfloat16_units():
        print("This processor has no bfloat16 units: nothing to measure.")
        return 0
    if args.command == "ap":
        return 0 if compare_ap(args.folder.resolve(), args.seeds) else 1
    time_yolo(args.repeats, args.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
