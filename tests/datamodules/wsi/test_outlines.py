"""Outlines of tissue go to QuPath and come back."""

import json
from types import SimpleNamespace

import numpy as np

from datamodules.wsi.outlines import outlined_tissue, tissue_objects
from datamodules.wsi.tissue import TissueMask
from formats.slides.qupath import SlideObject, write_objects

SLIDE = SimpleNamespace(bounds=(70, 30, 1600, 960))
MPP = 0.5  # so that a pixel of the mask is 16 of level 0


def test_what_is_written_is_the_same_tissue(tmp_path):
    mask = np.random.default_rng(0).random((60, 100)) < 0.6
    tissue = TissueMask(mask, 16.0, (70, 30))
    path = tmp_path / "a.geojson"
    write_objects(path, tissue_objects(tissue), tissue.origin)
    found = outlined_tissue(path, SLIDE, MPP)
    np.testing.assert_array_equal(found.mask, mask)
    assert (found.scale, found.origin) == (16.0, (70, 30))
    names = {
        one["properties"]["classification"]["name"]
        for one in json.loads(path.read_text())["features"]
    }
    assert names == {"Tissue"}


def test_classes_that_begin_with_ignore_are_left_out(tmp_path):
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    objects = [
        SlideObject("annotation", [[square * 800]], "Tissue"),
        SlideObject("annotation", [[square * 160 + 320]], "Ignore*"),
        SlideObject("annotation", [[square * 160 + 1200]]),  # no class, beyond the lower border
        SlideObject("tile", [[square * 5000]]),
    ]
    path = tmp_path / "a.geojson"
    write_objects(path, objects)
    expected = np.zeros((60, 100), bool)
    expected[:50, :50] = True
    expected[20:30, 20:30] = False
    found = outlined_tissue(path, SLIDE, MPP).mask
    expected[75:, 75:85] = True
    np.testing.assert_array_equal(found, expected)
