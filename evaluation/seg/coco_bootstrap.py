"""Paired bootstrap of COCO metrics over images (A185).

Each draw is a data set of the same number of images, drawn with replacement and scored by
`evaluation.seg.coco_weighted`; both models are scored on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.seg.coco import score_results
from evaluation.seg.coco_backends import FloatArray
from evaluation.seg.coco_scores import KIND
from evaluation.seg.coco_weighted import IntArray, Matches, match_once, weighted_metrics
from evaluation.statistics.paired import Paired, joined, paired_differences
from evaluation.statistics.resampling import draw_counts
from formats.coco.results import Row

_CELLS_PER_BLOCK = 2_000_000  # draws x detections of a class per block


def compare_images(
    ground_truth: Mapping[str, Any],
    first: Sequence[Row],
    second: Sequence[Row],
    *,
    max_dets: Sequence[int] | int = 100,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Paired:
    """Compare the checked results of two models on the same images by the paired bootstrap.

    Boxes and masks are compared if both results have them.

    Args:
        ground_truth: content of a COCO instances file, which has been checked.
        first: COCO results rows of the first model, which have been checked against it.
        second: COCO results rows of the second model.
        max_dets: see `evaluation.seg.coco.evaluate_results`.
        draws: number of resampled data sets, the same for both.
        level: coverage of the intervals, in (0, 1).
        seed: seed of the draws.
        progress: called with the number of finished draws and the number of all draws.

    Raises:
        ValueError: see `score_results`; no IoU type that both results have; draws below 1.
    """
    if draws < 1:
        raise ValueError(f"need draws >= 1, got {draws}")
    scores = [score_results(ground_truth, rows, max_dets=max_dets) for rows in (first, second)]
    kinds = [iou_type for iou_type in scores[0].curves if iou_type in scores[1].curves]
    if not kinds:
        held = [" and ".join(KIND[k] for k in one.curves) for one in scores]
        raise ValueError(
            f"the first results have {held[0]}, the second {held[1]}: there is nothing to compare"
        )
    models = [
        [match_once(ground_truth, rows, k, max_dets) for k in kinds] for rows in (first, second)
    ]
    drawn = drawn_metrics(models, draws, seed, progress)
    first_point, second_point = ({n: one.metrics[n] for n in drawn[0]} for one in scores)
    return paired_differences((first_point, second_point), (drawn[0], drawn[1]), level)


def drawn_metrics(
    models: Sequence[Sequence[Matches]],
    draws: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, FloatArray]]:
    """Return the metrics of some models on the same resampled data sets.

    Args:
        models: matches of boxes, masks or both of each model, on the same images.
        draws: number of draws R. The images of each depend on the seed and the number of images
            alone, so that further models can be scored on the same draws later.
        seed: seed of the draws.
        progress: see `compare_images`.

    Returns:
        (R,) by metric, for each model.

    Raises:
        ValueError: there are no images.
    """
    blocks: list[list[dict[str, FloatArray]]] = [[] for _ in models]
    done, everything = 0, [matches for model in models for matches in model]
    for weights in _image_weights(everything, draws, seed):
        for model, collected in zip(models, blocks, strict=True):
            values = [weighted_metrics(matches, weights) for matches in model]
            collected.append({name: v for one in values for name, v in one.items()})
        done += len(weights)
        if progress is not None:
            progress(done, draws)
    return [joined(of_model) for of_model in blocks]


def _image_weights(matches: Sequence[Matches], draws: int, seed: int) -> Iterator[IntArray]:
    """Return blocks (r, I) of how often each draw contains each image; all r sum to ``draws``."""
    images = matches[0].images
    if images == 0:
        raise ValueError("there are no images to draw from")
    most = max((c.scores.size for one in matches for c in one.classes), default=1)
    per_block = max(1, _CELLS_PER_BLOCK // max(most, images))
    return draw_counts([np.arange(images)], draws, seed, per_block)
