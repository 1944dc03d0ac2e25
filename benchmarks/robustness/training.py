"""Trainings of the study of robustness; a run that is trained is not trained again."""

from __future__ import annotations

import json
import time
from pathlib import Path

import yaml

import train
from benchmarks.robustness.plan import BAGS, DIGITS, METHODS, NUCLEI, ROOT, TILES, Method, Run
from formats.files import write_json

DONE = "trained.json"


def command(
    run: Run, method: Method, steps: int | None, folder: Path, sources: dict[str, Path]
) -> list[str]:
    """Return the words of `train.py` that train a method.

    Args:
        run: its data set and seed.
        method: recipe and changes.
        steps: optimizer steps; None for the epochs of the recipe.
        folder: the place of the run; an overlay with the changes is written into it.
        sources: data set -> folder or file of those that are not drawn by the package.
    """
    words = ["fit", "--config", str(ROOT / "configs" / method.recipe)]
    for overlay in method.overlays:
        words += ["--config", str(ROOT / "configs" / overlay)]
    if method.changes:
        folder.mkdir(parents=True, exist_ok=True)
        changes = folder / "changes.yaml"
        changes.write_text(yaml.safe_dump(method.changes))
        words += ["--config", str(changes)]
    if run.data == NUCLEI:
        words += ["--data.root", str(sources[NUCLEI])]
    if run.data == TILES:
        words += ["--data.file", str(sources[TILES])]
    if run.data in (DIGITS, NUCLEI):
        # The last checkpoint counts, so no validation chooses one
        words += ["--trainer.limit_val_batches", "0", "--checkpoint.save_top_k", "0"]
    if run.data == BAGS:
        words += ["--data.num_workers", "0"]
    if steps is not None:
        words += ["--trainer.max_epochs", "-1", "--trainer.max_steps", str(steps)]
    words += ["--seed_everything", str(run.seed), "--data.seed", str(run.seed)]
    return [*words, "--runs_dir", str(folder), "--trainer.enable_progress_bar", "false"]


def trained(run: Run, root: Path, sources: dict[str, Path]) -> Path:
    """Train a run unless it is trained; return its last checkpoint.

    Raises:
        RuntimeError: the training has failed.
    """
    folder = run.folder(root)
    done = folder / DONE
    if not done.is_file():
        method = METHODS[run.data][run.method]
        start = time.process_time()
        steps = method.steps
        words: list[str] = []
        if method.start is not None and steps is not None:
            first = METHODS[run.data][method.start]
            steps = steps // 2
            begun = _fit(run, command(run, first, steps, folder / "start", sources))
            words = ["--model.init_args.init_from", str(begun)]
        checkpoint = _fit(run, [*command(run, method, steps, folder, sources), *words])
        record = {
            "checkpoint": str(checkpoint.relative_to(folder)),
            "seconds": time.process_time() - start,
            "steps": method.steps,
        }
        write_json(done, record)
    return folder / json.loads(done.read_text())["checkpoint"]


def _fit(run: Run, words: list[str]) -> Path:
    """Train by a command and return the last checkpoint."""
    if train.main(words):
        raise RuntimeError(f"{run.data}, {run.name}: the training has failed")
    place = Path(words[words.index("--runs_dir") + 1])
    newest = max(place.glob("*/version_*"), key=lambda made: made.stat().st_mtime)
    return newest / "checkpoints/last.ckpt"
