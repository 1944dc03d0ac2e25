import numpy as np
import pytest
from PIL import Image

from formats.images import ImageOptions
from formats.yolo.annotations import read_split
from formats.yolo.data_yaml import YoloSet

TRIANGLE = "0 .1 .1 .5 .1 .5 .5\n"


@pytest.fixture
def read(tmp_path, write_yolo):
    """Return a function that writes the training split and reads it."""

    def run(images, **options):
        dataset = YoloSet.read(write_yolo(tmp_path, {"train": images}))
        return read_split(dataset, "train", **options)

    return run


def test_numbers_are_stable_and_sizes_come_from_the_images(read):
    found = read(
        {
            "b.png": ((10, 20), "1 0 0 .5 0 .5 .5\n\n0 .1 .2 .3 .2 .3 .4\n"),
            "a.png": ((8, 6), None),
            "c.png": ((4, 4), ""),
            "d.png": ((4, 8), "1 0 0 1 0 1 1\n"),
        }
    )
    assert found.problems == []
    assert [(i["id"], i["file_name"]) for i in found.data["images"]] == [
        (1, "a.png"),
        (2, "b.png"),
        (3, "c.png"),
        (4, "d.png"),
    ]
    assert [(i["height"], i["width"]) for i in found.data["images"]][1] == (10, 20)
    rows = [(a["id"], a["image_id"], a["category_id"]) for a in found.data["annotations"]]
    assert rows == [(1, 2, 1), (2, 2, 0), (3, 4, 1)]
    assert found.data["annotations"][1]["segmentation"] == [[2, 2, 6, 2, 6, 4]]
    assert {a["iscrowd"] for a in found.data["annotations"]} == {0}
    assert found.data["categories"] == [{"id": 0, "name": "apple"}, {"id": 1, "name": "fig"}]
    assert found.counts == {
        "pictures": 4,
        "annotations": 3,
        "unlabelled": 1,
        "left_out_pictures": 0,
        "left_out_annotations": 0,
    }


def test_bad_lines_are_left_out_one_by_one(read, tmp_path):
    found = read({"a.png": ((8, 6), "0 .1\n" + TRIANGLE + "9 .1 .1 .5 .1 .5 .5\n")})
    where = [(p.file, p.item, p.annotation) for p in found.problems]
    labels = tmp_path / "labels" / "train" / "a.txt"
    assert where == [(labels, "a.png", 1), (labels, "a.png", 3)]
    assert str(found.problems[1]) == (
        f"{labels}, image a.png, line 3: class 9 is not declared; declare it under "
        "names; known are 0, 1"
    )
    assert len(found.data["annotations"]) == 1
    assert (found.counts["annotations"], found.counts["left_out_annotations"]) == (3, 2)


def test_faulty_images_go_with_their_labels_and_keep_their_number(read, tmp_path):
    good = ((8, 6), TRIANGLE)
    read({"a.png": good, "b.png": good, "c.png": good})
    (tmp_path / "images" / "train" / "b.png").write_bytes(b"no image")
    found = read({"a.png": good})
    assert [i["id"] for i in found.data["images"]] == [1, 3]
    assert [a["image_id"] for a in found.data["annotations"]] == [1, 3]
    (problem,) = found.problems
    assert (problem.item, problem.annotation) == ("b.png", None)
    assert "cannot be read" in problem.reason
    assert found.counts["left_out_pictures"] == 1


def test_only_the_thorough_check_decodes(read, damage_png, tmp_path):
    good = ((64, 64), TRIANGLE)
    read({"a.png": good, "b.png": good})
    damage_png(tmp_path / "images" / "train" / "b.png")
    dataset = YoloSet.read(tmp_path / "data.yaml")
    assert read_split(dataset, "train").problems == []
    (problem,) = read_split(dataset, "train", depth="pixels").problems
    assert problem.item == "b.png"


