"""Every fault of a COCO file is found, placed and left out; a sound file has none."""

import copy
import json
import time
from pathlib import Path

import numpy as np
import pytest

from formats.coco.document import check_coco, load_coco
from structures import DataProblems, Problem, rle

FILE = Path("set") / "instances.json"
SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
KEYS = {"annotation_keys": ("id", "image_id", "category_id", "bbox", "area")}


@pytest.fixture
def data():
    """Images 7 (12 x 16) and 3 (20 x 10), one crowd, ids with gaps, a box without a polygon."""
    size = {"height": 12, "width": 16}
    polygon = {"id": 40, "image_id": 7, "category_id": 8, "iscrowd": 0, "segmentation": [SQUARE]}
    crowd = {"id": 13, "image_id": 7, "category_id": 0, "iscrowd": 1, "area": 24}
    listed = {"id": 12, "image_id": 3, "category_id": 0}
    return {
        "images": [
            {"id": 7, "file_name": "seven.png"} | size,
            {"id": 3, "file_name": "three.png", "height": 20, "width": 10},
        ],
        "annotations": [
            polygon | {"bbox": [2, 2, 6, 6], "area": 36.0},
            crowd | {"segmentation": {"size": [12, 16], "counts": [0, 24, 168]}},
            listed | {"segmentation": {"size": [20, 10], "counts": "P6X0"}},  # 192 + 8
        ],
        "categories": [{"id": 8, "name": "pear"}, {"id": 0, "name": "apple"}],
    }


def test_a_sound_file_comes_back_whole(data):
    before = copy.deepcopy(data)
    findings = check_coco(FILE, data)
    assert findings.problems == []
    assert not findings.fatal
    assert findings.data == before == data


@pytest.mark.parametrize(
    ("kind", "number", "values", "where", "reason", "remedy"),
    [
        ("images", 0, {"height": ...}, (7, None), "number 0 (id 7) lacks height", "add the key"),
        ("images", 1, {"id": "3"}, ("3", None), "id '3', which is not", "integer id"),
        ("images", 1, {"id": True}, (True, None), "id True, which is not", "integer id"),
        ("images", 1, {"id": 2**63}, (2**63, None), "not an integer", "integer id"),
        ("images", 1, {"width": 0}, (3, None), "size (20, 0)", "positive integers"),
        ("images", 1, {"width": "9"}, (3, None), "size (20, '9')", "positive integers"),
        ("images", 1, {"width": 9.5}, (3, None), "size (20, 9.5)", "positive integers"),
        ("images", 1, {"file_name": None}, (3, None), "file_name is None", "name of its file"),
        ("images", 1, {"file_name": "a\0b"}, (3, None), "file_name is 'a", "name of its file"),
        ("annotations", 0, {"image_id": 99}, (99, 40), "no such image", "add the image"),
        ("annotations", 0, {"image_id": [7]}, ([7], 40), "no such image", "add the image"),
        (
            "annotations",
            0,
            {"image_id": "7"},
            ("7", 40),
            "no such image",
            "number 7, without",
        ),
        ("annotations", 0, {"category_id": 6}, (7, 40), "category 6 is not d", "known are [0, 8]"),
        ("annotations", 0, {"segmentation": ...}, (7, 40), "lacks segmentation", "add the key"),
        ("annotations", 1, {"id": 40}, (7, 40), "annotation id 40 occurs twice", "renumber one"),
        ("annotations", 0, {"segmentation": []}, (7, 40), "has no polygon", "redraw or remove"),
        ("annotations", 0, {"segmentation": [[1, 2]]}, (7, 40), "fewer than 6", "redraw or remove"),
        ("annotations", 0, {"segmentation": [[30] * 6]}, (7, 40), "outside the", "redraw or"),
        ("annotations", 1, {"segmentation": None}, (7, 13), "neither polygons nor", "redraw or"),
        (
            "annotations",
            2,
            {"segmentation": {"size": [20, 10], "counts": "P6W0"}},
            (3, 12),
            "run lengths cover 199 of 200",
            "redraw or remove",
        ),
        ("annotations", 0, {"bbox": [1, 2, 0, 3]}, (7, 40), "has no area", "[x, y, width, height]"),
        ("annotations", 0, {"bbox": [1, 2, 3]}, (7, 40), "bbox is [1, 2, 3]", "[x, y, width, heig"),
        ("annotations", 0, {"area": float("inf")}, (7, 40), "area is inf", "square pixels"),
        ("annotations", 0, {"area": -1}, (7, 40), "area is -1", "square pixels"),
        ("annotations", 0, {"iscrowd": "no"}, (7, 40), "iscrowd is 'no'", "write 0 or 1"),
    ],
)
def test_each_fault_is_placed_and_left_out(data, kind, number, values, where, reason, remedy):
    record = data[kind][number]
    for key, value in values.items():
        if value is ...:
            del record[key]
        else:
            record[key] = value
    findings = check_coco(FILE, data)
    problem = findings.problems[0]
    assert (problem.item, problem.annotation) == where
    assert reason in problem.reason
    assert remedy in problem.remedy
    text = str(problem)
    assert text.startswith(str(FILE))
    for word, value in zip(("image", "annotation"), where, strict=True):
        assert (f"{word} {value}" in text) == (value is not None)
    assert not findings.fatal
    assert record not in findings.data[kind]
    assert len(findings.data[kind]) == len(data[kind]) - 1
    assert check_coco(FILE, findings.data).problems == []


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([{"id": 8}], "category number 0 (id 8) lacks name"),
        ([{"id": 8, "name": "pear"}, {"id": 8, "name": "fig"}], "category id 8 occurs twice"),
        ([{"id": 8, "name": "pear"}, {"id": 0, "name": "pear"}], "name 'pear' occurs twice"),
        ([], "declares no category"),
        ([17], "category number 0 is int, not an object"),
    ],
)
def test_faults_of_categories_cannot_be_left_out(data, values, reason):
    findings = check_coco(FILE, data | {"categories": values})
    assert findings.fatal
    assert reason in findings.problems[0].reason
    assert findings.problems[0].item is None


