"""Annotation files and image files together."""

import numpy as np
import pytest
from PIL import Image

from formats.coco.image_checks import category_problems, examine_coco, image_fault
from formats.images import ImageOptions


def change(small_coco, kind, number, **values):
    small_coco[kind][number] |= values


def test_missing_and_different_images(tmp_path, small_coco, write_coco):
    folder, file = write_coco(tmp_path, "train", **small_coco)
    assert examine_coco(file, small_coco, folder, "header").problems == []
    (folder / "seven.png").unlink()
    Image.fromarray(np.zeros((10, 20), dtype=np.uint8)).save(folder / "three.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    change(small_coco, "images", 2, height=8, width=9)
    Image.fromarray(np.zeros((9, 8), dtype=np.uint8)).save(folder / "eleven.png", exif=exif)
    (missing,) = examine_coco(file, small_coco, folder, "name").problems
    assert "seven.png is missing" in missing.reason
    found = {p.item: p for p in examine_coco(file, small_coco, folder, "header").problems}
    assert set(found) == {3, 7}  # the size stated for 11 fits the image as it is shown
    assert "seven.png is missing" in found[7].reason
    assert "10 px high and 20 px wide, but the annotations say 20 and 10" in found[3].reason
    assert "height and width are exchanged" in found[3].remedy


@pytest.mark.parametrize(
    ("exif", "stated", "expected"),
    [
        ("apply", (8, 9), None),
        ("apply", (9, 8), "set exif: ignore"),
        ("ignore", (8, 9), "set exif: apply"),
        ("ignore", (9, 8), None),
        ("error", (9, 8), "save it upright"),
        (None, (8, 9), None),
        (None, (9, 8), None),
        (None, (9, 9), "annotate the image again"),
    ],
)
@pytest.mark.parametrize("depth", ["header", "pixels"])
def test_turned_images(tmp_path, depth, exif, stated, expected):
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.new("RGB", (8, 9)).save(tmp_path / "a.jpg", exif=tags)
    fault = image_fault(tmp_path / "a.jpg", stated, depth, ImageOptions(exif))
    assert (fault is None) == (expected is None)
    assert fault is None or expected in fault[1]


def test_only_reading_to_the_end_finds_damaged_pixels(tmp_path, small_coco, write_coco, damage_png):
    folder, file = write_coco(tmp_path, "train", **small_coco)
    damage_png(folder / "seven.png")
    assert examine_coco(file, small_coco, folder, "header").problems == []
    findings = examine_coco(file, small_coco, folder, "pixels")
    (problem,) = findings.problems
    assert (problem.file, problem.item, problem.annotation) == (file, 7, None)
    assert f"{folder / 'seven.png'} cannot be read" in problem.reason
    assert problem.remedy == "replace it or remove the image"
    assert not findings.fatal
    assert [a["id"] for a in findings.data["annotations"]] == [12]  # of image 3


@pytest.mark.parametrize("depth", ["name", "header", "pixels"])
def test_every_depth_finds_what_the_one_before_does(
    tmp_path, small_coco, write_coco, damage_png, depth
):
    folder, file = write_coco(tmp_path, "train", **small_coco)
    (folder / "seven.png").unlink()
    (folder / "three.png").write_bytes(b"no image")
    damage_png(folder / "eleven.png")
    found = [p.item for p in examine_coco(file, small_coco, folder, depth).problems]
    assert found == {"name": [7], "header": [7, 3], "pixels": [7, 3, 11]}[depth]


def test_a_missing_folder_is_one_fatal_problem(tmp_path, small_coco):
    findings = examine_coco(tmp_path / "a.json", small_coco, tmp_path / "nowhere")
    (problem,) = findings.problems
    assert findings.fatal
    assert f"{tmp_path / 'nowhere'} is missing" in problem.reason


def test_records_without_a_usable_name_or_size_are_told_once(tmp_path, small_coco, write_coco):
    folder, file = write_coco(tmp_path, "train", **small_coco)
    change(small_coco, "images", 0, file_name=["a"])
    change(small_coco, "images", 1, height=None)
    small_coco["images"].append(3)
    problems = examine_coco(file, small_coco, folder, "pixels").problems
    assert [p.item for p in problems] == [None, 7, 3]


def test_categories_of_another_file(tmp_path):
    file = tmp_path / "val.json"
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "c"}, {"id": 3, "name": "d"}]
    found = category_problems(file, categories, {1: "a", 2: "b", 4: "e"}, "train.json")
    assert [p.reason for p in found] == [
        "category id 2 is 'c' here and 'b' in train.json",
        "category id 3 is 'd' here and 'absent' in train.json",
    ]
    assert {p.file for p in found} == {file}
