"""Nested cross-validation: choose values inside the training bags of every outer fold, then refit.

For each outer fold, every combination of the grid is trained on the inner folds of its training
bags and scored on their test bags. The combination with the best mean is trained once more on all
training bags of the outer fold, as a fold without a grid is, and predicts its test bags, which are
read for nothing else. Coding, standardisation, thresholds and baselines are fitted anew each time.
A combination whose loss or predictions are not finite in an inner fold, such as a learning rate
that is too high, has no mean in that outer fold and is not chosen there.  # A858
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from engine.config.recipe import Recipe
from engine.cross_validation.checkpoints import fold_checkpoints
from engine.cross_validation.devices import FoldDevices
from engine.cross_validation.fold import BagSet, FoldRecipe, FoldResult, FoldTask
from engine.cross_validation.nested.checks import Nested
from engine.cross_validation.nested.grid import shown, with_values
from engine.cross_validation.nested.inner import inner_mean, inner_tasks
from engine.cross_validation.recipe import read_once
from engine.cross_validation.workers import Work, run_tasks
from structures import DataProblems
from structures.not_finite import LossNotFiniteError

Progress = Callable[[float, int], None]


class Trained(NamedTuple):
    """Results of the outer folds of a cross-validation, or of all folds of another one.

    Attributes:
        results: result of each outer fold in order.
        reasons: why folds were not trained together.
        record: what each outer fold has chosen, as plain values.
    """

    results: list[FoldResult]
    reasons: list[str]
    record: list[dict[str, Any]]


class Trainer(NamedTuple):
    """What all trainings of a nested cross-validation have in common.

    Attributes:
        work: inputs of all folds; its recipe is that without the grid.
        bags: all bags.
        devices: where folds are trained.
        workers: see `run_tasks`.
        reasons_apart: returns why folds of a recipe cannot be trained together, see `run_folds`.
    """

    work: Work
    bags: BagSet
    devices: FoldDevices
    workers: int | None
    reasons_apart: Callable[[BagSet, FoldRecipe, FoldDevices], list[str]]

    def train(
        self, tasks: Sequence[FoldTask], nested: Nested | None, progress: Progress | None
    ) -> Trained:
        """Train and predict folds, with values that are chosen first where that is asked for.

        Args:
            tasks: the folds.
            nested: how values are chosen, or None to train the recipe as it is.
            progress: called with the number of trainings done, and of all trainings.

        Raises:
            ValueError: see `run_fold` and `train_nested`.
        """
        if nested is not None:
            return train_nested(self, nested, tasks, progress)
        found = run_tasks(self.work, tasks, self.devices, self.workers, progress)
        return Trained(*found, [])

    def run(
        self, work: Work, tasks: Sequence[FoldTask], progress: Progress | None
    ) -> tuple[list[FoldResult], list[str]]:
        """Train folds, together where that is wanted and possible."""
        recipe = read_once(work.config, work.choice)
        why = self.reasons_apart(self.bags, recipe, self.devices) if work.together else []
        found, more = run_tasks(
            work._replace(together=work.together and not why),
            tasks,
            self.devices,
            self.workers,
            progress,
        )
        return found, why + more


def count_trainings(nested: Nested, outer: int) -> int:
    """Return the number of trainings for a number of outer folds."""
    return outer * (len(nested.grid.combinations()) * nested.folds + 1)


def train_nested(
    trainer: Trainer, nested: Nested, tasks: Sequence[FoldTask], progress: Progress | None
) -> Trained:
    """Choose a combination for each outer fold, and train and predict it with that one.

    Args:
        trainer: what trains folds.
        nested: how values are chosen.
        tasks: the outer folds.
        progress: called with the number of trainings done, and of all trainings.

    Raises:
        ValueError: see `run_fold`, or the metric is undefined in all inner folds.
    """
    total, done = count_trainings(nested, len(tasks)), 0
    bags, base = trainer.bags, trainer.work
    combinations = nested.grid.combinations()
    rank_zero_info(
        f"{total} trainings: {len(combinations)} combinations of {nested.grid.file} on "
        f"{nested.folds} inner folds, and one more, in each of {len(tasks)} folds"
    )
    metric, mode = nested.of_task(bags.task), nested.mode(bags.task)
    inner = [inner_tasks(bags, task, nested.folds) for task in tasks]
    means: list[list[float]] = [[] for _ in tasks]
    reasons: list[str] = []
    for number, values in enumerate(combinations):
        work = base._replace(
            config=with_values(base.config, values),
            bags_by=base.config,
            finished=None if base.finished is None else base.finished.of_grid(number),
            checkpoints=None,
            external=(),
        )
        with _naming(values):
            of_outer, why = _inner_results(trainer, work, inner, _from(progress, done, total))
        _warn_of_diverged(values, tasks, of_outer)
        done, reasons = done + len(inner) * nested.folds, reasons + why
        for row, task, part, own in zip(means, tasks, inner, of_outer, strict=True):
            mean = math.nan if own is None else inner_mean(bags, task, part, own, metric)
            row.append(mean)
    chosen = [_best(row, mode, metric, task) for row, task in zip(means, tasks, strict=True)]
    results: dict[int, FoldResult] = {}
    for number in sorted(set(chosen)):
        own_folds = [outer for outer, best in enumerate(chosen) if best == number]
        work = _refitting(trainer, with_values(base.config, combinations[number]))
        some = [tasks[outer] for outer in own_folds]
        found, why = trainer.run(work, some, _from(progress, done, total))
        done, reasons = done + len(some), reasons + why
        results |= dict(zip(own_folds, found, strict=True))
    record = list(_record(tasks, combinations, chosen, means))
    return Trained([results[n] for n in range(len(tasks))], reasons, record)


def _inner_results(
    trainer: Trainer, work: Work, inner: Sequence[Sequence[FoldTask]], progress: Progress | None
) -> tuple[list[list[FoldResult] | None], list[str]]:
    """Train the inner folds of all outer folds with one combination.

    Returns:
        The results for each outer fold, None where a loss or a prediction is not finite, and the
        reasons why folds were not trained together.
    """
    every, count = [task for part in inner for task in part], len(inner[0])
    results: list[list[FoldResult]] = []
    try:
        found, reasons = trainer.run(work, every, progress)
        results = [found[n : n + count] for n in range(0, len(every), count)]
    except LossNotFiniteError:  # in which outer folds is seen when they are trained by themselves
        reasons = []
        for number, part in enumerate(inner):
            own: list[FoldResult] = []
            with contextlib.suppress(LossNotFiniteError):
                own, why = trainer.run(work, part, _from(progress, number * count, len(every)))
                reasons += why
            results.append(own)
    return [own if own and _are_finite(own) else None for own in results], reasons


def _are_finite(results: Sequence[FoldResult]) -> bool:
    return all(bool(np.isfinite(result.probabilities).all()) for result in results)


def _warn_of_diverged(
    values: Mapping[str, Any],
    tasks: Sequence[FoldTask],
    found: Sequence[Sequence[FoldResult] | None],
) -> None:
    """Name the outer folds in which a combination cannot be chosen."""
    outer = [task[1][1:] for task, own in zip(tasks, found, strict=True) if own is None]
    if outer:
        places = "; ".join(f"repeat {repeat}, fold {fold}" for repeat, fold in outer)
        rank_zero_warn(
            f"{shown(values)}: the loss or a prediction is not finite in inner folds of {places}, "
            "where this combination is not chosen"
        )


@contextlib.contextmanager
def _naming(values: Mapping[str, Any]) -> Iterator[None]:
    """Say in the message of a ValueError which combination was trained on inner folds."""
    try:
        yield
    except DataProblems:
        raise
    except ValueError as error:
        raise ValueError(f"inner folds with {shown(values)}: {error}") from error


def _from(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Return a progress that counts on from the trainings done before."""
    if progress is None:
        return None
    return lambda now, _: progress(done + now, total)


