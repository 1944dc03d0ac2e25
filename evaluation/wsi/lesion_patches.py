"""How well scores of patches, such as attention, find outlined lesions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from formats.slides.geojson import Polygon, inside


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
