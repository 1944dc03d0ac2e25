"""Cells of MIL checkpoints under shifts of their bags, for `evaluate.py robustness --data`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from commands._arguments import add_allow_overlap, add_input
from commands._cells import Evaluated, flag_of, models_of, table_of
from commands._tables import progress_with_time

if TYPE_CHECKING:
    from datamodules.mil.base import BagChange
    from datamodules.transforms.bag_shifts import FeatureUnits
    from engine.deploy.bags import BagPredictor
    from evaluation.robustness.grid import Place
    from evaluation.robustness.writer import CellWriter, Origin

FEATURES, PATCHES = "features", "patches"  # what is shifted: the path of the cells
_KEPT = 1 << 31  # bytes of the features of a cell that are kept for further models
_OF_BAGS = ("patches", "encoder", "features", "allow_overlap")
_OF_IMAGES = (
    "annotations", "images", "domain", "exact", "batch_size", "tile", "tile_overlap",
    "tile_max_dets", "scale", "tta", "tta_scales",
)  # fmt: skip


def add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that evaluate MIL checkpoints."""
    group = parser.add_argument_group("with --ckpt of MIL models, in place of --annotations")
    add_input(group, "--data", help="npz of bags, CSV of slides, or a recipe (its test split)")
    add_input(group, "--features", help="folder of the slides' features (with a CSV)")
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
    given = [name for name in _OF_IMAGES if getattr(args, name, None) is not None]
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
        names: names, or dotted names of functions; None for all that segmil has.
        patches: whether patches are shifted, rather than features.

    Raises:
        ValueError: a name is unknown, cannot be imported, or is of the other kind.
    """
    from datamodules.transforms.bag_shifts import SHIFTS
    from datamodules.transforms.patch_shifts import PATCH_SHIFTS
    from evaluation.robustness.names import BENCHMARK, EXTRA
    from structures.own_functions import imported

    own, other = (PATCH_SHIFTS, SHIFTS) if patches else (SHIFTS, PATCH_SHIFTS)
    for name in names or ():
        if "." in name:
            imported(name)
            continue
        if name in other:
            raise ValueError(
                f"{name} shifts the features of --data; leave out --patches"
                if patches
                else f"{name} shifts patches; give them by --patches DIR"
            )
        if name in BENCHMARK + EXTRA:
            raise ValueError(f"{name} corrupts images; shifts of bags are {', '.join(own)}")
        if name not in own:
            (near,) = get_close_matches(name, own, n=1, cutoff=0)
            kind = PATCHES if patches else FEATURES
            raise ValueError(
                f"there is no shift {name!r}; did you mean {near}? Shifts of {kind} are "
                f"{', '.join(own)}; a shift of your own has a dotted name, such as "
                "my_module.my_scanner"
            )
    return tuple(dict.fromkeys(names or own))


def evaluate_bag_cells(args: argparse.Namespace) -> Evaluated:
    """Evaluate the cells that the table does not have; each is written as soon as it is known.

    Raises:
        ValueError: the input is wrong; found before the first prediction.
    """
    from evaluation.robustness.grid import places
    from evaluation.robustness.kept import prepare_folder
    from evaluation.robustness.writer import CellWriter

    models = models_of(args)
    shifts = chosen_shifts(args.corruptions, args.patches is not None)
    wanted = places(shifts, dict.fromkeys(args.severities or (1, 2, 3, 4, 5)))
    path = table_of(args)
    predictors = {model: _predictor(args, checkpoint) for model, checkpoint in models.items()}
    data = _same_data(args, predictors)
    kind = ShiftedPatches if args.patches else ShiftedFeatures
    shifted = kind(args, predictors)
    origin = _origin(args, models, data, shifted)
    with CellWriter(path, origin) as table:
        prepare_folder(path)
        missing = {
            place: [model for model in models if (model, *place) not in table] for place in wanted
        }
        total = len(models) * len(wanted)
        _fill(table, predictors, shifted, missing, total, keeps=not args.no_predictions)
    problems = next(iter(predictors.values())).data.problems
    return Evaluated(table.grids, path, problems, tuple(shifted.notes()))


def _predictor(args: argparse.Namespace, checkpoint: Path) -> BagPredictor:
    from engine.deploy.bags import prepare_bags

    overlap = bool(args.allow_overlap)
    predictor = prepare_bags(
        checkpoint, args.data, args.features, args.bad_data, allow_overlap=overlap
    )
    # Patches are encoded in this process, which may have a GPU.
    predictor.data.num_workers = 0 if args.patches else args.workers or 0
    return predictor


def _same_data(args: argparse.Namespace, predictors: Mapping[str, BagPredictor]) -> str:
    """Return the hash of the data (A808).

    Raises:
        ValueError: the checkpoints score different bags.
    """
    from engine.deploy.shifted_bags import data_hash, scored_names

    digests: dict[Path, bytes] = {}
    found = {model: data_hash(one, digests) for model, one in predictors.items()}
    (first, known), *others = found.items()
    for model, value in others:
        if value != known:
            counts = [len(scored_names(predictors[name])) for name in (first, model)]
            raise ValueError(
                f"{args.data}: {first} scores {counts[0]} bags of it and {model} {counts[1]}, not "
                "the same ones with the same labels (of data that a checkpoint was trained on, "
                "its test split is scored); evaluate them apart, or name other data"
            )
    return known


def _origin(
    args: argparse.Namespace, models: Mapping[str, Path], data: str, shifted: Shifted
) -> Origin:
    """Return what the cells are made from."""
    from evaluation.robustness.writer import Origin
    from formats.files import file_hash

    return Origin(
        {model: file_hash(checkpoint) for model, checkpoint in models.items()},
        data=data,
        seed=args.seed or 0,
        path=PATCHES if args.patches else FEATURES,
        settings={"--bad-data": args.bad_data, **shifted.settings()},
    )


class Shifted(Protocol):
    """What is done to the bags of the models in each cell."""

    def settings(self) -> dict[str, str]:
        """Return what else the cells follow from."""
        ...

    def notes(self) -> list[str]:
        """Return sentences on how the bags are shifted."""
        ...

    def change(self, model: str, name: str, severity: int) -> BagChange | None:
        """Return what is done to each bag, or None for nothing."""
        ...


class ShiftedFeatures:
    """Shifts the features of bags, see `datamodules.transforms.bag_shifts`.

    Args:
        args: arguments of the command.
        predictors: the models with their bags.
    """

    def __init__(self, args: argparse.Namespace, predictors: Mapping[str, BagPredictor]) -> None:
        self._seed, self._predictors = args.seed or 0, predictors
        self._units: dict[str, FeatureUnits] = {}

    def settings(self) -> dict[str, str]:
        """Return nothing: the units follow from the data and the checkpoint."""
        return {}

    def notes(self) -> list[str]:
        """Return where the units of the shifts are from."""
        from engine.deploy.shifted_bags import units_source

        return [
            f"{model}: mean and deviation of the features, the units of shifts, are those of "
            f"{units_source(predictor)[0]}"
            for model, predictor in self._predictors.items()
        ]

    def change(self, model: str, name: str, severity: int) -> BagChange | None:
        """Return the shift; units are computed when they are first needed."""
        from datamodules.transforms.bag_shifts import NEED_UNITS
        from engine.deploy.shifted_bags import BagShift, feature_units
        from evaluation.robustness.names import CLEAN

        if name == CLEAN:
            return None
        if name in NEED_UNITS and model not in self._units:
            self._units[model] = feature_units(self._predictors[model])
        return BagShift(name, severity, self._seed, self._units.get(model))


class ShiftedPatches:
    """Shifts patches and encodes them, see `datamodules.transforms.patch_shifts`.

    Args:
        args: arguments of the command.
        predictors: the models with their bags.

    Raises:
        ValueError: the encoder is none, or does not fit a model; or patches are missing or broken.
    """

    def __init__(self, args: argparse.Namespace, predictors: Mapping[str, BagPredictor]) -> None:
        from engine.deploy.encoded_patches import (
            PatchFeatures,
            PatchFolder,
            check_encoder,
            make_encoder,
        )
        from engine.deploy.shifted_bags import scored_names

        encoder = make_encoder(args.encoder)
        for predictor in predictors.values():
            check_encoder(predictor, encoder)
        bags = scored_names(next(iter(predictors.values())))
        folder = PatchFolder(args.patches, bags, encoder.side)
        keep = _KEPT if len(predictors) > 1 else 0
        self._features = PatchFeatures(folder, encoder, args.seed or 0, keep)
        self._predictors = predictors

    def settings(self) -> dict[str, str]:
        """Return hashes of the patches and of the encoder's weights."""
        found = self._features
        return {"--patches": found.folder.hash, "--encoder": found.encoder.weights[:16]}

    def notes(self) -> list[str]:
        """Return what has encoded the patches."""
        count = sum(map(len, self._features.folder.files.values()))
        return [f"{count} patches were encoded by {self._features.encoder.name} in each cell"]

    def change(self, model: str, name: str, severity: int) -> BagChange | None:
        """Return the shift with the encoding that follows; the latter alone of the clean cell."""
        from engine.deploy.encoded_patches import EncodedShift
        from evaluation.robustness.names import CLEAN

        standardisation = getattr(self._predictors[model].data, "standardisation", None)
        shift = None if name == CLEAN else name
        return EncodedShift(self._features, shift, severity, standardisation)


