"""Train and evaluate both quickstart recipes on embedded data; results go to runs/quickstart.

`make quickstart` calls this; the steps are the commands that a user would type.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from types import ModuleType

import evaluate
import train
from engine.config.environment import environment_fault

RUNS = Path("runs")
OUT = RUNS / "quickstart"
SEG, MIL = "quickstart_mask_rcnn", "quickstart_abmil"
EXTRA: list[str] = []  # further arguments of both trainings
TEST_SCENES = 200


def _run(program: ModuleType, *arguments: object) -> None:
    """Print one command, run it in this process and stop where it fails."""
    words = [*map(str, arguments)]
    name = f"{program.__name__}.py"
    print(f"\n$ python {name} {shlex.join(words)}", flush=True)
    code = program.main(words)
    if code != 0:
        raise SystemExit(f"quickstart: {name} {words[0]} failed with exit code {code}")


def _newest(name: str) -> Path:
    return max((RUNS / name).glob("version_*"), key=lambda p: int(p.name.removeprefix("version_")))


def _train(name: str, *arguments: object) -> Path:
    """Run one command of train.py and return its run folder."""
    _run(train, *arguments, "--name", name, "--runs_dir", RUNS)
    return _newest(name)


def segmentation() -> dict[str, object]:
    """Train Mask R-CNN on digit scenes with W&B offline and score the whole test split."""
    from datamodules.seg.digit_scenes import DigitScenesDataModule

    recipes = [
        "--config",
        "configs/quickstart/mask_rcnn.yaml",
        "--config",
        "configs/_base/wandb.yaml",
    ]
    run = _train(SEG, "fit", *recipes, *EXTRA)
    checkpoint = run / "checkpoints" / "best.ckpt"
    images, annotations = DigitScenesDataModule(test_scenes=TEST_SCENES).write_split(
        "test", OUT / "scenes"
    )
    source = ["--ckpt_path", checkpoint, "--data", images, "--overlays", "20"]
    predicted = _train("quickstart_predict", "predict", *source)
    # The ids of a folder's images are their places in the order of names, here the data set's ids.
    predictions, metrics = predicted / "predictions" / "predict.json", OUT / "segmentation.json"
    source = ["--predictions", predictions, "--annotations", annotations, "--images", images]
    _run(evaluate, "coco", *source, "--out", metrics)
    scores = json.loads(metrics.read_text())["metrics"]
    shown = [run / "pictures", predicted / "predictions"]
    return {
        "segm_map": scores["segm_map"],
        "segm_map_50": scores["segm_map_50"],
        "annotations": str(annotations),
        "predictions": str(predictions),
        "images": str(images),
        "pictures": [str(p) for folder in shown for p in sorted(folder.rglob("*.png"))],
        "checkpoint": str(checkpoint),
    }


def bags() -> dict[str, object]:
    """Train ABMIL on digit bags, score the test split and write bags and attention as CSV."""
    recipe = "configs/quickstart/abmil.yaml"
    run = _train(MIL, "fit", "--config", recipe, *EXTRA)
    checkpoint = run / "checkpoints" / "best.ckpt"
    tested = _train(f"{MIL}_test", "test", "--config", recipe, "--ckpt_path", checkpoint)
    table, metrics = tested / "predictions" / "bags.csv", OUT / "bags.json"
    _run(evaluate, "mil", "--predictions", table, "--out", metrics)
    return {
        "bag_auroc": json.loads(metrics.read_text())["metrics"]["bag_auroc"],
        "witness_auroc": _last_value(tested / "metrics.csv", "test/witness_auroc"),
        "bag_predictions": str(table),
        "attention": str(tested / "predictions" / "attention.csv"),
        "pictures": [str(p) for r in (run, tested) for p in sorted((r / "pictures").glob("*.png"))],
        "checkpoint": str(checkpoint),
    }


def _last_value(table: Path, column: str) -> float:
    import csv

    with table.open() as stream:
        values = [row[column] for row in csv.DictReader(stream) if row.get(column)]
    return float(values[-1])


def main() -> int:
    """Run both halves, write summary.json and print where everything is."""
    if fault := environment_fault():
        sys.stderr.write(f"error: {fault}\n")
        return 2
    start = time.perf_counter()
    OUT.mkdir(parents=True, exist_ok=True)
    seg, mil = segmentation(), bags()
    figures = [*seg.pop("pictures"), *mil.pop("pictures")]  # type: ignore[misc]
    checkpoints = {"seg": seg.pop("checkpoint"), "mil": mil.pop("checkpoint")}
    seconds = time.perf_counter() - start
    summary = {**seg, **mil, "seconds": seconds, "pictures": figures, "checkpoints": checkpoints}
    path = OUT / "summary.json"
    path.write_text(json.dumps(summary, indent=1))
    print(f"\nsegmil quickstart: {seconds:.0f} s of training and evaluation")
    for name in ("segm_map", "segm_map_50", "bag_auroc", "witness_auroc"):
        print(f"  {name:14s} {summary[name]:.4f}")
    print(f"  figures        {len(figures)}, for example {figures[0]}")
    print(f"  checkpoints    {checkpoints['seg']}\n                 {checkpoints['mil']}")
    print(f"  summary        {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
