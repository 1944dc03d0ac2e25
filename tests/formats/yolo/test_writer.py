import json

import numpy as np
import pytest
from PIL import Image

from formats.coco.store import encode_segmentation
from formats.yolo.labels import format_line, parse_labels
from formats.yolo.writer import coco_to_yolo, outline
from structures import DataProblems
from structures.rle import encode, to_bytes

SIZE = (12, 16)
SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
FAR = [10.0, 1.0, 14.0, 1.0, 14.0, 4.0, 10.0, 4.0]


def read_back(polygon, size):
    (line,), faults = parse_labels(format_line(0, polygon, size), (0,), size)
    assert faults == []
    return encode_segmentation([line.polygon], *size)


@pytest.mark.parametrize(
    ("segmentation", "kind"),
    [
        ([SQUARE], "kept"),
        ([SQUARE, FAR], "joined"),
        # overlapping parts: one path would take the overlap out
        ([SQUARE, [5.0, 5.0, 11.0, 5.0, 11.0, 11.0, 5.0, 11.0]], "traced"),
        # a line that leaves the image: moving its end onto the border would bend it
        ([[2.0, 2.0, 22.0, 7.0, 2.0, 11.0]], "traced"),
        ({"size": [12, 16], "counts": [25, 5, 7, 2, 1, 2, 150]}, "traced"),
        ([[3.0, 3.0, 3.2, 3.0, 3.1, 3.2]], "kept"),  # without a pixel, but a polygon
    ],
)
def test_one_path_gives_the_mask(segmentation, kind):
    path = outline(segmentation, SIZE)
    assert path.kind == kind
    assert read_back(path.polygon, SIZE) == encode_segmentation(segmentation, *SIZE)
    if kind == "kept":
        assert path.polygon == segmentation[0]


def test_run_lengths_without_a_pixel_have_no_path():
    assert outline({"size": [12, 16], "counts": [192]}, SIZE) is None
    assert outline([[3.0, 3.0, 3.0, 9.0, 3.0, 5.0]], SIZE) is None  # nor do points on a line


def test_overlap_is_traced_along_pixels():
    path = outline([SQUARE, [5.0, 5.0, 11.0, 5.0, 11.0, 11.0, 5.0, 11.0]], SIZE)
    assert len(path.polygon) == 2 * 8  # the corners of two squares shifted against each other
    assert all(value == int(value) for value in path.polygon)


def test_masks_with_holes_and_specks():
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random((13, 29)) < 0.6
        record = {"size": [13, 29], "counts": to_bytes(encode(mask))}
        assert read_back(outline(record, (13, 29)).polygon, (13, 29)) == record["counts"]


@pytest.fixture
def coco(tmp_path, write_coco, small_coco):
    """The small data set as a split that is called val."""
    folder, file = write_coco(tmp_path / "coco", "val", **small_coco)
    return file, folder


def edit(file, change):
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def test_files_written(coco, tmp_path):
    out = tmp_path / "yolo"
    counts = coco_to_yolo(*coco, out, skip_crowds=True)
    assert counts == {
        "pictures": 3,
        "pictures_without_objects": 1,
        "objects": 2,
        "kept": 0,
        "joined": 1,
        "traced": 1,
        "crowds_left_out": 1,
        "without_pixel_left_out": 0,
        "problems_left_out": 0,
    }
    # classes by sorted id: 0 apple, 5 fig, 8 pear, 11 plum
    assert (out / "data.yaml").read_text() == (
        "val: images/val\nnames:\n  0: apple\n  1: fig\n  2: pear\n  3: plum\n"
    )
    found = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*"))
    names = ("eleven", "seven", "three")
    assert found == [
        "data.yaml",
        *(f"images/val/{name}.png" for name in names),
        *(f"labels/val/{name}.txt" for name in names),
    ]
    assert (out / "labels/val/eleven.txt").read_text() == ""
    # a square and a rectangle of a 12 x 16 image, from (8, 2) there and back to (10, 1)
    assert (out / "labels/val/seven.txt").read_text() == (
        "2 0.125 0.1666666667 0.5 0.1666666667 0.625 0.0833333333 0.875 0.0833333333 "
        "0.875 0.3333333333 0.625 0.3333333333 0.625 0.0833333333 0.5 0.1666666667 "
        "0.5 0.6666666667 0.125 0.6666666667\n"
    )
    copied = (out / "images/val/three.png").read_bytes()
    assert copied == (coco[1] / "three.png").read_bytes()