def _fill(
    table: CellWriter,
    predictors: Mapping[str, BagPredictor],
    shifted: Shifted,
    missing: Mapping[Place, Sequence[str]],
    total: int,
    *,
    keeps: bool,
) -> None:
    """Evaluate the missing cells, of all models one after the other."""
    from engine.deploy.shifted_bags import bag_metrics
    from evaluation.robustness.grid import known_values
    from evaluation.robustness.kept import kept_file
    from evaluation.robustness.kept_bags import keep_bags
    from evaluation.robustness.names import CLEAN
    from evaluation.robustness.tables import title_of

    tell = progress_with_time("cells", every=0.0)
    done = total - sum(map(len, missing.values()))
    tell(done, total, f" (in {table.path})" if done else "")
    for (name, level), models in missing.items():
        for model in models:
            change = shifted.change(model, name, level)
            found = predictors[model].predict(change)
            metrics = bag_metrics(found)
            if keeps:  # before the cell, so that no cell lacks them
                keep_bags(kept_file(table.path, model, (name, level), "csv"), found)
            table.add(model, name, level, metrics)
            done += 1
            place = name if name == CLEAN else f"{name} {level}"
            main, value = next(iter(known_values(metrics).items()))
            tell(done, total, f" ({model}, {place}: {title_of(main)} {value:.4f})")
