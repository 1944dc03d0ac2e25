"""Cells of MIL checkpoints under shifts of their bags, for `evaluate.py robustness --data`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from commands._arguments import add_allow_overlap, add_features, add_input
from commands._cells import Evaluated, flag_of, models_of, table_of
from commands._tables import progress_with_time

if TYPE_CHECKING:
    from datamodules.mil.base import BagChange
    from engine.deploy.bags import BagPredictor
    from evaluation.robustness.grid import Place
    from evaluation.robustness.writer import CellWriter, Origin

FEATURES, PATCHES = "features", "patches"  # what is shifted: the path of the cells
_OF_BAGS = ("patches", "encoder", "features", "allow_overlap")
_OF_IMAGES = (
    "annotations", "images", "exact", "batch_size", "tile", "tile_overlap", "tile_max_dets",
    "scale", "tta", "tta_scales",
)  # fmt: skip


class _Prepared(NamedTuple):
    """A checkpoint with its bags, and what is done to them in a cell."""

    predictor: BagPredictor
    change: Callable[[str, int], BagChange | None]


def add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that evaluate MIL checkpoints."""
    group = parser.add_argument_group("with --ckpt of MIL models, in place of --annotations")
    add_input(group, "--data", help="npz of bags, CSV of slides, or a recipe (its test split)")
    add_features(group)
    add_input(group, "--patches", help="folder of patches, DIR/<bag>/*.png, to shift and encode")
    group.add_argument(
        "--encoder",
        metavar="DOTTED.NAME",
        help="class or function without arguments that makes the encoder of --patches; default: "
        "the packaged EfficientNet",
    )
    add_allow_overlap(parser)
    parser.set_defaults(allow_overlap=None)


def takes_bags(args: argparse.Namespace) -> bool:
    """Return whether the checkpoints are evaluated on bags.

    Raises:
        ValueError: there are arguments of both kinds, or a checkpoint is of the other kind.
    """
    given = [name for name in _OF_IMAGES if getattr(args, name) is not None]
    if args.data is None:
        given = [name for name in _OF_BAGS if getattr(args, name) is not None]
        if given:
            raise ValueError(f"{flag_of(given[0])} is for bags; give --data, or leave it out")
    elif given:
        raise ValueError(f"{flag_of(given[0])} is for images and has no effect with --data")
    elif args.bad_data == "repair":
        raise ValueError("--bad-data repair mends annotations; use skip with --data")
    elif args.encoder is not None and args.patches is None:
        raise ValueError("--encoder encodes --patches; give both, or leave it out")
    _check_kinds(args)
    return args.data is not None


def _check_kinds(args: argparse.Namespace) -> None:
    from engine.checkpoints.restore import read_record
    from lightning_modules.mil import MILModule
    from lightning_modules.rebuilding import class_of

    for checkpoint in args.ckpt:
        if not checkpoint.is_file():
            continue  # told with the others
        kind: Any = class_of(read_record(checkpoint)["blueprint"]["model"])
        if kind is None:
            continue  # told where it is restored
        bags = issubclass(kind, MILModule)
        if bags and args.annotations is not None:
            raise ValueError(
                f"{checkpoint}: holds a {kind.__name__}, which predicts bags: give --data FILE in "
                "place of --annotations"
            )
        if not bags and args.data is not None:
            raise ValueError(
                f"{checkpoint}: holds a {kind.__name__}, which predicts no bags: give "
                "--annotations in place of --data"
            )


def bag_benchmark(
    origins: Mapping[Path, Mapping[str, Any] | None],
) -> dict[str, tuple[str, ...]] | None:
    """Return the shifts over which mPC of bags is taken, or None for those that are there (A809).

    Args:
        origins: table -> what `read_origin` says.
    """
    from datamodules.transforms.bag_shifts import SHIFTS
    from datamodules.transforms.patch_shifts import PATCH_SHIFTS

    paths = {None if one is None else one["shared"].get("path") for one in origins.values()}
    if not paths <= {FEATURES, PATCHES}:
        return None
    chosen = (SHIFTS if FEATURES in paths else ()) + (PATCH_SHIFTS if PATCHES in paths else ())
    return {"bag": chosen}


def chosen_shifts(names: Sequence[str] | None, patches: bool) -> tuple[str, ...]:
    """Return the shifts that a user names, each once.

    Args:
        names: names, or None for all.
        patches: whether patches are shifted, rather than features.

    Raises:
        ValueError: a name is unknown, or is of the other kind.
    """
    from datamodules.transforms.bag_shifts import SHIFTS
    from datamodules.transforms.patch_shifts import PATCH_SHIFTS

    own, other = (PATCH_SHIFTS, SHIFTS) if patches else (SHIFTS, PATCH_SHIFTS)
    for name in names or ():
        if name in other:
            raise ValueError(
                f"{name} shifts the features of --data; leave out --patches"
                if patches
                else f"{name} shifts patches; give them by --patches DIR"
            )
        if name not in own:
            (near,) = get_close_matches(name, own, n=1, cutoff=0)
            kind = PATCHES if patches else FEATURES
            raise ValueError(
                f"there is no shift {name!r}; did you mean {near}? Shifts of {kind} are "
                f"{', '.join(own)}"
            )
    return tuple(dict.fromkeys(names or own))


