"""What a cross-validation does beside training and testing its folds, if it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from engine.config.recipe import Recipe
from engine.cross_validation.external.sets import read_external, settings_of
from engine.cross_validation.fold import BagSet, FoldResult, FoldTask
from engine.cross_validation.inputs import BagInputs, bag_ids_of, class_names_of
from engine.cross_validation.nested.checks import Nested, check_nested
from engine.cross_validation.recipe import Choice, data_settings
from evaluation.mil.external import ExternalPredictions, ModelPredictions, reference_of_all
from evaluation.targets.folds import TimeOptions


class Extras(NamedTuple):
    """External sets and nested cross-validation.

    Attributes:
        external: files of other sets of bags that each fold predicts.
        nested: how values of a grid are chosen, or None.
        allow_overlap: whether external sets may share patients or bags with those trained on.
    """

    external: tuple[BagInputs, ...] = ()
    nested: Nested | None = None
    allow_overlap: bool = False

    def check(
        self,
        config: Recipe,
        files: BagInputs,
        choice: Choice,
        bags: BagSet,
        tasks: Sequence[FoldTask],
    ) -> list[BagSet]:
        """Check everything before work starts, and return the external sets.

        Raises:
            ValueError: see `read_external` and `check_nested`.
        """
        given = config, files, choice
        sets = read_external(*given, self.external, allow_overlap=self.allow_overlap)
        if self.nested is not None:
            check_nested(self.nested, config, choice, bags, tasks)
        return sets

    def protocol(self, bags: BagSet) -> str:
        """Return a description of the choice of values, empty without a grid."""
        if self.nested is None:
            return ""
        metric, folds = self.nested.of_task(bags.task), self.nested.folds
        file = self.nested.grid.file
        return f"; values of {file} chosen by {metric} on {folds} inner folds"

    def settings(self, config: Recipe, files: BagInputs, bags: BagSet) -> dict[str, Any]:
        """Return what of it determines the results, as plain values; empty if nothing is asked."""
        found: dict[str, Any] = {}
        if self.external:
            found["external"] = settings_of(self.external, files, data_settings(config))
        if self.nested is not None:
            found["grid"] = self.nested.grid.plain()
            found["inner_folds"] = self.nested.folds
            found["grid_metric"] = self.nested.of_task(bags.task)
        return found


def external_predictions(
    sources: Sequence[BagInputs],
    sets: Sequence[BagSet],
    bags: BagSet,
    tasks: Sequence[FoldTask],
    results: Sequence[FoldResult],
    options: TimeOptions,
) -> tuple[ExternalPredictions, ...]:
    """Return the predictions of the models of all folds for each external set.

    Args:
        sources: their files.
        sets: their bags.
        bags: the bags of the cross-validation.
        tasks: the folds.
        results: their results.
        options: how times are scored.
    """
    names = bags.target_names if bags.task == "regression" else class_names_of(bags)
    found = []
    for number, (source, one) in enumerate(zip(sources, sets, strict=True)):
        models = tuple(
            ModelPredictions(
                key[1:],
                result.external[number],
                result.threshold,
                result.coding,
                result.training_bags,
            )
            for (_, key), result in zip(tasks, results, strict=True)
        )
        found.append(
            ExternalPredictions(
                str(source.data),
                bag_ids_of(one),
                one.labels,
                bags.task,
                models,
                tuple(names),
                one.groups,
                reference_of_all(bags.labels, bags.task),
                options,
            )
        )
    return tuple(found)


def problems_of(sets: Sequence[BagSet]) -> tuple[Any, ...]:
    """Return the problems of the bags of external sets that were left out."""
    return tuple(problem for one in sets for problem in one.problems)
