import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.coco_checks import Problem, find_problems, load_coco, raise_problems

FILE = Path("set") / "instances.json"


def test_nothing_is_wrong(small_coco):
    assert find_problems(FILE, small_coco, None) == []


def change(small_coco, kind, number, **values):
    record = small_coco[kind][number]
    for key, value in values.items():
        if value is ...:
            del record[key]
        else:
            record[key] = value


@pytest.mark.parametrize(
    ("kind", "number", "values", "where", "reason"),
    [
        ("images", 0, {"height": ...}, (7, None), "lacks height"),
        ("images", 1, {"id": 7}, (7, None), "picture id 7 occurs twice"),
        ("images", 1, {"id": "3"}, ("3", None), "'3', which is no integer"),
        ("images", 2, {"width": 0}, (11, None), r"size \(9, 0\)"),
        ("images", 2, {"width": "9"}, (11, None), r"size \(9, '9'\)"),
        ("annotations", 0, {"image_id": 99}, (99, 40), "no such picture"),
        ("annotations", 0, {"image_id": [7]}, ([7], 40), "no such picture"),
        ("annotations", 0, {"category_id": 6}, (7, 40), "category 6 is not declared"),
        ("annotations", 0, {"segmentation": ...}, (7, 40), "lacks segmentation"),
        ("annotations", 1, {"id": 40}, (3, 40), "annotation id 40 occurs twice"),
        ("annotations", 0, {"segmentation": []}, (7, 40), "no polygon"),
        ("annotations", 0, {"segmentation": [[1, 1, 4, 1]]}, (7, 40), "4 numbers, fewer than 6"),
        ("annotations", 0, {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, (7, 40), "not pairs"),
        ("annotations", 0, {"segmentation": [3, 4, 5, 6]}, (7, 40), "a polygon is a int"),
        (
            "annotations",
            0,
            {"segmentation": [[1, 1, 4, 1, 4, float("nan")]]},
            (7, 40),
            "no finite number",
        ),
        ("annotations", 0, {"segmentation": [["1", 1, 4, 1, 4, 4]]}, (7, 40), "no finite number"),
        ("annotations", 0, {"segmentation": "abc"}, (7, 40), "neither polygons nor"),
        (
            "annotations",
            2,
            {"segmentation": {"size": [16, 12], "counts": [192]}},
            (7, 13),
            r"size \[16, 12\] in a picture of \[12, 16\]",
        ),
        (
            "annotations",
            2,
            {"segmentation": {"size": [12, 16], "counts": [0, 24, 100]}},
            (7, 13),
            "cover 124 of 192",
        ),
        (
            "annotations",
            2,
            {"segmentation": {"size": [12, 16], "counts": [200, -8]}},
            (7, 13),
            "cover -1 of 192",
        ),
        (
            "annotations",
            2,
            {"segmentation": {"size": [12, 16], "counts": "\x7f"}},
            (7, 13),
            "outside the COCO alphabet",
        ),
        (
            "annotations",
            2,
            {"segmentation": {"size": [12, 16], "counts": None}},
            (7, 13),
            "a NoneType, not a text",
        ),
        ("annotations", 0, {"bbox": [1, 2, 3]}, (7, 40), r"bbox is \[1, 2, 3\]"),
        ("annotations", 0, {"area": float("inf")}, (7, 40), "area is inf"),
        ("categories", 0, {"name": ...}, (None, None), "category number 0 .* lacks name"),
        ("categories", 0, {"id": 5}, (None, None), "category id 5 occurs twice"),
        ("categories", 0, {"name": "fig"}, (None, None), "category name 'fig' occurs twice"),
    ],
)
def test_each_problem_is_found_and_placed(small_coco, kind, number, values, where, reason):
    change(small_coco, kind, number, **values)
    with pytest.raises(ValueError, match=reason):
        raise_problems(find_problems(FILE, small_coco, None))
    problem = find_problems(FILE, small_coco, None)[0]
    assert (problem.image_id, problem.annotation_id) == where
    text = str(problem)
    assert text.startswith(str(FILE))
    for word, value in zip(("picture", "annotation"), where, strict=True):
        assert (f"{word} {value}" in text) == (value is not None)
    assert problem.remedy in text


def test_records_that_are_no_objects(small_coco):
    small_coco["annotations"].append(17)
    (problem,) = find_problems(FILE, small_coco, None)
    assert "annotation number 3 (id ?) lacks id" in str(problem)


def test_missing_and_different_pictures(tmp_path, small_coco, write_coco):
    folder, file = write_coco(tmp_path, "train", **small_coco)
    assert find_problems(file, small_coco, folder, read_headers=True) == []
    (folder / "seven.png").unlink()
    Image.fromarray(np.zeros((10, 20), dtype=np.uint8)).save(folder / "three.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    change(small_coco, "images", 2, height=8, width=9)
    Image.fromarray(np.zeros((9, 8), dtype=np.uint8)).save(folder / "eleven.png", exif=exif)
    (missing,) = find_problems(file, small_coco, folder)
    assert "seven.png is missing" in missing.reason
    found = {p.image_id: p for p in find_problems(file, small_coco, folder, read_headers=True)}
    assert set(found) == {3, 7, 11}
    assert "seven.png is missing" in found[7].reason
    assert "10 px high and 20 px wide, stated are 20 and 10" in found[3].reason
    assert "annotate the picture anew" in found[3].remedy
    assert "EXIF" in found[11].remedy


def test_at_most_twenty_are_listed():
    problems = [Problem(FILE, n, None, "is odd", "make it even") for n in range(33)]
    with pytest.raises(ValueError, match="and 13 more") as error:
        raise_problems(problems)
    assert str(error.value).count("is odd") == 20
    raise_problems([])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is missing; check the path"),
        ("{'a': 1}", "is not valid JSON"),
        ("\xff\xfe", "is not valid JSON"),
        ("[]", "has no list 'images'"),
        (json.dumps({"images": [], "annotations": {}}), "has no list 'annotations'"),
    ],
)
def test_files_that_are_no_coco(tmp_path, content, reason):
    file = tmp_path / "bad.json"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=reason) as error:
        load_coco(file)
    assert str(file) in str(error.value)