def evaluate_bag_cells(args: argparse.Namespace) -> Evaluated:
    """Evaluate the cells that the table does not have; each is written as soon as it is known.

    Raises:
        ValueError: the input is wrong; found before the first prediction.
    """
    from engine.deploy.shifted_bags import units_source
    from evaluation.robustness.grid import places
    from evaluation.robustness.writer import CellWriter

    models = models_of(args)
    shifts = chosen_shifts(args.corruptions, args.patches is not None)
    wanted = places(shifts, dict.fromkeys(args.severities or (1, 2, 3, 4, 5)))
    path = table_of(args)
    prepared = {model: _predictor(args, checkpoint) for model, checkpoint in models.items()}
    with CellWriter(path, _origin(args, models, prepared)) as table:
        missing = {
            model: [place for place in wanted if (model, *place) not in table] for model in models
        }
        notes = [] if args.patches else [
            f"{model}: the units of shifts are those of {units_source(predictor)[0]}"
            for model, predictor in prepared.items()
        ]  # fmt: skip
        ready = {
            model: _Prepared(predictor, _changes(args, predictor, missing[model]))
            for model, predictor in prepared.items()
            if missing[model]
        }
        problems = next(iter(prepared.values())).data.problems
        prepared.clear()
        _fill(table, ready, missing, len(models) * len(wanted))
    return Evaluated(table.grids, path, problems, tuple(notes))


def _predictor(args: argparse.Namespace, checkpoint: Path) -> BagPredictor:
    from engine.deploy.bags import prepare_bags

    overlap = bool(args.allow_overlap)
    predictor = prepare_bags(
        checkpoint, args.data, args.features, args.bad_data, allow_overlap=overlap
    )
    predictor.data.num_workers = args.workers or 0
    return predictor


def _origin(
    args: argparse.Namespace, models: Mapping[str, Path], prepared: Mapping[str, BagPredictor]
) -> Origin:
    """Return what the cells are made from (A808).

    Raises:
        ValueError: the checkpoints score different bags.
    """
    from engine.deploy.shifted_bags import data_hash, scored_names
    from evaluation.robustness.writer import Origin
    from formats.files import file_hash

    digests: dict[Path, bytes] = {}
    found = {model: data_hash(one, digests) for model, one in prepared.items()}
    (first, known), *others = found.items()
    for model, value in others:
        if value != known:
            counts = [len(scored_names(prepared[name])) for name in (first, model)]
            raise ValueError(
                f"{args.data}: {first} scores {counts[0]} bags of it and {model} {counts[1]}, not "
                "the same ones (of data that a checkpoint was trained on, its test split is "
                "scored); evaluate them apart, or name other data"
            )
    return Origin(
        {model: file_hash(checkpoint) for model, checkpoint in models.items()},
        data=known,
        seed=args.seed or 0,
        path=FEATURES,
        settings={"--bad-data": args.bad_data},
    )


def _changes(
    args: argparse.Namespace, predictor: BagPredictor, missing: Sequence[Place]
) -> Callable[[str, int], BagChange | None]:
    """Return a function from a cell to what is done to the bags."""
    from datamodules.transforms.bag_shifts import NEED_UNITS
    from engine.deploy.shifted_bags import BagShift, feature_units
    from evaluation.robustness.names import CLEAN

    needed = any(name in NEED_UNITS for name, _ in missing)
    units = feature_units(predictor) if needed else None
    seed = args.seed or 0
    return lambda name, level: None if name == CLEAN else BagShift(name, level, seed, units)


def _fill(
    table: CellWriter,
    ready: dict[str, _Prepared],
    missing: Mapping[str, Sequence[Place]],
    total: int,
) -> None:
    """Evaluate the missing cells, model by model."""
    from engine.deploy.shifted_bags import bag_metrics
    from evaluation.robustness.grid import known_values
    from evaluation.robustness.names import CLEAN
    from evaluation.robustness.tables import title_of

    tell = progress_with_time("cells", every=0.0)
    done = total - sum(map(len, missing.values()))
    tell(done, total, f" (in {table.path})" if done else "")
    for model in list(ready):
        predictor, change = ready.pop(model)  # its memory is free when it is done
        for name, level in missing[model]:
            metrics = bag_metrics(predictor.predict(change(name, level)))
            table.add(model, name, level, metrics)
            done += 1
            place = name if name == CLEAN else f"{name} {level}"
            main, value = next(iter(known_values(metrics).items()))
            tell(done, total, f" ({model}, {place}: {title_of(main)} {value:.4f})")
