"""How well scores of patches, such as attention, find outlined lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from formats.slides.geojson import Polygon, inside, read_polygons


class SlidePatches(NamedTuple):
    """The patches of a slide, against its lesions.

    Attributes:
        coords: (N, 2) int64, level-0 pixels (x, y) of the top-left corners.
        side: of a patch, in level-0 pixels.
        slide_mpp: micrometres per pixel of level 0.
        positive: (N,) whether the centre of a patch lies in a lesion.
    """

    coords: npt.NDArray[np.int64]
    side: float
    slide_mpp: float
    positive: npt.NDArray[np.bool_]


def slide_patches(features: Path, outlines: Path) -> SlidePatches:
    """Return the patches of a feature file; without a file of outlines, none is positive.

    Args:
        features: file that `train.py predict` has written, with coordinates and resolution.
        outlines: GeoJSON in level-0 pixels.
    """
    import h5py

    with h5py.File(features) as file:
        coords, side = file["coords"][()], float(file.attrs["patch_size_level0"])
        mpp = float(file.attrs["slide_mpp"])
    lesions = read_polygons(outlines) if outlines.is_file() else []
    return SlidePatches(coords, side, mpp, patches_in_lesions(coords, side, lesions))


def patches_in_lesions(
    coords: npt.NDArray[Any], side: float, lesions: Sequence[Polygon]
) -> npt.NDArray[np.bool_]:
    """Return (N,) whether the centre of each patch lies in a lesion.

    Args:
        coords: (N, 2), level-0 pixels (x, y) of the top-left corners.
        side: of a patch, in level-0 pixels.
        lesions: outlines, in level-0 pixels.
    """
    return inside(lesions, np.asarray(coords, dtype=np.float64) + side / 2)


def patch_auroc(positive: npt.NDArray[np.bool_], scores: npt.NDArray[Any]) -> float | None:
    """Return the area under the ROC curve of a slide's patches; None where all are of one kind."""
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return None
    return float(roc_auc_score(positive, scores))


def mean_patch_auroc(
    patches: Mapping[str, SlidePatches],
    scores: Mapping[str, Sequence[float] | npt.NDArray[np.float64]],
) -> float:
    """Return the mean of `patch_auroc` over the slides that have patches of both kinds.

    Args:
        patches: slide -> its N patches.
        scores: slide -> N scores, in the same order.

    Raises:
        ValueError: a slide has more or fewer scores than patches, or no slide has both kinds.
    """
    areas = []
    for slide, own in patches.items():
        if len(scores[slide]) != len(own.positive):
            raise ValueError(
                f"slide {slide} has {len(own.positive)} patches and {len(scores[slide])} scores"
            )
        area = patch_auroc(own.positive, np.asarray(scores[slide]))
        areas += [] if area is None else [area]
    if not areas:
        raise ValueError("no slide has patches inside and outside of lesions")
    return float(np.mean(areas))


def colour_auroc(
    patches: Mapping[str, SlidePatches], slides: Path, patients: Mapping[str, str]
) -> float:
    """Return how well the mean colours of patches tell lesions, to one who was told which are.

    A logistic regression on red, green and blue, trained on the patches of the other patients in
    three folds, is scored by `mean_patch_auroc`.

    Args:
        patches: slide -> its patches.
        slides: folder of the slide files.
        patients: slide -> its patient.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from formats.slides.pyramid import find_slides

    files = find_slides(slides)
    colours = [_mean_colours(files[slide], own) for slide, own in patches.items()]
    positive = np.concatenate([own.positive for own in patches.values()])
    groups = [patients[slide] for slide, own in patches.items() for _ in own.positive]
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    found = cross_val_predict(
        model,
        np.concatenate(colours),
        positive,
        groups=groups,
        cv=GroupKFold(3),
        method="decision_function",
    )
    ends = np.cumsum([len(own.positive) for own in patches.values()])
    parts = np.split(found, ends[:-1])
    return mean_patch_auroc(patches, dict(zip(patches, parts, strict=True)))


def _mean_colours(file: Path, patches: SlidePatches) -> npt.NDArray[np.float64]:
    """Return (N, 3), each patch read as one pixel."""
    from formats.slides.pyramid import open_slide
    from formats.slides.resolution import PatchReader

    with open_slide(file) as slide:
        reader = PatchReader(slide, patches.slide_mpp, patches.slide_mpp * patches.side, 1)
        pixels = [reader.read(int(x), int(y))[0, 0] for x, y in patches.coords]
    return np.asarray(pixels, dtype=np.float64)