def _best(means: Sequence[float], mode: Literal["max", "min"], metric: str, task: FoldTask) -> int:
    """Return the number of the first combination with the best mean.

    Raises:
        ValueError: no mean is a number.
    """
    sign = 1 if mode == "max" else -1
    known = [(-math.inf if math.isnan(mean) else sign * mean) for mean in means]
    if all(map(math.isnan, means)):
        _, repeat, fold = task[1]
        raise ValueError(
            f"{metric} is undefined in all inner folds of repeat {repeat}, fold {fold}, so that "
            "nothing can be chosen; give fewer --inner-folds, another --grid-metric, or, where the "
            "loss is not finite, lower learning rates"
        )
    return known.index(max(known))


def _refitting(trainer: Trainer, config: Recipe) -> Work:
    """Return the work of outer folds that have chosen the same values."""
    base = trainer.work
    work = base._replace(config=config, bags_by=base.config)
    if base.checkpoints is None:
        return work
    arguments = base.checkpoints.data["init_args"]
    recipe = read_once(config, base.choice)
    checkpoints = fold_checkpoints(
        base.checkpoints.folder,
        config,
        base.files,
        trainer.bags,
        recipe,
        base.choice,
        (arguments["num_folds"], arguments["split_seed"]),
    )
    return work._replace(checkpoints=checkpoints)


def _record(
    tasks: Sequence[FoldTask],
    combinations: Sequence[dict[str, Any]],
    chosen: Sequence[int],
    means: Sequence[Sequence[float]],
) -> Iterator[dict[str, Any]]:
    for (_, key), best, row in zip(tasks, chosen, means, strict=True):
        inner = [
            {"values": values, "mean": mean} for values, mean in zip(combinations, row, strict=True)
        ]
        yield {"repeat": key[1], "fold": key[2], "chosen": combinations[best], "inner": inner}
