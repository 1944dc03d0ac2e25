"""Cells of checkpoints under corruptions, for `evaluate.py robustness`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from commands._arguments import (
    Output,
    add_bad_data,
    add_inference,
    add_input,
    inference_changes,
    not_negative,
    positive,
    seed,
    severity,
)
from commands._outputs import check_outputs
from commands._sources import ground_truth
from commands._tables import progress_with_time
from commands.cells._domains import ReadDomain, domain, on_domains, read_domains

if TYPE_CHECKING:
    from engine.deploy.predict import CocoPredictor
    from evaluation.robustness.grid import Grid, Place
    from evaluation.robustness.writer import CellWriter, Origin
    from structures import Problem

_WITH_CKPT = (
    "annotations", "images", "domain", "names", "corruptions", "severities", "exact", "seed",
    "workers", "batch_size", "no_predictions", "tile", "tile_overlap", "tile_max_dets", "scale",
    "tta", "tta_scales", "data", "patches", "encoder", "features", "allow_overlap",
)  # fmt: skip
_SETTINGS = (  # flags that change numbers
    "tile", "tile_overlap", "tile_max_dets", "scale", "tta", "tta_scales", "batch_size", "bad_data"
)  # fmt: skip


class Evaluated(NamedTuple):
    """What `evaluate_cells` returns.

    Attributes:
        grids: model -> cells, also those of earlier calls.
        table: the file of the cells.
        problems: of the images, annotations or bags that were left out or repaired.
        notes: sentences on how the cells were made.
    """

    grids: dict[str, Grid]
    table: Path
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that evaluate checkpoints."""
    add_input(parser, "--ckpt", nargs="+", help="checkpoint(s) to evaluate")
    group = parser.add_argument_group("with --ckpt")
    add_input(group, "--annotations", help="COCO ground truth")
    add_input(group, "--images", help="image folder to use")
    add_input(
        group, "--domain", type=domain, nargs="+", metavar="NAME=ANNOTATIONS:IMAGES",
        help="other data sets with the same categories, on which checkpoints are scored as well",
    )  # fmt: skip
    group.add_argument(
        "--names", nargs="+", metavar="MODEL",
        help="name of each checkpoint in the table; default: that of its run, or of its file",
    )  # fmt: skip
    group.add_argument(
        "--corruptions", nargs="+", metavar="NAME",
        help="of images benchmark (15, default), extra (4), all, names, or dotted names of your "
        "functions; of bags names of shifts, default: all",
    )  # fmt: skip
    group.add_argument(
        "--severities", type=severity, nargs="+", metavar="N", help="default: 1 2 3 4 5"
    )
    group.add_argument(
        "--exact",
        action="store_true",
        default=None,
        help="every byte of an image as the library makes it; slower",
    )
    group.add_argument("--seed", type=seed, help="seed of the corruptions, default: 0")
    group.add_argument(
        "--workers", type=not_negative, help="processes that read and corrupt images"
    )
    group.add_argument("--batch-size", type=positive, help="default: the checkpoint's")
    group.add_argument(
        "--no-predictions",
        action="store_true",
        default=None,
        help="keep no predictions beside the table, so that there will be no intervals",
    )
    add_bad_data(parser, annotations=True)
    add_inference(parser)


def check_without_checkpoint(args: argparse.Namespace) -> None:
    """Reject arguments that have no effect on tables.

    Raises:
        ValueError: there are such arguments, or nothing to summarise.
    """
    if not args.cells:
        raise ValueError(
            "give --ckpt with --annotations to evaluate checkpoints, or --cells to summarise tables"
        )
    for name in _WITH_CKPT:
        if getattr(args, name) is not None:
            flag = flag_of(name)
            raise ValueError(f"{flag} is for evaluating checkpoints; give --ckpt, or leave it out")


def flag_of(name: str) -> str:
    """Return the flag of an argument's name."""
    return f"--{name.replace('_', '-')}"


