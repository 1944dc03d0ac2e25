"""Ablation of the low-light parts: low-pass layers (AWD, SCB), pairs (DSL), RAW data or sRGB.

Run `python benchmarks/seg/low_light_ablation.py`. It trains every method with every seed and form
of input that has no result in `runs/low_light_ablation` yet, so that an interrupted command can be
repeated; delete the folder after a change of code. All trainings have the same number of steps of
two digit scenes on one thread; those with pairs see both views of every scene, so twice as many
images. The last checkpoint predicts the 200 test scenes in normal light, in the dark as in training
(exposure reduced 10 to 100 times), at fixed reductions, and at fewer bits.

Prints tables for `docs/REPRODUCTION.md`: means over the seeds, with 95 % intervals of a bootstrap
over the test scenes that all trainings share. `--only METHOD [METHOD ...]`, `--inputs` and
`--seeds` choose runs, `--report` trains nothing, and further arguments are passed on to
`train.py fit`, for trials in another `--folder`. `--nuclei DATA` does the same on a COCO folder of
nuclei with `configs/seg/mask_rcnn_nuclei.yaml`, whose EfficientNet has no place for the layers;
`--resnet` replaces it by a ResNet-10 without weights. `--figure F.png` draws AP against bits.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train
from datamodules.seg.digit_scenes import DigitScenesDataModule
from datamodules.transforms.raw.data import LightChange
from datamodules.transforms.raw.low_light import Input, LowLightOptions
from engine.deploy.predict import predict_coco
from evaluation.report.low_light import plot_bits
from evaluation.report.plots import save_figure
from evaluation.seg.coco import score_results
from evaluation.seg.coco_weighted import match_once, weighted_metrics
from evaluation.statistics.resampling import draw_counts, percentile_interval
from formats.coco.results import load_ground_truth
from formats.files import write_json

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)
STEPS = 1200
DRAWS = 500
BITS, RATIOS = (8, 10, 12, 14), (10.0, 30.0, 100.0)
HARDEST = RATIOS[-1]
BRIGHT = "bright"
RESNET = {"name": "resnet10t", "weights": None, "norm": "bn"}
KIND = "segm_map"

Row = dict[str, Any]
Draws = npt.NDArray[np.float64]


class Method(NamedTuple):
    """The parts that a method has, and its name in the tables."""

    title: str
    awd: bool = False
    scb: bool = False
    pairs: bool = False
    dark: bool = True


METHODS = {
    BRIGHT: Method("trained in normal light", dark=False),
    "plain": Method("trained in the dark"),
    "awd": Method("AWD", awd=True),
    "scb": Method("SCB", scb=True),
    "dsl": Method("DSL", pairs=True),
    "all": Method("AWD + SCB + DSL", awd=True, scb=True, pairs=True),
}


class Scenes(NamedTuple):
    """A data set with the recipe that is trained on it, and what changes in its backbone."""

    recipe: Path
    flags: tuple[str, ...]
    annotations: Path
    images: Path
    backbone: Mapping[str, Any] = {}


class SeenAs(LightChange):
    """The light of a checkpoint that was trained on ordinary images, in a form of input."""

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the argument ``low_light``, whose input is RAW data of three channels."""
        base = LowLightOptions(input="raw3").record()
        return super().arguments({**given, "low_light": base})


