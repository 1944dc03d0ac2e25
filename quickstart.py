"""Train and evaluate on data that the package makes; the steps are commands that a user would type.

`python quickstart.py` (`make quickstart`) trains both quickstart recipes on embedded data, with
results in runs/quickstart. `python quickstart.py wsi` (`make quickstart-wsi`) goes from slide files
to cross-validated models and the attention of their patches, with results in runs/quickstart_wsi.
"""

from __future__ import annotations

import contextlib
import csv
import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import evaluate
import train
from engine.config.environment import environment_fault

RUNS = Path("runs")
OUT = RUNS / "quickstart"
WSI = RUNS / "quickstart_wsi"
SEG, MIL = "quickstart_mask_rcnn", "quickstart_abmil"
FEATURES = "quickstart_features"
SLIDES, PATIENTS = 40, 30
# Models of slides: recipe and epochs. MHIM trains as long again for its teacher.
SLIDE_MODELS = {
    "abmil": ("configs/mil/abmil_features.yaml", 30),
    "mhim": ("configs/mil/mhim.yaml", 40),
}
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
    source = ["--annotations", annotations, "--images", images]
    return {
        "report": _report(run, *source),
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
        "report": _report(run),
        "bag_auroc": json.loads(metrics.read_text())["metrics"]["bag_auroc"],
        "witness_auroc": _last_value(tested / "metrics.csv", "test/witness_auroc"),
        "bag_predictions": str(table),
        "attention": str(tested / "predictions" / "attention.csv"),
        "pictures": [str(p) for r in (run, tested) for p in sorted((r / "pictures").glob("*.png"))],
        "checkpoint": str(checkpoint),
    }


def _report(run: Path, *arguments: object) -> str | None:
    """Write the page of a run; None without the packages that it needs."""
    from commands.report import lacking_packages

    if lacking := lacking_packages():
        print(f"\nno report without {' and '.join(lacking)}: pip install -e '.[report]'")
        return None
    _run(evaluate, "report", "--run", run, *arguments)
    return str(run / "report.html")


def _last_value(table: Path, column: str) -> float:
    return float([row[column] for row in _rows(table) if row.get(column)][-1])


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


@contextlib.contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def slides() -> dict[str, object]:
    """Make slides, extract features, cross-validate two models and look at their attention."""
    from datamodules.wsi.synthetic_slides import write_slides

    steps: dict[str, float] = {}
    with _timed(steps, "slides"):
        write_slides(WSI, slides=SLIDES, patients=PATIENTS, seed=0, workers=2)
    table, features = WSI / "slides.csv", WSI / "features"
    sources = ["--data.slides", WSI / "slides", "--data.table", table, "--data.features", features]
    with _timed(steps, "features"):
        recipe = "configs/wsi/extract_features.yaml"
        _train(FEATURES, "predict", "--config", recipe, *sources)
    predictions, attention, figures = {}, {}, [*sorted((features / "previews").glob("*.png"))]
    for name, (recipe, epochs) in SLIDE_MODELS.items():
        with _timed(steps, name):
            out = WSI / name
            words = ["--config", recipe, "--trainer.max_epochs", epochs, "--data.num_workers", 0]
            words += ["--data", table, "--features", features, "--folds", 3, "--repeats", 1]
            words += ["--save-predictions", out / "out_of_fold.csv", "--out", out / "cv.json"]
            _run(evaluate, "mil-cv", *words, "--save-checkpoints", out / "folds")
            predictions[name], attention[name] = out / "out_of_fold.csv", out / "attention.csv"
            figures += _attention_of_folds(name, out)
    with _timed(steps, "scores"):
        scores = _slide_scores(predictions, attention)
    return {
        "slides": str(WSI / "slides"),
        "table": str(table),
        "lesions": str(WSI / "lesions"),
        "features": str(features),
        "predictions": {name: str(path) for name, path in predictions.items()},
        "attention": {name: str(path) for name, path in attention.items()},
        **scores,
        "seconds_by_step": steps,
        "pictures": [str(path) for path in figures],
    }


