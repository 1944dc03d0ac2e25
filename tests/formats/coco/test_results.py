"""Files read: every mistake is named with its place; files written: whole or not at all."""

import json

import pytest

from formats.coco.results import (
    check_ground_truth,
    load_ground_truth,
    load_results,
    read_ground_truth,
    read_results,
    write_results,
)
from structures import DataProblems, Problem

MASK = {"size": [4, 6], "counts": [5, 3, 16]}
TRUTH = {
    "images": [{"id": 10, "height": 4, "width": 6}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 10, "category_id": 3, "bbox": [1, 1, 1, 3], "area": 3.0, "iscrowd": 0}
    ],
}
ROW = {"image_id": 10, "category_id": 3, "score": 0.5, "bbox": [1, 1, 1, 3], "segmentation": MASK}


def saved(tmp_path, content, name="file.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_good_files_come_back_unchanged(tmp_path):
    assert load_ground_truth(saved(tmp_path, TRUTH)) == TRUTH
    text = {**ROW, "segmentation": {"size": [4, 6], "counts": "53`0"}}
    assert load_results(saved(tmp_path, [ROW, text, text]), TRUTH) == [ROW, text, text]
    assert load_results(saved(tmp_path, []), TRUTH) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rows": []}, "results must be a list of rows, got dict; write "),
        (TRUTH, "this is an annotations file"),
        ("{", "not valid JSON"),
        ("null", "results must be a list of rows, got NoneType"),
    ],
)
def test_files_that_hold_something_else(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"file.json: {message}"):
        load_results(saved(tmp_path, content), TRUTH)
    with pytest.raises(ValueError, match=r"absent\.json: no such file"):
        load_results(tmp_path / "absent.json")


def test_written_results_are_one_line_and_read_back(tmp_path):
    rows = [ROW, {**ROW, "score": 1 / 3, "bbox": [0.1, 1.0, 2.5, 3.0]}]
    path = tmp_path / "new" / "found.json"
    write_results(path, rows)
    assert path.read_text() == json.dumps(rows) + "\n"
    assert load_results(path, TRUTH) == rows


def altered(part, **change):
    return {**TRUTH, part: [{**TRUTH[part][0], **change}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "file.json: has no list 'images'"),
        ({**TRUTH, "categories": None}, "file.json: has no list 'categories'"),
        ({**TRUTH, "images": [{"id": 10}]}, "image 10: image number 0 .* lacks height, width"),
        ({**TRUTH, "annotations": TRUTH["annotations"] * 2}, "annotation 1: annotation id 1 occ"),
        (altered("annotations", category_id=9), "image 10, annotation 1: category 9 is not dec"),
        (altered("annotations", bbox=[0, 0, 5]), "annotation 1: bbox is"),
        (altered("annotations", bbox=[0, 0, 0, 2]), r"annotation 1: bbox \[0, 0, 0, 2\] has no a"),
        (altered("annotations", segmentation=[[0, 0, 1, 1]]), "annotation 1: a polygon has 4"),
    ],
)
def test_ground_truth_gets_the_checks_of_training(tmp_path, content, message):
    with pytest.raises(DataProblems, match=message):
        load_ground_truth(saved(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "truth: must be an object"),
        ({**TRUTH, "categories": None}, "truth: has no list .categories."),
        ({**TRUTH, "images": [{"id": 10}]}, "truth: images 0 has no 'height'"),
        ({**TRUTH, "images": TRUTH["images"] * 2}, "truth: images: id 10 occurs twice"),
        ({**TRUTH, "annotations": TRUTH["annotations"] * 2}, "annotations: id 1 occurs twice"),
        (altered("images", height=None), "image 10 has height None and width 6; write its size"),
        (altered("annotations", image_id=1), "annotation 1: image_id 1 is not among the 1 imag"),
        (altered("annotations", category_id=9), "annotation 1: category_id 9"),
        (altered("annotations", area=None), "annotation 1: area is None"),
        (altered("annotations", bbox=[0, 0, 5]), "annotation 1: bbox is"),
        (
            altered("annotations", segmentation={"size": [9, 9], "counts": [81]}),
            r"annotation 1: RLE of size \[9, 9\] in an image of size \[4, 6\]",
        ),
    ],
)
def test_ground_truth_in_memory(content, message):
    with pytest.raises(ValueError, match=message):
        check_ground_truth(content, "truth")


def test_skipping_leaves_out_records_and_rows_and_returns_why(tmp_path, caplog):
    bad = {**TRUTH["annotations"][0], "id": 2, "bbox": [0, 0, 0, 1]}
    truth_file = saved(tmp_path, {**TRUTH, "annotations": [*TRUTH["annotations"], bad]})
    truth, left_out = read_ground_truth(truth_file, "skip")
    assert truth == TRUTH
    assert [(p.item, p.annotation) for p in left_out] == [(10, 2)]
    rows = [ROW, {**ROW, "score": None}, ROW, {**ROW, "image_id": 4, "score": "x"}]
    file = saved(tmp_path, rows, "found.json")
    kept, dropped = read_results(file, truth, "skip")
    assert kept == [ROW, ROW]
    assert [(p.annotation, p.reason) for p in dropped] == [
        (1, "score is None"),
        (3, "score is 'x'"),
        (3, "image_id 4 is not among the 1 images"),
    ]
    assert f"{file}: 3 problem(s) skipped" in caplog.text
    with pytest.raises(DataProblems, match="has no list 'images'"):
        read_ground_truth(saved(tmp_path, []), "skip")
    with pytest.raises(DataProblems, match="lists no image"):
        read_ground_truth(saved(tmp_path, {**TRUTH, "images": []}), "skip")


def test_images_are_looked_at_where_asked(tmp_path):
    path = saved(tmp_path, TRUTH)
    fault = Problem(path, 10, None, "is missing", "add it")
    with pytest.raises(DataProblems, match="image 10: is missing; add it"):
        read_ground_truth(path, look=lambda records: {0: fault})
