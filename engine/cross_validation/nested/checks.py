"""Checks of a nested cross-validation before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from engine.config.errors import user_message
from engine.config.files import near_metrics
from engine.config.recipe import Recipe
from engine.cross_validation.fold import BagSet, FoldRecipe, FoldTask
from engine.cross_validation.nested.grid import Grid, with_values
from engine.cross_validation.nested.inner import inner_tasks
from engine.cross_validation.recipe import Choice, read_once
from engine.cross_validation.selection import undefined_metrics
from engine.cross_validation.target_folds import check_targets
from evaluation.mil.metrics import METRICS
from evaluation.targets.scores import LOWER_IS_BETTER
from evaluation.targets.scores import METRICS as TARGET_METRICS
from lightning_modules.targets.checks import HEADLINE, check_step
from structures import MILTask


class Nested(NamedTuple):
    """How values are chosen inside the training bags of every fold.

    Attributes:
        grid: the values.
        folds: number of inner folds.
        metric: name of the metric that chooses, or None for that of the task.
    """

    grid: Grid
    folds: int = 3
    metric: str | None = None

    def of_task(self, task: MILTask) -> str:
        """Return the name of the metric.

        Raises:
            ValueError: the task has no such metric.
        """
        names: Sequence[str] = TARGET_METRICS.get(task, METRICS)
        if self.metric is None:
            return HEADLINE.get(task, "bag_auroc")
        found = self.metric.removeprefix("val/")
        if found not in names:
            hint = near_metrics(found, names) or f"it has {', '.join(names)}"
            raise ValueError(f"--grid-metric {self.metric}: no metric of the task {task}; {hint}")
        return found

    def mode(self, task: MILTask) -> Literal["max", "min"]:
        """Return which value of the metric is best."""
        return "min" if self.of_task(task) in LOWER_IS_BETTER else "max"


def check_nested(
    nested: Nested, config: Recipe, choice: Choice, bags: BagSet, tasks: Sequence[FoldTask]
) -> None:
    """Check metric, grid and inner folds.

    Args:
        nested: how values are chosen.
        config: the recipe.
        choice: which weights are taken.
        bags: all bags.
        tasks: the outer folds.

    Raises:
        ValueError: the metric does not exist or is defined in no inner fold of an outer fold, the
            recipe refuses a value or a combination, or inner folds have nothing to learn from.
    """
    from jsonargparse import ArgumentError

    metric = nested.of_task(bags.task)
    read_once.cache_clear()
    grid, recipe = nested.grid, read_once(config, choice)
    _build(recipe, bags)
    singles = list(grid.singles())  # first: their message names a single path
    for values in (*singles, *(c for c in grid.combinations() if c not in singles)):
        try:
            _build(read_once(with_values(config, values), choice), bags)
        except (ValueError, TypeError, ArgumentError) as error:
            named = ", ".join(f"{path}: {value}" for path, value in values.items())
            raise ValueError(
                f"{grid.file}: the recipe refuses {named} ({_reason(error)}); correct the "
                "path or the value"
            ) from None
    for task in tasks:
        _check_inner(nested, metric, bags, task, recipe)


def _reason(error: BaseException) -> str:
    """Return one line: the message, or where the parser lists all it has tried, the first cause."""
    text = user_message(error)
    while "\n" in text and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
        text = str(error)
    return text.splitlines()[0] if text else type(error).__name__


def _build(recipe: FoldRecipe, bags: BagSet) -> None:
    """Build a module, whose arguments are checked only then."""
    recipe.plan.check_classes(bags.num_classes, named=not bags.targets.apply)
    check_step(bags.task, recipe.plan.batch_size)
    if recipe.selection is not None:
        recipe.selection.check_task(bags.task)
    recipe.build(bags.num_classes, bags.in_features, bags.task)


def _check_inner(
    nested: Nested, metric: str, bags: BagSet, task: FoldTask, recipe: FoldRecipe
) -> None:
    where = f"repeat {task[1][1]}, fold {task[1][2]}"
    tasks = inner_tasks(bags, task, nested.folds)
    try:
        check_targets(bags, tasks, recipe)
    except ValueError as error:
        raise ValueError(f"inner folds of {where}: {error}; give fewer --inner-folds") from None
    if (bags.task, metric) == ("cox", "bag_ibs"):  # a trained fold has a baseline
        return
    tests = [bags.labels[folds == key[2]] for folds, key in tasks]
    found = [undefined_metrics(labels, bags.task, bags.num_classes) for labels in tests]
    if all(f"val/{metric}" in names for names in found):
        raise ValueError(
            f"{bags.path}: {metric} is undefined in all inner folds of {where}, so that nothing "
            "can be chosen; give fewer --inner-folds or another --grid-metric"
        )