def _attention_of_folds(name: str, folder: Path) -> list[Path]:
    """Put the attention of every fold in its test slides into one table; return the figures."""
    from formats.files import write_csv

    fold_of = {row["bag_id"]: row["fold"] for row in _rows(folder / "out_of_fold.csv")}
    rows: list[dict[str, str]] = []
    figures: list[Path] = []
    for checkpoint in sorted((folder / "folds").glob("*.ckpt")):
        fold = checkpoint.stem.rpartition("fold")[2]
        predicted = _train(f"quickstart_{name}_slides", "predict", "--ckpt_path", checkpoint)
        found = _rows(predicted / "predictions" / "attention.csv")
        rows += [row for row in found if fold_of[row["bag_id"]] == fold]
        figures += sorted(predicted.rglob("*.png"))
    write_csv(folder / "attention.csv", list(rows[0]), (list(row.values()) for row in rows))
    return figures


def _slide_scores(
    predictions: dict[str, Path], attention: dict[str, Path]
) -> dict[str, dict[str, float] | float]:
    """Return the AUROC of slides, of patches by attention, and of patches by their mean colour."""
    from sklearn.metrics import roc_auc_score

    from evaluation.wsi.lesion_patches import colour_auroc, mean_patch_auroc, slide_patches

    patients = {row["slide_id"]: row["patient_id"] for row in _rows(WSI / "slides.csv")}
    patches = {
        slide: slide_patches(WSI / "features" / f"{slide}.h5", WSI / "lesions" / f"{slide}.geojson")
        for slide in patients
    }
    slide_auroc, patch_auroc = {}, {}
    for name, path in predictions.items():
        rows = _rows(path)
        labels, scores = ([float(row[key]) for row in rows] for key in ("label", "score"))
        slide_auroc[name] = float(roc_auc_score(labels, scores))
        values: dict[str, list[float]] = {slide: [] for slide in patients}
        for row in _rows(attention[name]):
            values[row["bag_id"]].append(float(row["attention"]))
        patch_auroc[name] = mean_patch_auroc(patches, values)
    colour = colour_auroc(patches, WSI / "slides", patients)
    return {
        "slide_auroc": slide_auroc,
        "lesion_patch_auroc": patch_auroc,
        "colour_auroc": colour,
    }


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for, write summary.json and print where everything is."""
    words = sys.argv[1:] if argv is None else argv
    if words not in ([], ["wsi"]):
        sys.stderr.write("usage: python quickstart.py [wsi]\n")
        return 2
    if fault := environment_fault():
        sys.stderr.write(f"error: {fault}\n")
        return 2
    return _slide_quickstart() if words else _quickstart()


def _slide_quickstart() -> int:
    start = time.perf_counter()
    WSI.mkdir(parents=True, exist_ok=True)
    found = slides()
    summary = {**found, "seconds": time.perf_counter() - start}
    path = WSI / "summary.json"
    path.write_text(json.dumps(summary, indent=1))
    print(f"\nsegmil quickstart on slides: {summary['seconds']:.0f} s")
    for name in ("slide_auroc", "lesion_patch_auroc", "colour_auroc", "seconds_by_step"):
        value: object = summary[name]
        parts = value if isinstance(value, dict) else {"": value}
        shown = ", ".join(f"{key} {one:.4g}".strip() for key, one in parts.items())
        print(f"  {name:18s} {shown}")
    print(f"  summary            {path}")
    return 0


def _quickstart() -> int:
    start = time.perf_counter()
    OUT.mkdir(parents=True, exist_ok=True)
    seg, mil = segmentation(), bags()
    figures = [*seg.pop("pictures"), *mil.pop("pictures")]  # type: ignore[misc]
    checkpoints = {"seg": seg.pop("checkpoint"), "mil": mil.pop("checkpoint")}
    pages = {"seg": seg.pop("report"), "mil": mil.pop("report")}
    reports = {kind: page for kind, page in pages.items() if page is not None}
    seconds = time.perf_counter() - start
    summary = {**seg, **mil, "seconds": seconds, "pictures": figures, "checkpoints": checkpoints}
    summary["reports"] = reports
    path = OUT / "summary.json"
    path.write_text(json.dumps(summary, indent=1))
    print(f"\nsegmil quickstart: {seconds:.0f} s of training and evaluation")
    for name in ("segm_map", "segm_map_50", "bag_auroc", "witness_auroc"):
        print(f"  {name:14s} {summary[name]:.4f}")
    print(f"  figures        {len(figures)}, for example {figures[0]}")
    print(f"  checkpoints    {checkpoints['seg']}\n                 {checkpoints['mil']}")
    for page in reports.values():
        print(f"  report         {page}")
    print(f"  summary        {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
