"""Trained on the slides of two scanners, tested on those of the third: does stain matter?

Run `python benchmarks/wsi/cross_scanner.py FOLDER`. It draws slides of three scanners
(`datamodules.wsi.synthetic_slides`), writes their features without a stain step, after Macenko's
and Reinhard's normalisation and with augmented versions, and cross-validates gated ABMIL with a
scanner a fold, with three seeds each. What is done is kept in FOLDER and skipped, so that the same
command goes on after a stop. `--table` puts what is there into docs/REPRODUCTION.md, and the image
of patches before and after into docs/images.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import evaluate
import segmil
import train
from datamodules.wsi.synthetic_slides import plan_slides, write_slides
from datamodules.wsi.synthetic_stain import SCANNERS
from evaluation.wsi.lesion_patches import mean_patch_auroc, slide_patches
from formats.files import atomic_write, write_csv, write_json
from loggers.run_files import write_png

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stain_colours import METHODS, measured, spread

ROOT = Path(__file__).resolve().parents[2]
PAGE, IMAGE = ROOT / "docs/REPRODUCTION.md", ROOT / "docs/images/stains.jpg"
BEGIN, END = "<!-- table of benchmarks/wsi/cross_scanner.py -->", "<!-- end of the table -->"
SLIDES, SIDE_MM, VERSIONS, SEEDS, EPOCHS = 42, 1.8, 3, (0, 1, 2), 30
EXTRACTIONS = {
    "plain": ["--data.augmented", str(VERSIONS)],
    "macenko": ["--data.stain", "datamodules.wsi.stain.Macenko"],
    "reinhard": ["--data.stain", "datamodules.wsi.stain.Reinhard"],
}
# Name, folder of the features, further arguments of the training
TRAININGS = {
    "none": ("plain", []),
    "Macenko": ("macenko", []),
    "Reinhard": ("reinhard", []),
    "augmented": ("plain", ["--data.augmented", "true"]),
}


def run(program: Any, *words: object) -> None:
    """Run one command in this process and stop where it fails."""
    code = program.main([*map(str, words)])
    if code != 0:
        raise SystemExit(f"{program.__name__}.py {words[0]} failed with exit code {code}")


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def drawn(folder: Path, slides: int, each: int) -> Path:
    """Draw the slides and write a table of some of them, whose folds are the scanners."""
    made, table = folder / "slides.csv", folder / "folds.csv"
    if not made.exists():
        write_slides(folder, slides, slides, 0, side_mm=SIDE_MM)
    fold = {scanner.name: number for number, scanner in enumerate(SCANNERS)}
    lines: list[list[object]] = []
    taken = Counter[tuple[str, str]]()
    for row in rows(made):
        kind = row["scanner"], row["label"]
        taken[kind] += 1
        if taken[kind] <= each:
            lines.append([row["slide_id"], row["patient_id"], row["label"], fold[kind[0]]])
    write_csv(table, ("slide_id", "patient_id", "label", "fold"), lines)
    return table


def extracted(folder: Path, table: Path, names: set[str]) -> None:
    """Write features; files that are there are skipped by the command."""
    slides = [row["slide_id"] for row in rows(table)]
    for name, words in EXTRACTIONS.items():
        if name not in names or all((folder / name / f"{slide}.h5").exists() for slide in slides):
            continue
        run(
            train, "predict", "--config", "configs/wsi/extract_features.yaml",
            "--data.slides", folder / "slides", "--data.table", table,
            "--data.features", folder / name, "--data.num_workers", 0,
            "--runs_dir", folder / "runs", *words,
        )  # fmt: skip


def trained(folder: Path, table: Path, name: str, seed: int) -> None:
    """Cross-validate one method with one seed, a scanner a fold, and score slides and patches."""
    features, words = TRAININGS[name]
    out = folder / "trained" / f"{name}_{seed}"
    if (out / "scores.json").exists():
        return
    run(
        evaluate, "mil-cv", "--config", "configs/mil/abmil_features.yaml",
        "--trainer.max_epochs", EPOCHS, "--data.num_workers", 0, *words,
        "--data", table, "--features", folder / features, "--repeats", 1, "--seed", seed,
        "--save-predictions", out / "bags.csv", "--save-checkpoints", out / "folds",
        "--out", out / "cv.json",
    )  # fmt: skip
    predictions = rows(out / "bags.csv")
    scores = {"slides": _slide_areas(predictions)}
    scores["patches"] = _patch_areas(folder, out, folder / features, predictions)
    write_json(out / "scores.json", scores)


def _slide_areas(predictions: Sequence[dict[str, str]]) -> list[float]:
    from sklearn.metrics import roc_auc_score

    areas = []
    for fold in range(len(SCANNERS)):
        own = [r for r in predictions if int(r["fold"]) == fold]
        labels, values = ([float(r[key]) for r in own] for key in ("label", "score"))
        areas.append(float(roc_auc_score(labels, values)))
    return areas


def _patch_areas(
    folder: Path, out: Path, features: Path, predictions: Sequence[dict[str, str]]
) -> list[float]:
    areas = []
    for checkpoint in sorted((out / "folds").glob("*.ckpt")):
        fold = int(checkpoint.stem.rpartition("fold")[2])
        model = segmil.load(checkpoint, "cpu")
        own = [r["bag_id"] for r in predictions if int(r["fold"]) == fold]
        values = {slide: model.predict(features / f"{slide}.h5").attention.ravel() for slide in own}
        patches = {
            slide: slide_patches(features / f"{slide}.h5", folder / "lesions" / f"{slide}.geojson")
            for slide in values
        }
        areas.append(mean_patch_auroc(patches, values))
    return areas


def coloured(folder: Path, slides: int) -> None:
    """Measure the colours of the slides and draw some patches."""
    done = folder / "colours.json"
    if done.exists():
        return
    plans = {plan.slide_id: plan for plan in plan_slides(slides, slides, 0, SIDE_MM)}
    found = measured(folder / "slides", plans)
    tiles = found.pop("tiles")
    image = np.vstack([np.hstack(tiles[scanner.name]) for scanner in SCANNERS])
    write_png(folder / "stains.png", image)
    write_json(done, found)


def colour_table(folder: Path) -> Iterator[str]:
    """Yield the lines of the table of colours."""
    found = json.loads((folder / "colours.json").read_text())
    yield "| stain step | spread of slide colours: R, G, B | haematoxylin off by | eosin off by |"
    yield "|---|---|---|---|"
    for name in METHODS:
        values = ", ".join(f"{v:.1f}" for v in spread(found["colours"][name]))
        angles = np.array(list(found["angles"][name].values()))
        cells = ["", ""]
        if len(angles):
            cells = [f"{a.mean():.1f} (at most {a.max():.1f})" for a in angles.T]
        yield f"| {name} | {values} | {' | '.join(cells)} |"


def score_table(folder: Path) -> Iterator[str]:
    """Yield the lines of the table of scores; none before a training is finished."""
    if not any(folder.glob("trained/*/scores.json")):
        return
    names = [scanner.name for scanner in SCANNERS]
    yield f"| | {' | '.join(f'slides, {n}' for n in names)} | slides | patches |"
    yield "|---|" + "---|" * (len(names) + 2)
    for name in TRAININGS:
        paths = sorted((folder / "trained").glob(f"{name}_*/scores.json"))
        scores = [json.loads(path.read_text()) for path in paths]
        if not scores:
            continue
        slides = np.array([s["slides"] for s in scores])  # (seeds, scanners)
        patches = np.array([s["patches"] for s in scores])
        cells = [*(_cell(own) for own in slides.T), _cell(slides.mean(1)), _cell(patches.mean(1))]
        yield f"| {name} | {' | '.join(cells)} |"


def _cell(values: Any) -> str:
    """Return mean and standard deviation over seeds."""
    values = values.tolist()
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ({deviation:.3f})".replace("0.", ".")


def write_table(folder: Path) -> None:
    """Put the tables between the markers of the page, and the image beside it."""
    text = PAGE.read_text("utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END, 1)
    lines = [*colour_table(folder), "", *score_table(folder)]
    body = "\n".join(["", "", *lines, "", ""])
    with atomic_write(PAGE) as file:
        file.write(f"{before}{BEGIN}{body}{END}{after}".encode())
    with Image.open(folder / "stains.png") as image:
        image.save(IMAGE, quality=85)


def main() -> None:
    """Do what is left, and print or write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=SLIDES, help="slides, each of a patient")
    parser.add_argument("--each", type=int, default=SLIDES, help="of a scanner and label, used")
    parser.add_argument("--only", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument("--table", action="store_true", help="write the tables into the page")
    options = parser.parse_args()
    table = drawn(options.folder, options.slides, options.each)
    coloured(options.folder, options.slides)
    extracted(options.folder, table, {TRAININGS[name][0] for name in options.only})
    for seed in SEEDS:
        for name in options.only:
            trained(options.folder, table, name, seed)
    for line in (*colour_table(options.folder), "", *score_table(options.folder)):
        print(line)
    if options.table:
        write_table(options.folder)


if __name__ == "__main__":
    main()
