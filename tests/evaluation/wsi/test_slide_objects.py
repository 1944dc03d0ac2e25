"""Regions, objects and detections of a slide's patches."""

import numpy as np
import pytest

from evaluation.wsi.heatmap_image import ScoreMap
from evaluation.wsi.slide_objects import PlacedPatches, detections_of, objects_of, regions_of

PATCHES = PlacedPatches(np.array([[0.0, 0], [100, 0], [200, 0], [300, 0]]), 100.0)
MAPS = [
    ScoreMap("logit", np.array([-1.0, -2, -3, -4]), signed=True),
    ScoreMap("weight", np.array([0.1, 0.2, 0.4, 0.3])),
]


def test_a_region_is_what_lies_above_the_rank():
    (region,) = regions_of(PATCHES, MAPS, 0.5)  # evidence against a class forms none
    assert (region.number, region.patches, region.score, region.rank) == (1, 2, 0.4, 1.0)
    assert region.peak == (250, 50)
    corners = {(200, 0), (400, 0), (400, 100), (200, 100)}
    assert {tuple(point) for point in region.polygon[0].tolist()} == corners


def test_objects_have_all_scores_and_ranks():
    *patches, region = objects_of(PATCHES, MAPS, regions_of(PATCHES, MAPS, 0.5))
    assert [one.kind for one in patches] == ["tile"] * 4
    named = {"logit": -1, "logit rank": 1, "weight": 0.1, "weight rank": 0}
    assert patches[0].measurements == named
    assert (region.kind, region.name, region.locked) == ("annotation", "weight", True)
    assert region.measurements == {"highest weight": 0.4, "patches": 2}


def test_a_detection_is_the_peak_of_a_region():
    maps = [ScoreMap("weight", np.array([0.9, 0.1, 0.2, 0.3]))]
    found = detections_of(regions_of(PATCHES, maps, 0.6), 0.8)
    assert found == [(0.8, 50, 50), (pytest.approx(0.8 * 2 / 3), 350, 50)]


def test_patches_of_one_score_form_no_region():
    even = [ScoreMap("weight", np.full(4, 0.25))]
    assert regions_of(PATCHES, even, 0.95) == []
    assert detections_of([], 0.9) == []
