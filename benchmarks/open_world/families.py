"""Rows of `run.py` that continue from one start: the two families of models with queries.

These models learn slowly at first. So the plain, class-agnostic model of a family is trained once a
seed, at a constant learning rate, until its mask AR@100 of known objects in 50 validation scenes is
above .30 (looked at every 250 steps), at most as many steps as 25 minutes of one core allow. From
there every row trains for the same processor time with its own schedule. Its number of steps comes
from the mean time of a few steps, which all rows of a family measure in turn before the first of
them trains; labels that a model has predicted do not change the steps.
"""

from __future__ import annotations

import importlib
import inspect
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import evaluate
import train
from datamodules.seg.digit_scenes import DigitScenesDataModule
from formats.files import write_json

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "configs/quickstart"
ENOUGH, EVERY = 0.30, 250  # AR@100 at which a start ends, steps between two looks
SCENES = 1500  # training scenes in which pseudo-labels are looked for
SCORE = 0.5  # of pseudo-labels; after a short training few digits have the command's .9
WARM, TIMED = 3, 20  # steps before the ones whose mean time counts, and these
ROUNDS = 3  # of timed steps
MODULE = "lightning_modules.open_world.OpenWorldModule"
SCHEDULE = "optim.schedules.{}"

Content = dict[str, Any]


class Family(NamedTuple):
    """A quickstart recipe, the plain class of its model, and the most steps of the start."""

    recipe: str
    plain: str
    most: int


class Variant(NamedTuple):
    """A row of a family: its name in the table, and what it changes in the recipe's model.

    ``changes`` is None for the plain model; ``pseudo`` adds labels that the variant of this name
    has predicted.
    """

    title: str
    family: str
    changes: Mapping[str, Any] | None = None
    pseudo: str | None = None


FAMILIES = {
    "mask2former": Family("segprompt.yaml", "models.seg.mask2former.Mask2Former", 4000),
    "detr": Family("sword.yaml", "models.seg.deformable_detr.DeformableDETR", 4000),
}
VARIANTS = {
    "mask2former": Variant("Mask2Former", "mask2former"),
    "segprompt": Variant("SegPrompt", "mask2former", {}),
    "segprompt_no_examples": Variant("SegPrompt without examples", "mask2former", {"examples": 0}),
    "segprompt_no_prompts": Variant(
        "SegPrompt without prompts", "mask2former", {"prompt_categories": 0}
    ),
    "detr": Variant("Deformable DETR", "detr"),
    "sword": Variant("SWORD", "detr", {}),
    "sword_attached": Variant("SWORD without stop-gradient", "detr", {"stop_gradient": False}),
    "sword_no_iou": Variant(
        "SWORD without IoU heads, score cls", "detr", {"iou_heads": False, "score": "cls"}
    ),
    "sword_no_contrast": Variant("SWORD without contrast", "detr", {"contrast": False}),
    "sword_hungarian": Variant("SWORD, matched one to one", "detr", {"assignment": "hungarian"}),
    "sword_outside": Variant("SWORD, negatives outside", "detr", {"negatives": "outside"}),
    "sword_pseudo": Variant("SWORD with pseudo-labels", "detr", {}, "sword"),
}


def recipe(variant: Variant) -> Content:
    """Return the recipe of a variant: the family's, with the variant's model."""
    family = FAMILIES[variant.family]
    content: Content = yaml.safe_load((RECIPES / family.recipe).read_text())
    module = content["model"]["init_args"]
    model = module["model"]
    if variant.changes is None:
        own = inspect.signature(_class(family.plain)).parameters
        arguments = {k: v for k, v in model["init_args"].items() if k in own}
        module["model"] = {"class_path": family.plain, "init_args": arguments}
        content["model"]["class_path"] = MODULE
        terms = ("class", "mask", "dice", "box", "giou")
        module["loss_weights"] = {k: v for k, v in module["loss_weights"].items() if k in terms}
        for key in ("first_steps", "freeze"):  # of SegPrompt's two stages
            module.pop(key, None)
        content["data"]["init_args"]["class_agnostic"] = True
    else:
        model["init_args"] |= variant.changes
    content["trainer"] = {
        key: value for key, value in content["trainer"].items() if key == "gradient_clip_val"
    }
    content["trainer"] |= {"max_epochs": -1, "enable_progress_bar": False}
    return content


def started(name: str, seed: int, folder: Path) -> Path:
    """Train the start of a family unless it is trained; return its last checkpoint.

    Raises:
        RuntimeError: the training has failed.
    """
    place = folder / "starts" / name / f"seed_{seed}"
    done = place / "trained.json"
    if done.is_file():
        return Path(json.loads(done.read_text())["checkpoint"])
    content = recipe(Variant("", name))
    content["model"]["init_args"]["lr_scheduler"] = _schedule("Constant")
    stop = {"monitor": "val/known_segm_ar_100", "mode": "max", "stopping_threshold": ENOUGH}
    stop |= {"patience": 1000, "check_on_train_epoch_end": False}
    early = {"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": stop}
    content["trainer"] |= {"callbacks": [early], "max_steps": FAMILIES[name].most}
    content["trainer"] |= {"val_check_interval": EVERY, "check_val_every_n_epoch": None}
    checkpoint, seconds = fit(content, seed, place)
    write_json(done, {"checkpoint": str(checkpoint), "seconds": seconds})
    return checkpoint


