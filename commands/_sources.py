"""Predictions to score, from a checkpoint or a file.

Commands work with `CocoPredictions` and `BagPredictions` regardless of the source.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands._arguments import inference_changes

if TYPE_CHECKING:
    from evaluation.mil.predictions_csv import BagPredictions
    from formats.coco.predictions import CocoPredictions
    from structures import Problem


def ground_truth(args: argparse.Namespace) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """Read and check ground truth; with --images or --ckpt, also check its image files."""
    if args.ckpt:
        from engine.deploy.checked_coco import read_to_predict

        return read_to_predict(args.annotations, args.images, args.bad_data)
    from formats.coco.image_checks import unusable_images
    from formats.coco.results import read_ground_truth
    from formats.images import ANY_SIZE

    def look(records: Sequence[Any]) -> Mapping[int, Problem]:
        return unusable_images(args.annotations, records, args.images, "header", ANY_SIZE)

    return read_ground_truth(args.annotations, args.bad_data, look if args.images else None)


def coco_predictions(
    args: argparse.Namespace,
    source: Path,
    truth: dict[str, Any] | None = None,
    *,
    any_category: bool = False,
    light: Any = None,
) -> CocoPredictions:
    """Return the predictions of a checkpoint, or those of a COCO results file.

    Args:
        args: arguments of `add_coco_source`.
        source: an element of ``args.ckpt`` or ``args.predictions``.
        truth: content from `ground_truth`, to share it between sources; None reads the file.
        any_category: whether rows of a file may have categories missing from the ground truth.
        light: `LightChange` of a checkpoint, or None.

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
        )
    from formats.coco.predictions import CocoPredictions
    from formats.coco.results import read_results

    truth, left_out = ground_truth(args) if truth is None else (truth, ())
    known = {"images": truth["images"]} if any_category else truth
    rows, dropped = read_results(source, known, args.bad_data)
    return CocoPredictions(truth, rows, problems=left_out + dropped)


def bag_predictions(args: argparse.Namespace) -> BagPredictions:
    """Return the predictions of --ckpt for --data, or the table --predictions.

    Raises:
        ValueError: a file is missing or broken, or does not fit the checkpoint.
    """
    if not args.ckpt:
        from evaluation.mil.predictions_csv import read_bag_csv

        return read_bag_csv(args.predictions, args.bad_data)
    if args.data is None:
        raise ValueError("mil --ckpt needs --data FILE.npz, SLIDES.csv or RECIPE.yaml")
    from engine.deploy.predict import predict_bags

    return predict_bags(args.ckpt, args.data, args.features, args.bad_data)
