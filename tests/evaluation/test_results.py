"""Files read: every mistake is named with its place; files written: whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.results import check_results, load_ground_truth, load_results, write_json

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
    ("change", "message"),
    [
        ({"image_id": 11}, r"row 1: image_id 11 .* belong together"),
        ({"category_id": 0}, r"row 1: category_id 0 .*\(\[3\]\).* not labels from 0"),
        ({"score": float("nan")}, r"row 1 \(image 10\): score is nan; write a finite"),
        ({"score": "0.5"}, "row 1 .* score is '0.5'"),
        ({"score": True}, "row 1 .* score is True"),
        ({"bbox": [1, 2, 3]}, "row 1: bbox is .*; write .x, y, width, height."),
        ({"bbox": [1, 2, 3, float("inf")]}, "row 1: bbox is"),
        ({"bbox": [3, 3, -1, 2]}, "row 1: bbox .* negative side"),
        ({"segmentation": [[0, 0, 1, 0, 1, 1]]}, "row 1 .* must be an RLE"),
        ({"segmentation": {"size": [6, 4], "counts": [24]}}, r"row 1 .*\[6, 4\].*\[4, 6\]"),
        ({"segmentation": {"size": [4, 6], "counts": [5, 3, 15]}}, "row 1: RLE covers 23 .* 24"),
        ({"segmentation": {"size": [4, 6], "counts": [30, -6]}}, "row 1: RLE covers 24"),
        ({"segmentation": {"size": [4, 6], "counts": "5 @"}}, "row 1: RLE cannot be read"),
        ({"segmentation": {"size": [4, 6], "counts": None}}, "row 1: RLE cannot be read"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, message):
    path = saved(tmp_path, [ROW, {**ROW, **change}], "found.json")
    with pytest.raises(ValueError, match=f"found.json: {message}"):
        load_results(path, TRUTH)


def test_rows_without_a_key(tmp_path):
    for key in ("image_id", "category_id", "score"):
        path = saved(tmp_path, [ROW, {k: v for k, v in ROW.items() if k != key}])
        with pytest.raises(ValueError, match=f"row 1 has no '{key}'"):
            load_results(path)
    bare = {k: v for k, v in ROW.items() if k not in ("bbox", "segmentation")}
    with pytest.raises(ValueError, match="row 0 has neither bbox nor segmentation"):
        check_results([bare], TRUTH)
    with pytest.raises(ValueError, match="row 1 is list"):
        check_results([ROW, []], TRUTH)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rows": []}, "results must be a list of rows, got dict"),
        (TRUTH, "this is an annotations file"),
        ("{", "not valid JSON"),
    ],
)
def test_files_that_hold_something_else(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"file.json: {message}"):
        load_results(saved(tmp_path, content), TRUTH)
    with pytest.raises(ValueError, match=r"absent\.json: no such file"):
        load_results(tmp_path / "absent.json")


def altered(part, **change):
    return {**TRUTH, part: [{**TRUTH[part][0], **change}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be an object"),
        ({**TRUTH, "categories": None}, "has no list .categories."),
        ({**TRUTH, "images": [{"id": 10}]}, "images 0 has no 'height'"),
        ({**TRUTH, "images": TRUTH["images"] * 2}, "images: id 10 occurs twice"),
        ({**TRUTH, "annotations": TRUTH["annotations"] * 2}, "annotations: id 1 occurs twice"),
        (altered("images", height=None), "image 10 has height None and width 6; write its size"),
        (altered("annotations", image_id=1), "annotation 1: image_id 1 is not among the 1 pict"),
        (altered("annotations", category_id=9), "annotation 1: category_id 9"),
        (altered("annotations", area=None), "annotation 1: area is None"),
        (altered("annotations", bbox=[0, 0, 5]), "annotation 1: bbox is"),
        (
            altered("annotations", segmentation={"size": [9, 9], "counts": [81]}),
            r"annotation 1: RLE of size \[9, 9\] in a picture of size \[4, 6\]",
        ),
    ],
)
def test_bad_ground_truth(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"file.json: {message}"):
        load_ground_truth(saved(tmp_path, content))


def test_numbers_keep_their_value(tmp_path):
    payload = {
        "third": 1 / 3,
        "float32": np.float32(0.1),
        "count": np.int64(7),
        "array": np.array([[1, 2]]),
        "nan": [float("nan"), np.float32("nan"), np.array([np.inf, 1.0])],
    }
    read = json.loads(write_json(tmp_path / "new" / "m.json", payload).read_text())
    assert read == {
        "third": 1 / 3,
        "float32": 0.10000000149011612,
        "count": 7,
        "array": [[1, 2]],
        "nan": [None, None, [None, 1.0]],
    }
    with pytest.raises(TypeError, match="Path cannot be written as JSON"):
        write_json(tmp_path / "m.json", {"p": tmp_path})


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_json(tmp_path / "m.json", {"old": 1})

    def full(self, text, encoding):
        with self.open("w") as file:
            file.write(text[:3])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]
