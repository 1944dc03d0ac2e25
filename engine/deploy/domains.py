"""Other data sets on which a checkpoint is scored, with the classes of the first one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.deploy.predict import CocoPredictor, checked_predictor, coco_data
from structures import AnnotationPolicy


def with_categories_of(
    name: str,
    annotations: Path,
    truth: Mapping[str, Any],
    reference: Path,
    categories: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return the ground truth of a domain with the category ids of the data it is compared with.

    Scores on both are means over the same categories (A798), which are matched by their names.

    Args:
        name: of the domain.
        annotations: its COCO file.
        truth: content of that file, checked.
        reference: the COCO file of the other data.
        categories: records of the categories of that file.

    Raises:
        ValueError: a name is in one of the two alone.
    """
    own = {str(c["name"]): int(c["id"]) for c in truth["categories"]}
    known = {str(c["name"]): int(c["id"]) for c in categories}
    more, fewer = own.keys() - known.keys(), known.keys() - own.keys()
    if more or fewer:
        told = [f"has {_listed(more)}, which {reference} has not"] * bool(more)
        told += [f"lacks {_listed(fewer)} of {reference}"] * bool(fewer)
        raise ValueError(
            f"--domain {name}: {annotations} has other categories: it {' and '.join(told)}; give "
            "its file the same names (a category may be without objects)"
        )
    moved = {own[label]: number for label, number in known.items()}
    objects = [a | {"category_id": moved[a["category_id"]]} for a in truth["annotations"]]
    return {**truth, "annotations": objects, "categories": [dict(c) for c in categories]}


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)[:10]) + (f" and {len(names) - 10} more" * (len(names) > 10))


def on_domain(
    predictor: CocoPredictor,
    annotations: Path,
    images: Path,
    truth: Mapping[str, Any],
    *,
    batch_size: int | None = None,
    bad_data: AnnotationPolicy = "error",
    scale: float | None = None,
) -> CocoPredictor:
    """Return the predictor of the same checkpoint for the images of a domain.

    Args:
        predictor: the checkpoint with other images.
        annotations: COCO file of the domain.
        images: its images.
        truth: content of the file, see `with_categories_of`.
        batch_size: see `engine.deploy.predict.predict_coco`.
        bad_data: see there.
        scale: see there.

    Raises:
        ValueError: see there.
    """
    restored = predictor.restored
    data = coco_data(restored, annotations, images, batch_size, bad_data, scale, truth=truth)
    return checked_predictor(restored, data, annotations)