def test_all_faults_of_a_file_are_told_at_once(data):
    data["images"][1]["height"] = 0
    data["annotations"][0] |= {"category_id": 9, "bbox": [0, 0, 0, 0], "segmentation": [[1, 2]]}
    data["annotations"].append(17)
    findings = check_coco(FILE, data)
    assert [(p.item, p.annotation) for p in findings.problems] == [
        (3, None),
        (None, None),
        (7, 40),
        (7, 40),
        (7, 40),
    ]
    # the annotation of image 3 is gone with it without a problem of its own
    assert [a["id"] for a in findings.data["annotations"]] == [13]


def test_of_two_images_with_one_id_the_first_stays(data):
    data["images"].append({"id": 7, "file_name": "b.png", "height": 5, "width": 5})
    findings = check_coco(FILE, data)
    assert [p.reason for p in findings.problems] == ["image id 7 occurs twice"]
    assert [i["file_name"] for i in findings.data["images"]] == ["seven.png", "three.png"]
    assert len(findings.data["annotations"]) == 3


def test_an_empty_set_of_images_is_fatal_and_an_empty_set_of_objects_is_not(data):
    assert check_coco(FILE, data | {"annotations": []}).problems == []
    findings = check_coco(FILE, data | {"images": [], "annotations": []})
    assert findings.fatal
    assert "lists no image" in findings.problems[0].reason


def test_images_that_cannot_be_used_take_their_objects_with_them(data):
    fault = Problem(FILE, 7, None, "is gone", "bring it back")
    findings = check_coco(FILE, data, unusable={0: fault})
    assert findings.problems == [fault]
    assert [i["id"] for i in findings.data["images"]] == [3]
    assert [a["id"] for a in findings.data["annotations"]] == [12]


def test_where_masks_are_not_needed_they_may_be_empty_but_not_wrong(data):
    data["annotations"] = data["annotations"][:1]
    for absent in ([], None):
        data["annotations"][0]["segmentation"] = absent
        assert check_coco(FILE, data, **KEYS).problems == []
    data["annotations"][0]["segmentation"] = [[1, 2]]
    assert "fewer than 6" in check_coco(FILE, data, **KEYS).problems[0].reason
    del data["annotations"][0]["bbox"]
    assert "lacks bbox" in check_coco(FILE, data, **KEYS).problems[0].reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file; give the path of the annotations"),
        (b"{'a': 1}", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "has no list 'images'"),
        (json.dumps({"images": [], "annotations": {}}).encode(), "has no list 'annotations'"),
    ],
)
def test_files_that_are_no_coco(tmp_path, content, reason):
    file = tmp_path / "bad.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataProblems) as error:
        load_coco(file)
    assert f"{file}: " in str(error.value)
    assert reason in str(error.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataProblems, match="cannot be read"):
        load_coco(tmp_path)


def test_fifty_thousand_annotations_take_seconds():
    runs = rle.to_bytes(np.tile([7, 5], 100)).decode()  # 1200 pixels
    mask = {"size": [30, 40], "counts": runs}
    image = {"id": 1, "file_name": "a.png", "height": 30, "width": 40}
    record = {"image_id": 1, "category_id": 1, "bbox": [2, 2, 6, 6], "area": 36}
    shapes = [{"segmentation": mask}, {"segmentation": [SQUARE]}]
    annotations = [record | shapes[n % 2] | {"id": n} for n in range(50_000)]
    annotations[-1] = annotations[-1] | {"segmentation": {"size": [30, 40], "counts": runs[:-1]}}
    start = time.process_time()
    data = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    findings = check_coco(FILE, data)
    assert [p.annotation for p in findings.problems] == [49_999]
    assert time.process_time() - start < 10
