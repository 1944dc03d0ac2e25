"""Execution of one command of `train.py`."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn

from callbacks.run.stopping import StopOnSignal
from engine.checkpoints.data import data_at, own_data
from engine.checkpoints.restore import read_record
from engine.checkpoints.stages import (
    interrupted_run,
    unfinished_stage,
)
from engine.config.installed import recipes_place
from engine.config.null_flags import null_flags_as_files
from engine.config.recipe import take_flag
from engine.training.cli import SegmilCLI
from engine.training.from_slides import asks_for_slides, only_overlays, slides_section
from engine.training.stopped import exit_of
from lightning_modules.rebuilding import LINKS, without_sources


def _is_score(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _is_count(text: str) -> bool:
    return text in ("all", "none") or text.isdecimal()


IMAGE_FLAGS = {  # of `predict`: what they take, as a test and in words
    "--score": (_is_score, "a number from 0 to 1"),
    "--overlays": (_is_count, "a number of images, all or none"),
}


def predict_arguments(args: list[str], folder: Path) -> list[str]:
    """Turn `predict --ckpt_path C [--data PATH]` into arguments with a configuration file.

    The file is made from the configuration in the checkpoint, so all other flags work as usual.

    Args:
        args: the user's arguments, beginning with ``predict``.
        folder: where to write the configuration file.

    Raises:
        ValueError: no checkpoint is named, or it is not a segmil checkpoint.
    """
    rest, checkpoint = take_flag(args[1:], "--ckpt_path")
    if checkpoint is None:
        raise ValueError("predict needs --ckpt_path FILE (or --config RECIPE.yaml)")
    record = read_record(Path(checkpoint))
    given = [f for f in IMAGE_FLAGS if take_flag(rest, f)[1] is not None]
    if given and "category_map" not in record["facts"]:
        raise ValueError(f"{given[0]} is for images, {checkpoint} predicts bags; leave it out")
    rest = image_flags(rest)
    others, target = take_flag(rest, "--data")
    if asks_for_slides(args):
        rest, data = others, slides_section(Path(checkpoint), record, target)
    elif target is not None and Path(target).exists():
        rest, data = others, data_at(Path(target), record)
    elif target is not None and not re.fullmatch(r"\w+(\.\w+)+", target):
        raise ValueError(f"--data {target}: no such file or folder")
    else:
        data = own_data(record)
    recipe = {
        "model": _without_links(without_sources(record["blueprint"]["model"]), record),
        "data": data,
        "trainer": {"precision": record["precision"]},
    }
    path = folder / f"{Path(checkpoint).stem}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    named = [] if take_flag(rest, "--name")[1] else ["--name", "predict"]
    return ["predict", "--config", str(path), *named, *rest, "--ckpt_path", checkpoint]


def _without_links(model: dict[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section without what the data set; checkpoints of `mil-cv` have it filled in."""
    model = copy.deepcopy(model)
    for fact in record["blueprint"]["links"]:
        *parents, last = LINKS[fact].split(".")
        section: Any = model
        for parent in parents:
            section = section.get(parent) or {}
        section.pop(last, None)
    return model


def image_flags(args: list[str]) -> list[str]:
    """Turn `--score X` and `--overlays N` into the arguments of the callback that writes files.

    Raises:
        ValueError: a value is none that the flag takes.
    """
    for flag, (is_allowed, what) in IMAGE_FLAGS.items():
        args, value = take_flag(args, flag)
        if value is not None and not is_allowed(value):
            raise ValueError(f"{flag} is {what}, got {value}")
        if value is not None:
            args = [*args, f"--callbacks.predictions.{flag.removeprefix('--')}", value]
    return args


def run_arguments(args: list[str]) -> list[str]:
    """Turn `fit --ckpt_path RUN/checkpoints/last.ckpt` into arguments with the run's own recipe.

    Args:
        args: the user's arguments, beginning with ``fit``, ``validate`` or ``test``; other flags
            override the recipe.

    Raises:
        ValueError: the file is not a segmil checkpoint, or is not in a run's folder.
    """
    checkpoint = take_flag(args[1:], "--ckpt_path")[1]
    if checkpoint is None:
        return args
    read_record(Path(checkpoint))
    run = interrupted_run(Path(checkpoint)) or Path(checkpoint).parent.parent
    recipe = run / "config.yaml"
    if not recipe.is_file():
        raise ValueError(f"{recipe}: no such file to read the recipe from; give --config RECIPE")
    return [args[0], "--config", str(recipe), *args[1:]]


def run(args: list[str]) -> SegmilCLI:
    """Run one command of `train.py`.

    Raises:
        ValueError: the input is wrong.
    """
    configured = any(a.split("=")[0] in ("--config", "-c") for a in args)
    other_source = {"-h", "--help", "--model", "--ckpt_path"} & {a.split("=")[0] for a in args}
    others, checkpoint = take_flag(args, "--ckpt_path")
    if args[0] == "fit" and checkpoint is not None:
        args = [*others, "--ckpt_path", str(unfinished_stage(Path(checkpoint)))]
    if args[0] in ("fit", "validate", "test") and not configured and not other_source:
        needs = "" if args[0] == "fit" else "--ckpt_path FILE or "
        raise ValueError(
            f"{args[0]} needs {needs}--config RECIPE.yaml; recipes are in {recipes_place()}"
        )
    with tempfile.TemporaryDirectory() as folder:
        if args[0] in ("fit", "validate", "test") and not configured:
            args = run_arguments(args)
        elif args[0] == "predict":
            own = configured and not (asks_for_slides(args) and only_overlays(args))
            args = image_flags(args) if own else predict_arguments(args, Path(folder))
        return _run(null_flags_as_files(args, Path(folder)))


def _run(args: list[str]) -> SegmilCLI:
    from loggers.run import finish_loggers, forget_run_dir, remove_empty_run

    signals, ended = StopOnSignal(), False
    try:
        cli = SegmilCLI(args, signals=signals)
        ended = True
    except SystemExit as stop:
        raise exit_of(stop, signals) from None
    finally:
        if not ended:
            remove_empty_run()
        forget_run_dir()
    finish_loggers(cli.trainer.loggers)
    saved = cli.trainer.checkpoint_callback
    trained = cli.subcommand == "fit" and not cli.trainer.fast_dev_run  # type: ignore[attr-defined]
    if not trained or not isinstance(saved, ModelCheckpoint) or saved.save_top_k == 0:
        return cli
    if not saved.best_model_path:
        rank_zero_warn(f"{saved.monitor} was never logged, so there is no best.ckpt: use last.ckpt")
    return cli