def evaluate_cells(args: argparse.Namespace) -> Evaluated:
    """Evaluate the cells that the table does not have; each is written as soon as it is known.

    Raises:
        ValueError: the input is wrong; found before the first prediction.
    """
    from evaluation.robustness.corruptions import check_corruptions, chosen_names
    from evaluation.robustness.domains import domain_places
    from evaluation.robustness.grid import places
    from evaluation.robustness.kept import prepare_folder
    from evaluation.robustness.writer import CellWriter

    models = models_of(args)
    corruptions = chosen_names(args.corruptions or ["benchmark"])
    check_corruptions(corruptions, bool(args.exact))
    wanted = places(corruptions, dict.fromkeys(args.severities or (1, 2, 3, 4, 5)))
    path = table_of(args)
    truth, problems = ground_truth(args)
    domains = read_domains(args, truth)
    wanted += domain_places(domains)
    problems += tuple(problem for one in domains.values() for problem in one.problems)
    with CellWriter(path, _origin(args, models, truth, domains)) as table:
        prepare_folder(path)
        missing = {
            model: [place for place in wanted if (model, *place) not in table] for model in models
        }
        prepared = {
            model: _prepared(args, models[model], truth, domains)
            for model in models
            if missing[model]
        }
        _fill(args, table, prepared, missing, len(models) * len(wanted))
    return Evaluated(table.grids, path, problems)


def models_of(args: argparse.Namespace) -> dict[str, Path]:
    """Return name -> checkpoint.

    Raises:
        ValueError: files are missing, or names are not as many as checkpoints, not apart or empty;
            no model has the name of the reference.
    """
    from engine.training.run_names import model_name

    if args.annotations is None and args.data is None:
        raise ValueError("--ckpt needs --annotations, the COCO ground truth, or --data, bags")
    for checkpoint in args.ckpt:
        if not checkpoint.is_file():
            raise ValueError(f"{checkpoint}: no such file; name checkpoints of train.py")
    if args.data is not None and not args.data.is_file():
        raise ValueError(f"{args.data}: no such file; name bags, a table of slides, or a recipe")
    names = args.names or [model_name(checkpoint) for checkpoint in args.ckpt]
    if len(names) != len(args.ckpt):
        raise ValueError(f"--names has {len(names)} names for {len(args.ckpt)} checkpoints")
    models: dict[str, Path] = {}
    for name, checkpoint in zip(map(str.strip, names), args.ckpt, strict=True):
        if not name:
            raise ValueError("--names: a name is empty")
        if name in models:
            raise ValueError(
                f"two checkpoints have the name {name}: {models[name]} and {checkpoint}; give each "
                "a name by --names, in the order of --ckpt"
            )
        models[name] = checkpoint
    if args.reference is not None and args.reference not in models:
        known = ", ".join(models)
        raise ValueError(f"--reference {args.reference}: no such model; there are {known}")
    return models


def table_of(args: argparse.Namespace) -> Path:
    """Return the file of the cells, which may exist.

    Raises:
        ValueError: there are several, or the file cannot be written.
    """
    from engine.training.run_names import run_folder
    from evaluation.robustness.writer import origin_path

    if args.cells and len(args.cells) > 1:
        raise ValueError("with --ckpt, --cells is the one table that is written; name one")
    path = args.cells[0] if args.cells else run_folder(args.ckpt[0]) / "robustness.csv"
    table, beside = (
        Output("--cells", continued=True),
        Output("the file beside --cells", continued=True),
    )
    files = {"cells": table, "origin": beside}
    inputs = {name: flag for name, flag in args.inputs.items() if name != "cells"}
    changed = {"cells": path, "origin": origin_path(path), "inputs": inputs}
    outputs = args.outputs | files
    check_outputs(argparse.Namespace(**{**vars(args), **changed, "outputs": outputs}))
    return Path(path)