def test_crowds_are_never_dropped_silently(coco, tmp_path):
    with pytest.raises(ValueError, match=r"1 annotations are crowds .*13.*--skip-crowds"):
        coco_to_yolo(*coco, tmp_path / "yolo")
    assert not (tmp_path / "yolo").exists()


def test_images_can_be_links(coco, tmp_path):
    coco_to_yolo(*coco, tmp_path / "yolo", skip_crowds=True, placing="link")
    link = tmp_path / "yolo/images/val/seven.png"
    assert link.is_symlink()
    assert link.resolve() == (coco[1] / "seven.png").resolve()


def test_a_second_split_uses_the_numbers_of_the_first(coco, tmp_path):
    out = tmp_path / "yolo"
    coco_to_yolo(*coco, out, skip_crowds=True, split="train")
    edit(coco[0], lambda d: d["categories"].pop(1))  # fig, so that pear would be class 1
    edit(coco[0], lambda d: d["annotations"].pop(2))
    coco_to_yolo(*coco, out)
    assert (out / "labels/val/seven.txt").read_text().startswith("2 ")
    assert (out / "data.yaml").read_text().startswith("train: images/train\nval: images/val\n")
    with pytest.raises(ValueError, match="already has a val split"):
        coco_to_yolo(*coco, out)
    edit(coco[0], lambda d: d["categories"][0].update(name="grape"))
    with pytest.raises(ValueError, match=r"categories \['grape'\] are not among the names"):
        coco_to_yolo(*coco, out, split="test")


def test_folders_that_hold_something_are_left_alone(coco, tmp_path):
    (tmp_path / "yolo/labels/val").mkdir(parents=True)
    (tmp_path / "yolo/labels/val/mine.txt").write_text("")
    with pytest.raises(ValueError, match="labels/val is not empty"):
        coco_to_yolo(*coco, tmp_path / "yolo", skip_crowds=True)


def test_names_that_collide_or_lead_out_of_the_folder(coco, tmp_path):
    file, folder = coco
    (folder / "three.png").rename(folder / "seven.jpg")
    edit(file, lambda d: d["images"][1].update(file_name="seven.jpg"))
    (folder / "eleven.png").rename(folder.parent / "eleven.png")
    edit(file, lambda d: d["images"][2].update(file_name="../eleven.png"))
    with pytest.raises(DataProblems) as error:
        coco_to_yolo(file, folder, tmp_path / "yolo", skip_crowds=True)
    assert [p.item for p in error.value.problems] == [3, 11]
    assert "share a label file" in error.value.problems[0].reason
    assert "leads out of the folder" in error.value.problems[1].reason
    assert not (tmp_path / "yolo").exists()


def test_faulty_and_turned_images(coco, tmp_path):
    file, folder = coco
    edit(file, lambda d: d["annotations"][1].update(category_id=99))
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (9, 9)).save(folder / "eleven.png", exif=exif)
    with pytest.raises(DataProblems) as error:
        coco_to_yolo(file, folder, tmp_path / "yolo", skip_crowds=True)
    assert [(p.item, p.annotation) for p in error.value.problems] == [(3, 12), (11, None)]
    counts = coco_to_yolo(file, folder, tmp_path / "yolo", skip_crowds=True, bad_data="skip")
    assert (counts["pictures"], counts["objects"], counts["problems_left_out"]) == (2, 1, 2)
    for name in ("three", "seven"):
        Image.new("RGB", (1, 1)).save(folder / f"{name}.png")
    with pytest.raises(DataProblems):  # nothing would be left
        coco_to_yolo(file, folder, tmp_path / "other", skip_crowds=True, bad_data="skip")
