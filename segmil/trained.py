"""Trained models; both kinds have ``predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from callbacks.seg.overlay import draw_overlay
from engine.checkpoints.restore import Restored
from engine.deploy import single
from structures import CategoryMap, Instances


class ImageModel:
    """A segmentation model; its predictions are those of ``train.py predict``, of any score."""

    def __init__(self, restored: Restored) -> None:
        self.restored, module = restored, cast("Any", restored.module)
        self.categories: CategoryMap = module.category_map  # of its predictions

    def predict(self, images: Any) -> Any:
        """Predict an RGB array (H, W, 3), uint8 or float in [0, 1], a path, or a list of these.

        Returns:
            `Instances`; a list for a list; a dictionary by file name for a folder.
        """
        if isinstance(images, list | tuple):
            return [self.predict(image) for image in images]
        if isinstance(images, str | Path):
            found = dict(single.predict_files(Path(images), self.restored))
            return found if Path(images).is_dir() else found.popitem()[1]
        batch = single.image_batch(single.pixels_of(images, self.restored), self.restored)
        return single.predict_batch(batch, self.restored)[0].to("cpu")

    def draw(self, image: Any, instances: Instances, score: float = 0.5) -> npt.NDArray[np.uint8]:
        """Draw the predictions of at least a score over an array or a file, with a legend."""
        pixels = single.pixels_of(image, self.restored)
        title = Path(image).name if isinstance(image, str | Path) else ""
        return draw_overlay(pixels, instances, self.categories.names, score, title)

    def to_coco(
        self, found: Mapping[str, Instances] | Sequence[Instances] | Instances, score: float = 0.5
    ) -> dict[str, Any]:
        """Return the predictions of at least a score as a COCO file; names are dictionary keys."""
        several = [found] if isinstance(found, Instances) else found
        if not isinstance(several, Mapping):
            several = {f"image {n}": one for n, one in enumerate(several, start=1)}
        return single.predicted_document(several, self.categories, score)


class BagPrediction(NamedTuple):
    """Probability of each class by its name; (N,) or (N, K) attention, None if there is none."""

    probabilities: dict[str, float]
    attention: npt.NDArray[np.float32] | None


class BagModel:
    """A multiple-instance model; its predictions are those of ``train.py predict``."""

    def __init__(self, restored: Restored) -> None:
        self.restored = restored

    def predict(self, features: Any) -> BagPrediction:
        """Predict a bag: an array (N, D), or a file of features; standardised as in training."""
        bag = single.feature_bag(features, self.restored)
        output = single.predict_batch(bag, self.restored)
        attention = None if output.attention is None else output.attention.float().cpu().numpy()
        return BagPrediction(single.class_probabilities(output, self.restored), attention)