def overlay(method: Method, form: Input, backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a method changes in a recipe of Mask R-CNN, and the backbone's own changes."""
    content: dict[str, Any] = {}
    if method.dark:
        light = {"input": form, "clean": method.pairs}
        content["data"] = {"init_args": {"low_light": light}}
    layers = dict(backbone)
    if method.awd or method.scb:
        layers["low_pass"] = {"awd": method.awd, "scb": method.scb}
    if layers:
        model = {"init_args": {"backbone": {"init_args": layers}}}
        content["model"] = {"init_args": {"model": model}}
    if method.pairs:
        content.setdefault("model", {})["class_path"] = "lightning_modules.low_light.LowLightModule"
    return content


def digits(folder: Path) -> Scenes:
    """Write the test scenes once and return the digit scenes."""
    images, annotations = folder / "images/test", folder / "annotations/instances_test.json"
    if not annotations.is_file():
        DigitScenesDataModule().write_split("test", folder)
    recipe = ROOT / "configs/quickstart/mask_rcnn.yaml"
    return Scenes(recipe, (), annotations, images)


def nuclei(root: Path, resnet: bool) -> Scenes:
    """Return a COCO folder of nuclei, with a backbone that takes low-pass layers if asked for."""
    recipe = ROOT / "configs/seg/mask_rcnn_nuclei.yaml"
    annotations = root / "annotations/instances_val.json"
    flags = ("--data.root", str(root))
    return Scenes(recipe, flags, annotations, root / "images/val", RESNET if resnet else {})


def trained(scenes: Scenes, name: str, form: Input, seed: int, run: Run) -> tuple[Path, float]:
    """Train a method unless it is trained; return its last checkpoint and the processor time.

    Raises:
        RuntimeError: the training has failed.
    """
    done = run.folder / "trained.json"
    if done.is_file():
        record = json.loads(done.read_text())
        return Path(record["checkpoint"]), record["seconds"]
    run.folder.mkdir(parents=True, exist_ok=True)
    changes = run.folder / "overlay.yaml"
    changes.write_text(yaml.safe_dump(overlay(METHODS[name], form, scenes.backbone)))
    words = ["fit", "--config", str(scenes.recipe), "--config", str(changes), *scenes.flags]
    words += ["--trainer.max_epochs", "-1", "--trainer.max_steps", str(run.steps)]
    # The last checkpoint counts, so no validation chooses one
    words += ["--trainer.limit_val_batches", "0", "--checkpoint.save_top_k", "0"]
    words += ["--seed_everything", str(seed), "--data.seed", str(seed)]
    words += ["--runs_dir", str(run.folder), "--trainer.enable_progress_bar", "false", *run.flags]
    start = time.process_time()
    if train.main(words):
        raise RuntimeError(f"{name}, {form}, seed {seed}: the training has failed")
    seconds = time.process_time() - start
    newest = max(run.folder.glob("*/version_*"), key=lambda made: made.stat().st_mtime)
    checkpoint = newest / "checkpoints/last.ckpt"
    write_json(done, {"checkpoint": str(checkpoint), "seconds": seconds})
    return checkpoint, seconds


class Run(NamedTuple):
    """Where a run is kept, its number of steps, and further flags of its training."""

    folder: Path
    steps: int
    flags: Sequence[str]


def lights(name: str, form: Input) -> Iterator[tuple[str, LightChange]]:
    """Yield the name and the light of each evaluation."""
    kind = SeenAs if name == BRIGHT and form == "raw3" else LightChange
    yield "normal", kind("normal")
    yield "dark", kind("dark")
    for ratio in RATIOS:
        yield f"ratio {ratio:g}", kind("dark", ratio)
    for bits in BITS:
        yield f"bits {bits}", kind("dark", HARDEST, bits)


def result(scenes: Scenes, name: str, form: Input, seed: int, run: Run) -> Row:
    """Return the row of a run; train and score it unless its file exists."""
    file = run.folder / "result.json"
    if file.is_file():
        row: Row = json.loads(file.read_text())
        return row
    # One training in normal light serves for all forms of input
    fitted = run._replace(folder=run.folder.parents[2] / BRIGHT / f"seed_{seed}")
    checkpoint, seconds = trained(scenes, name, form, seed, fitted if name == BRIGHT else run)
    truth = load_ground_truth(scenes.annotations)
    images = len(truth["images"])
    weights = next(draw_counts([np.arange(images)], DRAWS, 0, DRAWS))
    cells: dict[str, dict[str, float]] = {}
    draws: dict[str, Draws] = {}
    for cell, light in lights(name, form):
        found = predict_coco(checkpoint, scenes.annotations, scenes.images, light=light)
        scores = score_results(found.ground_truth, found.rows, max_dets=found.max_dets or 100)
        cells[cell] = {key: scores.metrics[key] for key in (KIND, "box_map")}
        if cell in ("normal", "dark"):
            matches = match_once(found.ground_truth, found.rows, "segm", found.max_dets or 100)
            draws[cell] = weighted_metrics(matches, weights)[KIND]
    run.folder.mkdir(parents=True, exist_ok=True)
    np.savez(run.folder / "draws.npz", **draws)  # type: ignore[arg-type] # numpy's stub
    row = {"method": name, "input": form, "seed": seed, "seconds": seconds, "cells": cells}
    write_json(file, row)
    return row


def tables(folder: Path, forms: Sequence[Input]) -> str:
    """Return the tables of all finished runs as Markdown."""
    parts = []
    for form in forms:
        runs = {name: _finished(folder / form / name) for name in METHODS}
        runs = {name: rows for name, rows in runs.items() if rows}
        if not runs:
            continue
        lines = [["method", "seeds", "s", "normal", "dark", "dark, to plain"]]
        lines[0] += [f"exposure / {ratio:g}" for ratio in RATIOS]
        lines[0] += [f"/ {HARDEST:g}, {bits} bits" for bits in BITS]
        lines.append(["---"] * len(lines[0]))
        plain = _draws(folder / form / "plain", "dark")
        for name, rows in runs.items():
            own = {kind: _draws(folder / form / name, kind) for kind in ("normal", "dark")}
            cells = [METHODS[name].title, str(len(rows))]
            cells.append(f"{np.mean([row['seconds'] for row in rows]):.0f}")
            cells += [_mean(rows, kind, list(own[kind].values())) for kind in ("normal", "dark")]
            cells.append("" if name == "plain" else _difference(runs, name, own["dark"], plain))
            cells += [_mean(rows, f"ratio {ratio:g}") for ratio in RATIOS]
            cells += [_mean(rows, f"bits {bits}") for bits in BITS]
            lines.append(cells)
        text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        parts.append(f"`{form}`:\n\n{text}")
    return "\n\n".join(parts)


def _finished(folder: Path) -> list[Row]:
    files = sorted(folder.glob("seed_*/result.json"))
    return [json.loads(file.read_text()) for file in files]


def _draws(folder: Path, kind: str) -> dict[str, Draws]:
    files = sorted(folder.glob("seed_*/draws.npz"))
    return {file.parent.name: np.load(file)[kind] for file in files}


def _mean(rows: Sequence[Row], cell: str, draws: Sequence[Draws] = ()) -> str:
    mean = f"{np.mean([row['cells'][cell][KIND] for row in rows]):.3f}"
    if not draws:
        return mean
    low, high = percentile_interval(np.mean(draws, axis=0), 0.95)
    return f"{mean} [{low:.3f}, {high:.3f}]"


def _difference(
    runs: Mapping[str, Sequence[Row]], name: str, own: dict[str, Draws], plain: dict[str, Draws]
) -> str:
    """Return the difference to training in the dark alone, over the seeds that both have."""
    values = {n: {f"seed_{row['seed']}": row["cells"]["dark"][KIND] for row in runs.get(n, ())}
              for n in (name, "plain")}  # fmt: skip
    both = sorted(set(own) & set(plain))
    if not both:
        return ""
    differences = [values[name][seed] - values["plain"][seed] for seed in both]
    low, high = percentile_interval(np.mean([own[s] - plain[s] for s in both], axis=0), 0.95)
    better = sum(value > 0 for value in differences)
    return f"{np.mean(differences):+.3f} [{low:+.3f}, {high:+.3f}], {better}/{len(both)}"


def draw_bits(folder: Path, forms: Sequence[Input], path: Path) -> None:
    """Draw mean AP against bits at the smallest exposure."""
    metrics: dict[str, dict[str, float]] = {}
    cells: list[Row] = []
    for form in forms:
        for name in (BRIGHT, "plain", "all"):
            rows = _finished(folder / form / name)
            if not rows:
                continue
            title = f"{METHODS[name].title}, {form}"
            normal = np.mean([row["cells"]["normal"][KIND] for row in rows])
            metrics[title] = {"normal_segm_map": float(normal)}
            for bits in BITS:
                mean = float(np.mean([row["cells"][f"bits {bits}"][KIND] for row in rows]))
                one = {"model": title, "input": title, "ratio": HARDEST, "bits": bits}
                cells.append({**one, KIND: mean})
    save_figure(plot_bits(metrics, cells), path)


def main() -> int:
    """Train what is missing and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=METHODS)
    parser.add_argument("--inputs", nargs="+", choices=("raw3", "srgb"), default=["raw3", "srgb"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder", type=Path, default=Path("runs/low_light_ablation"))
    parser.add_argument("--nuclei", type=Path, metavar="DATA", help="COCO folder of nuclei")
    parser.add_argument("--resnet", action="store_true", help="replace the backbone of --nuclei")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--figure", type=Path, metavar="F.png")
    args, more = parser.parse_known_args()
    low_pass = args.nuclei is None or args.resnet
    fitting = [n for n, m in METHODS.items() if low_pass or not (m.awd or m.scb)]
    names = args.only or fitting
    if not set(names) <= set(fitting):
        parser.error(f"without --resnet, --nuclei takes no low-pass layers; choose of {fitting}")
    torch.set_num_threads(1)
    if not args.report:
        data: Path | None = args.nuclei
        scenes = nuclei(data, args.resnet) if data else digits(args.folder / "scenes")
        for seed in args.seeds:
            for form in args.inputs:
                for name in names:
                    place = args.folder / form / name / f"seed_{seed}"
                    result(scenes, name, form, seed, Run(place, args.steps, more))
    print(tables(args.folder, args.inputs))
    if args.figure is not None:
        draw_bits(args.folder, args.inputs, args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