def _origin(
    args: argparse.Namespace,
    models: Mapping[str, Path],
    truth: Mapping[str, Any],
    domains: Mapping[str, ReadDomain],
) -> Origin:
    """Check the sizes of the images, and return what the cells are made from (A708)."""
    from engine.deploy.checked_coco import image_folder_of
    from engine.deploy.corrupted import check_sizes, data_hash
    from evaluation.report.record import package_versions
    from evaluation.robustness.corruptions import chosen_names, need_library
    from evaluation.robustness.names import LIBRARY
    from evaluation.robustness.writer import Origin
    from formats.files import file_hash

    records: Sequence[Any] = truth["images"]
    check_sizes(args.annotations, records)
    settings = {flag_of(name): getattr(args, name) for name in _SETTINGS}
    needed = need_library(chosen_names(args.corruptions or ["benchmark"]), bool(args.exact))
    version = package_versions([LIBRARY]).get(LIBRARY) if needed else None
    folder = args.images or image_folder_of(args.annotations)
    return Origin(
        {name: file_hash(checkpoint) for name, checkpoint in models.items()},
        data=data_hash(args.annotations, folder, records),
        seed=args.seed or 0,
        path="exact" if args.exact else "fast",
        settings=settings | {LIBRARY: version},  # A707
        domains={name: one.data for name, one in domains.items()},
    )


def _prepared(
    args: argparse.Namespace,
    checkpoint: Path,
    truth: Mapping[str, Any],
    domains: Mapping[str, ReadDomain],
) -> dict[str | None, CocoPredictor]:
    """Return what predicts the images, under None, and those of each domain."""
    from engine.deploy.corrupted import check_images
    from engine.deploy.predict import prepare_coco

    predictor = prepare_coco(
        checkpoint,
        args.annotations,
        args.images,
        args.batch_size,
        args.bad_data,
        scale=args.scale,
        inference=inference_changes(args),
        truth=truth,
    )
    check_images(predictor, args.annotations)
    predictor.data.num_workers = args.workers or 0
    found: dict[str | None, CocoPredictor] = {None: predictor}
    return found | on_domains(args, predictor, domains)


def _fill(
    args: argparse.Namespace,
    table: CellWriter,
    prepared: dict[str, dict[str | None, CocoPredictor]],
    missing: Mapping[str, Sequence[Place]],
    total: int,
) -> None:
    """Evaluate the missing cells, model by model."""
    from engine.deploy.corrupted import Corruption, scored_cell, try_functions
    from evaluation.robustness.kept import keep, kept_file
    from evaluation.robustness.names import domain_of, is_graded

    changes = {  # by place; None of clean images and of domains
        place: Corruption(*place, table.origin.seed, bool(args.exact))
        if is_graded(place[0])
        else None
        for places in missing.values()
        for place in places
    }
    for model in list(prepared)[:1]:  # A862
        try_functions(prepared[model][None], [one for one in changes.values() if one is not None])
    tell = progress_with_time("cells", every=0.0)
    done = total - sum(map(len, missing.values()))
    tell(done, total, f" (in {table.path})" if done else "")
    for model in list(prepared):
        predictors = prepared.pop(model)  # its memory is free when it is done
        for name, level in missing[model]:
            predictor, changed = predictors[domain_of(name)], changes[name, level]
            metrics, matches = scored_cell(predictor, changed, not args.no_predictions)
            if matches:  # before the cell, so that no cell lacks them
                keep(kept_file(table.path, model, (name, level)), matches)
            table.add(model, name, level, metrics)
            done += 1
            place = f"{name} {level}" if is_graded(name) else name
            tell(done, total, f" ({model}, {place}: {_main(metrics)})")


def _main(metrics: Mapping[str, float]) -> str:
    kind, words = ("segm_map", "mask AP") if "segm_map" in metrics else ("box_map", "box AP")
    return f"{words} {metrics[kind]:.4f}"