def test_two_images_of_one_label_file(read):
    good = ((8, 6), TRIANGLE)
    found = read({"a.png": good, "a.jpg": good, "b.png": good})
    assert [p.item for p in found.problems] == ["a.jpg", "a.png"]
    assert "shares its label file" in found.problems[0].reason
    assert [i["file_name"] for i in found.data["images"]] == ["b.png"]


def test_labels_without_an_image(read, tmp_path):
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    for name in ("ghost.txt", "classes.txt", "notes.md"):
        (labels / name).write_text(TRIANGLE)
    found = read({"a.png": ((8, 6), TRIANGLE)})
    (problem,) = found.problems
    assert (problem.file, problem.item) == (labels / "ghost.txt", None)
    assert "there is no image" in problem.reason


def test_text_files_beside_images_are_nobodys_labels(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    Image.new("RGB", (6, 8)).save(folder / "a.png")
    (folder / "a.txt").write_text(TRIANGLE)
    (folder / "readme.txt").write_text("hello")
    (tmp_path / "data.yaml").write_text("train: train\nnames: [fig]\n")
    found = read_split(YoloSet.read(tmp_path / "data.yaml"), "train")
    assert (found.problems, len(found.data["annotations"])) == ([], 1)


def test_no_label_file_at_all_means_that_they_are_elsewhere(read, tmp_path):
    found = read({"a.png": ((8, 6), None), "b.png": ((8, 6), None)})
    (problem,) = found.problems
    assert "none of the 2 images of train has a label file" in problem.reason
    assert str(tmp_path / "labels" / "train" / "a.txt") in problem.remedy


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("exif", [None, "apply", "ignore", "error"])
def test_labels_refer_to_an_image_as_its_tag_turns_it(read, tmp_path, orientation, exif):
    """Tag 3 turns by 180 degrees, which no size tells; 6 by 90."""
    read({"a.png": ((8, 6), TRIANGLE), "b.jpg": ((8, 6), TRIANGLE)})
    tags = Image.Exif()
    tags[0x0112] = orientation
    image = Image.fromarray(np.zeros((8, 6, 3), dtype=np.uint8))
    image.save(tmp_path / "images" / "train" / "b.jpg", exif=tags)
    dataset = YoloSet.read(tmp_path / "data.yaml")
    found = read_split(dataset, "train", options=ImageOptions(exif))
    if exif == "error" and orientation != 1:
        (problem,) = found.problems
        assert problem.item == "b.jpg"
        assert "EXIF" in problem.reason
        return
    assert found.problems == []
    record = found.data["images"][1]
    turned = orientation == 6 and exif != "ignore"
    assert (record["height"], record["width"]) == ((6, 8) if turned else (8, 6))


def test_a_split_that_cannot_be_listed_has_nothing(tmp_path, write_yolo):
    dataset = YoloSet.read(write_yolo(tmp_path, {"train": {"a.png": ((8, 6), TRIANGLE)}}))
    found = read_split(dataset, "val")
    assert len(found.problems) == 1
    assert found.data["images"] == []
    assert found.counts["pictures"] == 0


@pytest.mark.parametrize(
    ("classes", "shifted"),
    [((1, 2), True), ((0, 2), False), ((1, 3), False), ((2, 3), False), ((1, 1), False)],
)
def test_class_numbers_that_begin_with_1(read, classes, shifted):
    """Two classes: the number 2 is one too large, and 0 never occurs."""
    lines = "".join(TRIANGLE.replace("0", str(number), 1) for number in classes)
    remedies = [problem.remedy for problem in read({"a.png": ((8, 6), lines)}).problems]
    assert [r for r in remedies if "subtract 1 in every line" in r] == remedies[: 2 * shifted]


def test_labels_beside_their_images_in_a_folder_images(read, tmp_path):
    read({"a.png": ((8, 6), TRIANGLE)})
    (tmp_path / "labels/train/a.txt").rename(tmp_path / "images/train/a.txt")
    (problem,) = read_split(YoloSet.read(tmp_path / "data.yaml"), "train").problems
    assert f"they are beside the images: move them to {tmp_path / 'labels/train'}" in problem.remedy
