"""Files of other targets than the command or the checkpoint is about."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults import sets
from tests.faults.case import Case, run_here

_TIMES = {"time": np.arange(20.0) + 1, "event": np.arange(20) % 3 > 0}
_VALUES = {"y": np.arange(40.0).reshape(20, 2), "target_names": np.array(["tmb", "her2"])}
_ARRAYS = {"cox": _TIMES, "discrete_time": _TIMES, "regression": _VALUES, "binary": {}}


def _words(task: str) -> list[object]:
    recipe = ["--config", "configs/mil/abmil.yaml"]
    overlay = [] if task == "binary" else ["--config", f"configs/_base/task/{task}.yaml"]
    return [*recipe, *overlay, "--data.batch_size", 4, *sets.CPU]


def _npz(file: Path, task: str, **changes: object) -> Path:
    """Write bags with targets of a task."""
    own = {} if task == "binary" else {"y": None}
    return sets.write_bags(file, **(own | _ARRAYS[task] | changes))


@functools.cache
def _checkpoint(task: str) -> Path:
    """Train an ABMIL for one step on targets of a task."""
    folder = sets.shared() / "targets" / task
    folder.mkdir(parents=True)
    words = ["train", "fit", *_words(task), "--data.file", _npz(folder / "bags.npz", task)]
    brief = ["--trainer.max_steps", 1, "--trainer.max_epochs", 1, "--trainer.val_check_interval", 1]
    outcome = run_here([str(w) for w in [*words, *brief, "--runs_dir", folder]], limit=120)
    if outcome.code != 0:
        raise RuntimeError(outcome.err)
    return folder / "abmil/version_0/checkpoints/last.ckpt"


def _scored(task: str, other: str, **arrays: object) -> Callable[[Path], list[object]]:
    """Score a checkpoint of a task on bags of another."""

    def words(folder: Path) -> list[object]:
        data = _npz(folder / "bags.npz", other, **arrays)
        return ["evaluate", "mil", "--ckpt", _checkpoint(task), "--data", data]

    return words


def _by_recipe(task: str, other: str) -> Callable[[Path], list[object]]:
    """Score a checkpoint of a task on the test split of a recipe of another."""

    def words(folder: Path) -> list[object]:
        data = _npz(folder / "bags.npz", other)
        section = "class_path: datamodules.mil.npz.TabularBagsDataModule"
        arguments = f"init_args: {{file: {data}, task: {other}}}"
        recipe = folder / "other.yaml"
        recipe.write_text(f"data:\n  {section}\n  {arguments}\n")
        return ["evaluate", "mil", "--ckpt", _checkpoint(task), "--data", recipe]

    return words


def _trained(task: str, other: str, command: str) -> Callable[[Path], list[object]]:
    """Go on with or test a checkpoint of a task on bags of another."""

    def words(folder: Path) -> list[object]:
        data = ["--data.file", _npz(folder / "bags.npz", other)]
        return ["train", command, *_words(other), *data, "--ckpt_path", _checkpoint(task)]

    return words


CASES = [
    Case("target file", "times under a checkpoint of values", _scored("regression", "cox"),
         ("bags.npz", "no labels of the task regression", "add labels")),
    Case("target file", "values under a checkpoint of times", _scored("cox", "regression"),
         ("bags.npz", "no labels of the task cox", "train.py predict")),
    Case("target file", "classes under a checkpoint of times", _scored("discrete_time", "binary"),
         ("bags.npz", "no labels of the task discrete_time")),
    Case("target file", "classes under a checkpoint of values", _scored("regression", "binary"),
         ("bags.npz", "target_names is missing", "regression", "docs/data.md")),
    Case("target file", "times under a checkpoint of classes", _scored("binary", "cox"),
         ("bags.npz", "no labels")),
    Case("target file", "other values",
         _scored("regression", "regression", target_names=np.array(["tmb", "ki67"])),
         ("bags.npz", "no target her2", "targets tmb, ki67")),
    Case("target file", "a recipe of values under a checkpoint of times",
         _by_recipe("cox", "regression"),
         ("other.yaml", "those of regression", "trained on cox")),
    Case("target file", "a recipe of risks under a checkpoint of bins",
         _by_recipe("discrete_time", "cox"), ("those of cox", "trained on discrete_time")),
    Case("target file", "values resumed as risks", _trained("regression", "cox", "fit"),
         ("'task': 'regression'", "'task': 'cox'", "model.init_args.init_from")),
    Case("target file", "risks resumed as bins", _trained("cox", "discrete_time", "fit"),
         ("'task': 'cox'", "'task': 'discrete_time'", "data of the same kind")),
    Case("target file", "values tested as risks", _trained("regression", "cox", "test"),
         ("'task': 'regression'", "'task': 'cox'")),
]  # fmt: skip
