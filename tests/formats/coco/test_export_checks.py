"""Mistakes that a whole export has."""

from pathlib import Path

import pytest

from formats.coco.export_checks import export_problem

FILE = Path("instances.json")
SMALL, LARGE = [0, 0, 1, 0, 1, 1], [0, 0, 9, 0, 9, 9]
BOX = {"bbox": [0, 0, 9, 9]}
RUNS = {"size": [2, 2], "counts": [4]}


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ([], None),
        ([BOX, BOX | {"segmentation": []}], "none of the 2 annotations has a mask"),
        ([BOX, BOX | {"segmentation": RUNS}], None),
        ([{"segmentation": None}, {}], None),  # without a box: told one by one
        ([{"segmentation": [SMALL, SMALL]}, {"segmentation": [SMALL]}], "between 0 and 1"),
        ([{"segmentation": [SMALL, LARGE]}, {"segmentation": [SMALL]}], None),
        ([{"segmentation": [SMALL]}], None),  # one alone
        ([BOX], None),
        ([{"segmentation": [SMALL]}, {"segmentation": [LARGE]}], None),
        ([{"segmentation": [[0, 0, 1]]}, "x"], None),  # not polygons
        ([{"segmentation": RUNS}], None),
    ],
)
def test_the_export_as_a_whole(annotations, reason):
    images = [{"height": 40, "width": 50}]
    found = export_problem(FILE, {"annotations": annotations, "images": images})
    assert (found is None) == (reason is None)
    assert found is None or reason in found.reason


def test_small_images_may_have_their_objects_in_the_first_pixel():
    data = {"annotations": [{"segmentation": [SMALL]}] * 2, "images": [{"height": 15, "width": 99}]}
    assert export_problem(FILE, data) is None
