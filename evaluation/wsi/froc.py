"""Free-response ROC of lesions: sensitivity against false positives per slide (CAMELYON16).

Bejnordi et al. 2017, JAMA 318(22), and the organisers' script. A lesion is found at the highest
probability of the detections in it; a detection outside of all lesions is a false positive.
Isolated tumour cells are neither to be found nor wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.wsi.lesion_map import LesionMap

RATES = (0.25, 0.5, 1, 2, 4, 8)  # false positives per slide

FloatArray = npt.NDArray[np.float64]


class SlideDetections(NamedTuple):
    """The detections of a slide against its lesions.

    Attributes:
        found: (L,) highest probability of the detections in each lesion, 0 where there is none.
        counts: (L,) whether a lesion counts, which isolated tumour cells do not.
        false: (F,) probabilities of the false positives.
    """

    found: FloatArray
    counts: npt.NDArray[np.bool_]
    false: FloatArray


class FROC(NamedTuple):
    """The curve of all slides, from the highest probability down.

    Attributes:
        thresholds: (P,) distinct probabilities, infinity first.
        rates: (P,) false positives per slide from that probability on.
        sensitivities: (P,) share of the lesions that are found.
        lesions: number of lesions that count.
    """

    thresholds: FloatArray
    rates: FloatArray
    sensitivities: FloatArray
    lesions: int

    def metrics(self) -> dict[str, float]:
        """Return ``sensitivity_at_<rate>``, the largest within each rate, and their mean, froc."""
        best = {rate: float(self.sensitivities[self.rates <= rate].max()) for rate in RATES}
        named = {f"sensitivity_at_{rate:g}": value for rate, value in best.items()}
        return {**named, "froc": float(np.mean(list(best.values())))}


def compare_detections(detections: FloatArray, lesions: LesionMap | None) -> SlideDetections:
    """Compare the detections of a slide with its lesions.

    Args:
        detections: (N, 3) of probability, x and y, see `formats.detections_csv`. A probability of
            0 says that there is nothing (A640).
        lesions: those of the slide, None for a slide without.
    """
    detections = detections[detections[:, 0] > 0]
    if lesions is None:
        return SlideDetections(np.zeros(0), np.zeros(0, dtype=np.bool_), detections[:, 0])
    number = lesions.at(detections[:, 1:])
    found = np.zeros(len(lesions.isolated) + 1)
    np.maximum.at(found, number, detections[:, 0])
    return SlideDetections(found[1:], ~lesions.isolated, detections[number == 0, 0])


def froc(slides: Sequence[SlideDetections]) -> FROC:
    """Return the curve of some slides.

    Args:
        slides: every slide that was searched, with and without lesions; at least one.

    Raises:
        ValueError: no lesion counts.
    """
    found = np.concatenate([slide.found[slide.counts] for slide in slides])
    false = np.concatenate([slide.false for slide in slides])
    if not len(found):
        raise ValueError(
            f"none of the {len(slides)} slides has a lesion that counts, so there is no "
            "sensitivity; give slides with lesions of more than isolated tumour cells"
        )
    thresholds = np.concatenate([[np.inf], np.unique(np.concatenate([found, false]))[::-1]])
    thresholds = thresholds[thresholds > 0]  # 0 is a lesion that no detection hits  # A643
    rates, hits = (
        len(values) - np.searchsorted(np.sort(values), thresholds) for values in (false, found)
    )
    return FROC(thresholds, rates / len(slides), hits / len(found), len(found))