def continued(name: str, seed: int, folder: Path, seconds: float) -> tuple[Path, float, int]:
    """Train a variant from its start; return its last checkpoint, processor time and steps.

    Args:
        name: of `VARIANTS`.
        seed: of the start and the training.
        folder: of the study.
        seconds: processor time of a training.
    """
    variant, place = VARIANTS[name], folder / name / f"seed_{seed}"
    done = place / "trained.json"
    if done.is_file():
        record = json.loads(done.read_text())
        return Path(record["checkpoint"]), record["seconds"], record["steps"]
    content = recipe(variant)
    content["model"]["init_args"]["init_from"] = str(started(variant.family, seed, folder))
    content["model"]["init_args"]["lr_scheduler"] = _schedule("Cosine")
    if variant.pseudo is not None:
        teacher = continued(variant.pseudo, seed, folder, seconds)[0]
        content["data"] = pseudo_data(content["data"], teacher, seed, folder)
    steps = int(seconds / _step_times(variant.family, seed, folder)[variant.pseudo or name])
    content["trainer"] |= {"max_steps": steps, "limit_val_batches": 0}
    content["checkpoint"] = {"save_top_k": 0}
    checkpoint, spent = fit(content, seed, place)
    record = {"checkpoint": str(checkpoint), "seconds": spent, "steps": steps}
    write_json(done, record)
    return checkpoint, spent, steps


def pseudo_data(data: Content, teacher: Path, seed: int, folder: Path) -> Content:
    """Write training scenes and pseudo-labels; return data that learn them beside the known.

    Args:
        data: section of the recipe.
        teacher: checkpoint that predicts.
        seed: of the teacher.
        folder: of the study.

    Raises:
        RuntimeError: the command has failed.
    """
    root = folder / "scenes"
    images, annotations = root / "images/train", root / "annotations/instances_train.json"
    if not annotations.is_file():
        DigitScenesDataModule(train_scenes=SCENES).write_split("train", root)
    known = data["init_args"]["known"]
    labels = folder / "pseudo" / f"seed_{seed}.json"
    if not labels.is_file():
        labels.parent.mkdir(parents=True, exist_ok=True)
        words = ["pseudo-labels", "--annotations", annotations, "--images", images]
        words += ["--known", *known, "--ckpt", teacher, "--out", labels, "--score", SCORE]
        if evaluate.main([str(word) for word in words]):
            raise RuntimeError(f"{teacher}: no pseudo-labels")
    kept = ("known", "batch_size", "eval_batch_size", "scale")
    arguments = {key: data["init_args"][key] for key in kept if key in data["init_args"]}
    arguments |= {"class_agnostic": True, "pseudo": True, "num_workers": 0}
    arguments |= {"train_annotations": str(labels), "train_images": str(images)}
    arguments |= {"val_annotations": str(annotations), "val_images": str(images)}
    return {"class_path": "datamodules.seg.coco.CocoDataModule", "init_args": arguments}


def fit(content: Content, seed: int, place: Path) -> tuple[Path, float]:
    """Train a recipe; return its last checkpoint and the processor time.

    Raises:
        RuntimeError: the training has failed.
    """
    place.mkdir(parents=True, exist_ok=True)
    file = place / "recipe.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    words = ["fit", "--config", str(file), "--runs_dir", str(place)]
    words += ["--seed_everything", str(seed), "--data.seed", str(seed)]
    start = time.process_time()
    if train.main(words):
        raise RuntimeError(f"{file}: the training has failed")
    seconds = time.process_time() - start
    newest = max(place.glob("*/version_*"), key=lambda run: run.stat().st_mtime)
    return newest / "checkpoints/last.ckpt", seconds


def _step_times(family: str, seed: int, folder: Path) -> dict[str, float]:
    """Return the processor time of a step of each variant of a family, measured once."""
    file = folder / "steps" / f"{family}.json"
    if not file.is_file():
        names = [n for n, v in VARIANTS.items() if v.family == family and v.pseudo is None]
        start = str(started(family, seed, folder))
        _trial(names[0], start, WARM, file.parent)  # imports what all need
        times: dict[str, list[float]] = {name: [] for name in names}
        for name in names * ROUNDS:
            short, long = (_trial(name, start, WARM + more, file.parent) for more in (0, TIMED))
            times[name].append((long - short) / TIMED)
        write_json(file, {name: statistics.median(own) for name, own in times.items()})
    measured: dict[str, float] = json.loads(file.read_text())
    return measured


def restore_steps(folder: Path, steps: Mapping[str, int], seconds: float) -> None:
    """Write the times of a step that give known numbers of steps, unless there are some.

    Args:
        folder: of the study.
        steps: of a training, by variant.
        seconds: processor time of these trainings.
    """
    for family in FAMILIES:
        known = {n: s for n, s in steps.items() if n in VARIANTS and VARIANTS[n].family == family}
        file = folder / "steps" / f"{family}.json"
        if known and not file.is_file():
            write_json(file, {name: seconds / (count + 0.5) for name, count in known.items()})


def _trial(name: str, start: str, steps: int, folder: Path) -> float:
    """Train a variant for a few steps and return the processor time."""
    content = recipe(VARIANTS[name])
    content["model"]["init_args"]["init_from"] = start
    content["checkpoint"] = {"save_top_k": 0}
    content["trainer"] |= {"max_steps": steps, "limit_val_batches": 0}
    return fit(content, 0, folder / name)[1]


def _schedule(name: str) -> Content:
    return {"class_path": SCHEDULE.format(name), "init_args": {"warmup": 0.03}}


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
