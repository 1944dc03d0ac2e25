"""Predictions to score, from a checkpoint or a file.

Commands work with `CocoPredictions` and `BagPredictions` regardless of the source.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands._arguments import inference_changes

if TYPE_CHECKING:
    from evaluation.mil.predictions_csv import BagPredictions
    from formats.coco.predictions import CocoPredictions
    from formats.coco.splits import CategorySplit
    from structures import Problem


def ground_truth(
    args: argparse.Namespace, categories: Collection[int] | None = None
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """Read and check ground truth; with --images or --ckpt, also check its image files.

    Args:
        args: arguments of `add_coco_source`.
        categories: annotations of other category ids are left out unseen; None for all.
    """
    if args.ckpt:
        from engine.deploy.checked_coco import read_to_predict

        return read_to_predict(args.annotations, args.images, args.bad_data, categories)
    from formats.coco.image_checks import unusable_images
    from formats.coco.results import read_ground_truth
    from formats.images import ANY_SIZE

    def look(records: Sequence[Any]) -> Mapping[int, Problem]:
        return unusable_images(args.annotations, records, args.images, "header", ANY_SIZE)

    return read_ground_truth(
        args.annotations, args.bad_data, look if args.images else None, categories=categories
    )


def category_split(args: argparse.Namespace) -> CategorySplit | None:
    """Return the split that ``--known`` or else the checkpoint names, None where neither does.

    Raises:
        ValueError: it does not fit the categories of ``--annotations``.
    """
    from formats.coco.document import load_categories
    from formats.coco.splits import find_split, fitted, split_from_record

    record = None
    if args.known is None and args.ckpt:
        from engine.checkpoints.restore import read_record

        record = read_record(args.ckpt)["facts"].get("categories", {}).get("known")
    if args.known is None and record is None:
        return None
    where = str(args.annotations)
    categories = load_categories(args.annotations)
    if record is None:
        return find_split(args.known, categories, where)
    names = {int(c["id"]): str(c["name"]) for c in categories}
    return fitted(split_from_record(record, str(args.ckpt)), names, where)


def coco_predictions(
    args: argparse.Namespace,
    source: Path,
    truth: dict[str, Any] | None = None,
    *,
    any_category: bool = False,
    light: Any = None,
    masks: bool = False,
) -> CocoPredictions:
    """Return the predictions of a checkpoint, or those of a COCO results file.

    Args:
        args: arguments of `add_coco_source`.
        source: an element of ``args.ckpt`` or ``args.predictions``.
        truth: content from `ground_truth`, to share it between sources; None reads the file.
        any_category: whether rows of a file may have categories missing from the ground truth.
        light: `LightChange` of a checkpoint, or None.
        masks: whether a checkpoint that predicts boxes alone is refused.

    Raises:
        ValueError: a file is missing, broken, or does not fit the ground truth.
    """
    if args.ckpt:
        from engine.deploy.predict import predict_coco

        return predict_coco(
            source,
            args.annotations,
            args.images,
            args.batch_size,
            args.bad_data,
            scale=args.scale,
            inference=inference_changes(args),
            truth=truth,
            light=light,
            masks=masks,
        )
    from formats.coco.predictions import CocoPredictions
    from formats.coco.results import read_results

    truth, left_out = ground_truth(args) if truth is None else (truth, ())
    known = {"images": truth["images"]} if any_category else truth
    rows, dropped = read_results(source, known, args.bad_data)
    return CocoPredictions(truth, rows, problems=left_out + dropped)


def bag_predictions(args: argparse.Namespace, *, patients: bool = False) -> BagPredictions:
    """Return the predictions of --ckpt for --data, or the table --predictions.

    Args:
        args: arguments of the command.
        patients: whether every bag of a table needs a patient.

    Raises:
        ValueError: a file is missing or broken, or does not fit the checkpoint.
    """
    task = getattr(args, "task", None)
    if not args.ckpt:
        validation = isinstance(getattr(args, "calibrate", None), Path)
        if getattr(args, "allow_overlap", False) and not validation:
            raise ValueError(
                "--allow-overlap has an effect with --ckpt or --calibrate VAL.csv: a table does "
                "not say what was trained on; leave it out"
            )
        from evaluation.targets.files import read_predictions

        return read_predictions(args.predictions, args.bad_data, patients=patients, task=task)
    if task is not None:
        raise ValueError("--task tells how to read --predictions; a checkpoint knows its task")
    if args.data is None:
        raise ValueError("mil --ckpt needs --data FILE.npz, SLIDES.csv or RECIPE.yaml")
    from engine.deploy.bags import predict_bags

    overlap = getattr(args, "allow_overlap", False)
    return predict_bags(args.ckpt, args.data, args.features, args.bad_data, allow_overlap=overlap)
