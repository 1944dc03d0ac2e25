"""What is mended of an annotation, by hand."""

import copy

import pytest

from formats.coco.repair import extent, repair

SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
HALF_OUT = [12.0, 4.0, 20.0, 4.0, 20.0, 8.0, 12.0, 8.0]
OUT = [30.0, 4.0, 40.0, 4.0, 40.0, 8.0]
RUNS = {"size": [12, 16], "counts": [24, 12, 156]}  # column 2
SIZE = 12, 16  # height, width


def annotation(**changes):
    own = {"id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0}
    return own | {"segmentation": [SQUARE], "bbox": [2, 2, 6, 6], "area": 36} | changes


@pytest.mark.parametrize(
    ("changes", "expected", "done"),
    [
        (
            {"segmentation": [SQUARE, [1, 1, 4, 4]]},
            {"segmentation": [SQUARE]},
            "dropped 1 of 2 parts, computed the box, computed the area",
        ),
        (
            {"segmentation": [SQUARE, HALF_OUT, OUT], "bbox": [2, 2, 38, 6]},
            {
                "segmentation": [SQUARE, [12, 4, 16, 4, 16, 8, 12, 8]],
                "bbox": [2, 2, 14, 6],
                "area": 52,
            },
            "dropped 1 of 3 parts, clipped 1 of 3 parts, computed the box, computed the area",
        ),
        (
            {"segmentation": [[1, float("nan"), 2, 2, 3, 3], "a", SQUARE, [1, 2, 3, 4, 5, 6, 7]]},
            {"segmentation": [SQUARE]},
            "dropped 3 of 4 parts, computed the box, computed the area",
        ),
        ({"segmentation": [HALF_OUT], "bbox": [12, 4, 8, 4]},
         {"segmentation": [[12, 4, 16, 4, 16, 8, 12, 8]], "bbox": [12, 4, 4, 4], "area": 16},
         "clipped 1 part, computed the box, computed the area"),
        ({"bbox": [2, 2, 0, 6]}, {"bbox": [2, 2, 6, 6]}, "computed the box"),
        ({"bbox": "2 2 6 6"}, {"bbox": [2, 2, 6, 6]}, "computed the box"),
        ({"area": -3}, {"area": 36}, "computed the area"),
        ({"bbox": None, "segmentation": RUNS}, {"bbox": [2, 0, 1, 12]}, "computed the box"),
        ({"segmentation": [], "bbox": [10, 2, 9, 4]}, {"bbox": [10, 2, 6, 4]}, "computed the box"),
        ({"segmentation": [], "bbox": [20, 2, 9, 4]}, None, ""),
        ({"segmentation": [OUT, [1, 1, 4, 4]]}, None, ""),  # no part is left
        ({"segmentation": RUNS | {"size": [16, 12]}, "bbox": [0, 0, 0, 0]}, None, ""),
        ({"iscrowd": 2}, None, ""),  # not a fault of the shape
        ({}, None, ""),
    ],
)  # fmt: skip
def test_by_hand(changes, expected, done):
    faulty = annotation(**changes)
    before = copy.deepcopy(faulty)
    found = repair(faulty, *SIZE, needed=())
    assert (found is None) == (expected is None)
    assert repr(faulty) == repr(before)
    if found is not None:
        assert found.done == done
        assert found.annotation == faulty | expected


def test_missing_keys_are_added_where_they_are_needed():
    bare = annotation()
    del bare["bbox"], bare["area"]
    assert repair(bare, *SIZE, needed=("segmentation",)) is None
    found = repair(bare, *SIZE, needed=("bbox", "area"))
    assert found.annotation == annotation()


def test_a_part_within_the_tolerance_is_not_touched():
    edge = [-1.5, 2, 8, 2, 8, 8]
    found = repair(annotation(segmentation=[edge, [0, 0]]), *SIZE, needed=())
    assert found.annotation["segmentation"] == [edge]
    assert found.annotation["bbox"] == [0, 2, 8, 6]


def test_extent():
    assert extent([SQUARE], None, *SIZE) == ([2, 2, 6, 6], 36)
    assert extent(RUNS, None, *SIZE) == ([2, 0, 1, 12], 12)
    assert extent([[1, 2, 5, 2, 9, 2]], None, *SIZE) is None  # on one line
    assert extent({"size": [12, 16], "counts": [192]}, None, *SIZE) is None
    assert extent(None, [1, 2, 3, 4], *SIZE) == ([1, 2, 3, 4], 12)
