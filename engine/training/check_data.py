"""Checks of a recipe and its data as `train.py fit` reads them, without building a model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

from datamodules.seg.base import SegDataModule
from datamodules.seg.unusable import UnusableData
from engine.config.errors import own_error
from engine.config.recipe import Recipe
from engine.config.sections import instantiate_data, plain
from engine.training.cli import SegmilCLI
from lightning_modules.rebuilding import class_of
from structures import AnnotationPolicy, DataProblems, Problem
from structures.problem import MENDABLE


class CheckedData(NamedTuple):
    """Result of a data check.

    Attributes:
        problems: all problems of the data.
        fatal: whether the data cannot be used even when faulty records are left out.
        counts: split -> name -> number of checked items.
        notes: what is left out although it is no fault.
        policy: how the problems are handled, according to the recipe or the caller.
    """

    problems: list[Problem]
    fatal: bool
    counts: dict[str, dict[str, int]]
    notes: tuple[str, ...] = ()
    policy: AnnotationPolicy = "error"

    @property
    def mendable(self) -> bool:
        """Whether ``repair`` would mend a problem that is listed."""
        return any(MENDABLE in problem.remedy for problem in self.problems)


class RecipeReader(SegmilCLI):
    """Parser of the arguments of `train.py fit` that builds and trains nothing.

    Attributes:
        data: ``class_path`` and ``init_args`` of the datamodule.
    """

    data: dict[str, Any]

    def before_instantiate_classes(self) -> None:
        """Do nothing: no run folder is needed."""

    def instantiate_classes(self) -> None:
        """Build nothing; keep the datamodule's configuration."""
        self.data = plain(self.config[self.subcommand].data)
        self.config_init, self.model, self.datamodule = self.config, None, None
        self.trainer: Any = self

    def fit(self, **arguments: Any) -> None:
        """Replace the trainer's method; do nothing."""
        del arguments

    predict = fit


def check_data(arguments: list[str], policy: AnnotationPolicy = "error") -> CheckedData:
    """Parse a recipe and check all of its data, reading every image or bag completely.

    Args:
        arguments: the arguments of ``train.py fit``.
        policy: handling of the problems, instead of the recipe's ``bad_data`` unless ``error``.

    Raises:
        ArgumentError: a key of the recipe is unknown or a value has the wrong type.
        ValueError: an argument of the datamodule is out of range.
    """
    contents = Recipe.of_words(arguments).contents()
    named = [class_of(c["model"]) for c in contents if isinstance(c.get("model"), dict)]
    predicts = any(getattr(kind, "only_predicts", False) for kind in named)
    data = RecipeReader(["predict" if predicts else "fit", *arguments]).data
    if policy == "error":
        policy = data.get("init_args", {}).get("bad_data", "error")
    with _quiet():
        return _checked(data, policy)._replace(policy=policy)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log lines about left-out records, which the caller lists itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _checked(data: dict[str, Any], policy: AnnotationPolicy) -> CheckedData:
    if "bad_data" in data.get("init_args", {}):  # read the remaining records of a faulty set
        data["init_args"]["bad_data"] = "skip" if policy == "error" else policy
    try:
        module: Any = instantiate_data(data, {})
    except ValueError as error:  # the parser wraps what the datamodule raised
        own = own_error(error)
        if isinstance(own, UnusableData):
            broken = own.datamodule
            problems = broken.check(thorough=True)
            problems += [p for p in own.problems if p not in problems]
            return CheckedData(problems, True, broken.summary(), broken.notes)
        if isinstance(own, DataProblems):
            return CheckedData(list(own.problems), True, {})
        raise
    if isinstance(module, SegDataModule):
        module.setup("fit")  # builds the augmentation, which checks its names
    problems, counts = module.check(thorough=True), module.summary()
    emptied = any(0 < c.get("pictures", 0) == c.get("left_out_pictures") for c in counts.values())
    return CheckedData(problems, emptied, counts, getattr(module, "notes", ()))
