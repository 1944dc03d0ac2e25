"""Boxes, polygons and masks against the borders of an image 12 px high and 16 px wide."""

import pytest

from formats.coco.shapes import box_reason, is_known, is_number, polygon_reason, rle_reason

H, W = 12, 16


def triangle(x, y):
    return [[x, y, x + 3, y, x, y + 3]]


@pytest.mark.parametrize(
    ("polygons", "reason"),
    [
        (triangle(0, 0), ""),
        (triangle(13, 9), ""),  # ends on the border: x 13 to 16, y 9 to 12
        (triangle(-2, -2), ""),  # reaches 2 px beyond, the tolerance
        (triangle(15, 11), ""),  # 2 px beyond on the other sides
        (triangle(-2.5, 4), "a polygon lies outside the image: x -2.5 to 0.5, y 4 to 7 in 16 x"),
        (triangle(4, -2.5), "outside the image: x 4 to 7, y -2.5 to 0.5"),
        (triangle(15.5, 4), "outside the image"),
        (triangle(4, 11.5), "outside the image"),
        (triangle(-3, 4), "outside the image"),  # touches the border only: no overlap
        (triangle(16, 4), "outside the image"),
        (triangle(4, 12), "outside the image"),
        ([*triangle(2, 2), *triangle(90, 2)], "outside the image: x 90 to 93"),
        ([], "has no polygon"),
        ([[1, 1, 4, 1]], "4 numbers, fewer than 6"),
        ([[1, 1, 4, 1, 4]], "5 numbers, fewer than 6"),
        ([[1, 2, 3, 4, 5, 6, 7]], "7 numbers, which are not pairs"),
        ([3, 4, 5, 6], "a polygon is a int"),
        ([[1, 1, 4, 1, 4, float("nan")]], "not a finite number"),
        ([[1, 1, 4, 1, 4, 10**400]], "not a finite number"),
        ([["1", 1, 4, 1, 4, 4]], "not a finite number"),
        ([[1, 1, 4, 1, 4, None]], "not a finite number"),
    ],
)
def test_polygons(polygons, reason):
    found = polygon_reason(polygons, H, W)
    assert (reason in found) if reason else found == ""


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([0, 0, 16, 12], ""),
        ([-2, -2, 20, 16], ""),
        ([-2.1, 0, 5, 5], "bbox [-2.1, 0, 5, 5] lies outside the image: x -2.1 to 2.9"),
        ([12, 0, 6.1, 5], "outside the image: x 12 to 18.1"),
        ([16, 0, 1, 5], "outside"),
        ([3, 3, 0, 5], "bbox [3, 3, 0, 5] has no area"),
        ([3, 3, 5, 0], "has no area"),
        ([3, 3, -5, 5], "has no area"),
        ([3, 3, 5], "bbox is [3, 3, 5]"),
        (None, "bbox is None"),
        ([3, 3, 5, "5"], "bbox is"),
        ([3, 3, float("inf"), 5], "bbox is"),
    ],
)
def test_boxes(box, reason):
    found = box_reason(box, H, W)
    assert (reason in found) if reason else found == ""


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ({"size": [12, 16], "counts": [0, 24, 168]}, ""),
        ({"size": [12, 16], "counts": "P6"}, ""),  # one run of 192 = 6 * 32
        ({"size": [16, 12], "counts": [192]}, "size [16, 12] in an image of [12, 16]"),
        ({"size": None, "counts": [192]}, "size None in an image"),
        ({"size": [12, 16], "counts": [0, 24, 100]}, "cover 124 of 192 pixels"),
        ({"size": [12, 16], "counts": [200, -8]}, "not an integer from 0 to 192"),
        ({"size": [12, 16], "counts": [191.0, 1]}, "not an integer"),
        ({"size": [12, 16], "counts": "\x7f"}, "outside the COCO alphabet"),
        ({"size": [12, 16], "counts": "5"}, "cover 5 of 192 pixels"),
        ({"size": [12, 16], "counts": None}, "a NoneType, not a text"),
        ({"size": [12, 16]}, "neither polygons nor"),
        ("abc", "neither polygons nor"),
    ],
)
def test_masks(mask, reason):
    found = rle_reason(mask, H, W)
    assert (reason in found) if reason else found == ""


def test_a_known_coverage_spares_the_text_only_where_it_fits():
    assert rle_reason({"size": [12, 16], "counts": "\x7f"}, H, W, covered=192) == ""
    assert "alphabet" in rle_reason({"size": [12, 16], "counts": "\x7f"}, H, W, covered=-1)


def test_ids_and_numbers_of_any_type():
    assert is_known(3, {3})
    assert is_known(3.0, {3})
    assert is_known("3", {"3"})
    assert not any(is_known(x, {0, 1, 3}) for x in (True, "3", None, [3], {}))
    assert is_number(0)
    assert is_number(-1.5)
    assert not any(is_number(x) for x in (True, "3", None, [3], float("nan"), 10**400))
