"""Rows of a results list: every fault is told with row, reason and remedy."""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from formats.coco.result_checks import _are_sound, find_result_problems, image_sizes
from formats.coco.results import check_results
from structures import DataProblems, rle

FILE = Path("found.json")
MASK = {"size": [4, 6], "counts": [5, 3, 16]}
TRUTH = {
    "images": [{"id": 10, "height": 4, "width": 6}, {"id": 1, "height": 4, "width": 6}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
}
ROW = {"image_id": 10, "category_id": 3, "score": 0.5, "bbox": [1, 1, 1, 3], "segmentation": MASK}


def problems(*rows, truth=TRUTH):
    return find_result_problems(list(rows), truth, FILE, decode=True)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"score": 1},
        {"score": 0},
        {"bbox": [0, 0, 0, 0]},
        {"bbox": ...},
        {"segmentation": ...},
        {"segmentation": {"size": [4, 6], "counts": "53`0"}},
        {"extra": None},
    ],
)
def test_sound_rows(change):
    row = {k: v for k, v in {**ROW, **change}.items() if v is not ...}
    assert problems(ROW, row) == []
    assert problems(row, truth=None) == []
    sizes, categories = image_sizes(TRUTH), {1, 3}
    assert _are_sound([ROW, row], sizes, categories)


@pytest.mark.parametrize(
    ("change", "reason", "remedy"),
    [
        ({"image_id": 11}, "image_id 11 is not among the 2 images", "the predictions belong to"),
        ({"image_id": True}, "image_id True is not among", "belong to"),
        ({"image_id": [10]}, r"image_id \[10\] is not among", "belong to"),
        ({"image_id": None}, "image_id None is not among", "belong to"),
        ({"category_id": 0}, r"category_id 0 .*\(\[1, 3\]\)", "not labels from 0"),
        ({"category_id": {}}, "category_id {} is not", "not labels from 0"),
        ({"score": float("nan")}, "score is nan", "a finite number"),
        ({"score": float("-inf")}, "score is -inf", "a finite number"),
        ({"score": None}, "score is None", "a finite number"),
        ({"score": "0.5"}, "score is '0.5'", "a finite number"),
        ({"score": True}, "score is True", "a finite number"),
        ({"score": ...}, "has no score", "add it or remove the row"),
        ({"image_id": ..., "category_id": ...}, "has no image_id, category_id", "add it or"),
        ({"bbox": [1, 2, 3]}, r"bbox is \[1, 2, 3\]", r"\[x, y, width, height\]"),
        ({"bbox": [1, 2, 3, float("inf")]}, "bbox is", r"\[x, y, width, height\]"),
        ({"bbox": [1, 2, "3", 4]}, "bbox is", r"\[x, y, width, height\]"),
        ({"bbox": None}, "bbox is None", r"\[x, y, width, height\]"),
        ({"bbox": [3, 3, -1, 2]}, r"bbox \[3, 3, -1, 2\] has a negative side", "in pixels"),
        ({"segmentation": [[0, 0, 1, 0, 1, 1]]}, "segmentation is not an RLE", '{"size"'),
        ({"segmentation": None}, "segmentation is not an RLE", '{"size"'),
        ({"segmentation": {"size": [4, 6]}}, "segmentation is not an RLE", '{"size"'),
        ({"segmentation": {**MASK, "size": [6, 4]}}, r"size \[6, 4\] in .*\[4, 6\]", "original"),
        ({"segmentation": {**MASK, "size": None}}, "RLE has the size None", "whole pixels"),
        ({"segmentation": {**MASK, "size": [4, 6, 1]}}, "RLE has the size", "whole pixels"),
        ({"segmentation": {**MASK, "size": [4.0, 6]}}, "RLE has the size", "whole pixels"),
        ({"segmentation": {**MASK, "counts": [5, 3, 15]}}, "cover 23 of 24 pixels", "again"),
        ({"segmentation": {**MASK, "counts": [30, -6]}}, "not an integer from 0 to 24", "again"),
        ({"segmentation": {**MASK, "counts": "53_0"}}, "cover 23 of 24 pixels", "again"),
        ({"segmentation": {**MASK, "counts": "5 @"}}, "outside the COCO alphabet", "again"),
        ({"segmentation": {**MASK, "counts": None}}, "NoneType, not a text or a list", "again"),
        ({"bbox": ..., "segmentation": ...}, "neither bbox nor segmentation", "one of them"),
    ],
)
def test_each_fault_is_named_by_its_row(change, reason, remedy):
    bad = {k: v for k, v in {**ROW, **change}.items() if v is not ...}
    (problem,) = problems(ROW, bad, ROW)
    assert problem.annotation == 1
    assert re.search(reason, problem.reason)
    assert re.search(remedy, problem.remedy)
    known = isinstance(bad.get("image_id"), int)
    assert str(problem).startswith(
        f"found.json, image {bad['image_id']}, row 1: " if known else "found.json, row 1: "
    )


def test_rows_that_are_no_objects():
    found = problems([], None, "row", ROW)
    assert [(p.annotation, p.reason) for p in found] == [
        (0, "is list, not an object"),
        (1, "is NoneType, not an object"),
        (2, "is str, not an object"),
    ]


def test_all_faults_of_all_rows_are_told_in_their_order():
    broken = {**ROW, "segmentation": {**MASK, "counts": [1]}}
    worse = {**ROW, "score": None, "category_id": 7, "bbox": []}
    found = problems(broken, worse, ROW, broken)
    assert [p.annotation for p in found] == [0, 1, 1, 1, 3]
    with pytest.raises(DataProblems) as error:
        check_results([ROW, worse], TRUTH)
    assert len(error.value.problems) == 3


def test_without_categories_any_will_do():
    other = {**ROW, "category_id": 99}
    assert problems(other, truth={"images": TRUTH["images"]}) == []
    (problem,) = problems({**other, "image_id": 5}, truth={"images": TRUTH["images"]})
    assert "image_id 5" in problem.reason


def test_numpy_values_in_memory_are_numbers():
    row = {**ROW, "score": np.float32(0.5), "bbox": list(np.array([1.0, 1, 2, 2]))}
    assert problems(row) == []
    (problem,) = problems({**row, "score": np.float64("nan")})
    assert "score is" in problem.reason


def test_fifty_thousand_rows_are_checked_in_little_time():
    runs = rle.to_bytes(np.tile([7, 5], 100)).decode()
    truth = {**TRUTH, "images": [{"id": 10, "height": 30, "width": 40}]}
    mask = {"size": [30, 40], "counts": runs}
    rows = [{**ROW, "segmentation": mask, "score": k / 50_000} for k in range(50_000)]
    start = time.process_time()
    assert find_result_problems(rows, truth, FILE) == []
    quick = time.process_time() - start
    assert find_result_problems(rows, truth, FILE, decode=True) == []
    assert quick < 1
    assert time.process_time() - start < 4
