"""Nested cross-validation of `evaluate.py mil-cv`: arguments and tables."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from commands._arguments import add_input, at_least_two
from commands._tables import show

if TYPE_CHECKING:
    from engine.config.recipe import Recipe
    from engine.cross_validation.nested.checks import Nested


def add_grid(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of nested cross-validation."""
    add_input(
        parser,
        "--grid",
        metavar="G.yaml",
        help="choose values inside the training bags of each fold: dotted paths of the recipe with "
        "lists of values, e.g. model.init_args.optimizer.init_args.lr: [1.0e-4, 1.0e-3]",
    )
    parser.add_argument(
        "--inner-folds", type=at_least_two, help="folds by which --grid chooses (default: 3)"
    )
    parser.add_argument(
        "--grid-metric",
        metavar="M",
        help="metric by which --grid chooses (default: bag_auroc, bag_c_index, bag_r2 or "
        "bag_quadratic_kappa)",
    )


def nested_of(args: argparse.Namespace, config: Recipe) -> Nested | None:
    """Return how values are chosen, or None without ``--grid``.

    Raises:
        ValueError: the grid is wrong, or an option has no effect.
    """
    if args.grid is None:
        for name in ("inner_folds", "grid_metric"):
            if getattr(args, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} has an effect with --grid alone; leave it out")
        return None
    from engine.cross_validation.nested.checks import Nested
    from engine.cross_validation.nested.grid import read_grid

    return Nested(read_grid(args.grid, config), args.inner_folds or 3, args.grid_metric)


def show_nested(args: argparse.Namespace, found: Sequence[dict[str, Any]]) -> None:
    """Print what each fold has chosen, and how often each combination was chosen."""
    if not found:
        return
    from engine.cross_validation.nested.grid import shown

    rows = []
    for one in found:
        best = next(i for i in one["inner"] if i["values"] == one["chosen"])
        rows.append((f"{one['repeat']}, {one['fold']}", shown(one["chosen"]), best["mean"]))
    counts = Counter(shown(one["chosen"]) for one in found)
    often = "; ".join(f"{text} in {n} of {len(found)} folds" for text, n in counts.most_common())
    show(f"chosen from {args.grid}: {often}", ["repeat, fold", "chosen", "mean inside"], rows)
