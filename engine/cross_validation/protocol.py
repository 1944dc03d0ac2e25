"""What a cross-validation says of itself: its protocol, and notes on what does not apply."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from datamodules.mil.feature_set import FeatureSet
from engine.config.recipe import Recipe
from engine.cross_validation.fold import BagSet, FoldRecipe, FoldTask


def protocol_of(bags: BagSet, recipe: FoldRecipe, tasks: Sequence[FoldTask]) -> str:
    """Return a description of the folds, their origin and the training length."""
    seed, repeats = tasks[0][1][0], len({key[1] for _, key in tasks})
    made = bags.published_folds is None
    origin = f"stratified, seed {seed}" if made else "published"
    origin += ", by patient" if bags.groups and made else ""
    stages = " each" if recipe.first is None else " in each of two stages"
    folds = f"{len(tasks)} folds in {repeats} repeats ({origin})"
    return f"{folds}, {_length(recipe)}{stages}{_selection(bags, recipe)}"


def _selection(bags: BagSet, recipe: FoldRecipe) -> str:
    """Return a description of the selection of weights, empty for the last ones."""
    rule = recipe.selection
    if rule is None:
        return ""
    unit = "training patients" if bags.groups else "training bags"
    text = f", best {rule.monitor} on {rule.val_fraction:g} of the {unit}"
    return text + "".join(
        f", ended after {stop.patience} validations without a better {stop.monitor}"
        for stop in rule.stopping
    )


def _length(recipe: FoldRecipe) -> str:
    limits = {"steps": recipe.max_steps, "epochs": recipe.max_epochs}
    return " or ".join(f"{limit} {name}" for name, limit in limits.items() if limit is not None)


def notes_of(
    config: Recipe,
    bags: BagSet,
    recipe: FoldRecipe,
    num_folds: int | None,
    repeats: int | None,
) -> Iterator[str]:
    """Yield notes on arguments and recipe settings that do not apply to these bags."""
    if bags.published_folds is not None:
        published = len(bags.published_folds)
        if num_folds is not None:
            yield f"{bags.path} has published folds: --folds {num_folds} is not used"
        if repeats is None and published < 5:
            yield f"{bags.path} has published folds in {published} repeat(s): all of them are used"
    elif bags.named_splits:
        yield f"{bags.path}: its column split is not used, folds are made of all slides"
    if isinstance(bags, FeatureSet):
        if recipe.clip is not None:
            yield "standardise and clip of the recipe are for npz files: slides stay as they are"
    elif recipe.plan.max_instances is not None:
        yield "max_instances of the recipe is for tables of slides: bags of the file stay whole"
    given = config.section("data").get("init_args") or {}
    if recipe.selection is not None and "val_fraction" in given:
        share = recipe.selection.val_fraction
        yield f"val_fraction of the recipe is for train.py: {share:g} is held out (--val-fraction)"
