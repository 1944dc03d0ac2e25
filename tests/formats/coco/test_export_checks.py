"""Mistakes that a whole export has."""

from pathlib import Path

import pytest

from formats.coco.export_checks import export_problem, label_problem

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


@pytest.mark.parametrize(
    ("used", "declared", "remedy"),
    [
        ((0, 1, 1), (1, 2), "1 ('c1') for 0, 2 ('c2') for 1"),
        ((0, 1, 0), (3, 7), "3 ('c3') for 0, 7 ('c7') for 1"),
        ((0, 1, 2, 3), (1, 2, 3, 4), "1 ('c1') for 0, 2 ('c2') for 1, 3 ('c3') for 2, ..."),
        ((0, 1), (0, 1), None),  # as declared
        ((0,), (1,), None),  # one alone is told by its id
        ((1, 2), (3, 4), None),
        ((0, 5), (1, 2), None),  # no positions of the list
    ],
)
def test_categories_numbered_from_0_by_the_annotations(used, declared, remedy):
    data = {
        "annotations": [{"category_id": n} for n in used],
        "categories": [{"id": n, "name": f"c{n}"} for n in declared],
    }
    found = label_problem(FILE, data)
    assert (found is None) == (remedy is None)
    assert found is None or found.remedy == f"write the declared ids: {remedy}"
