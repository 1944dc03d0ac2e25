from pathlib import Path

import pytest

from formats.yolo.labels import format_line, label_path, parse_labels, read_labels

SIZE = (20, 10)  # height, width


def fault(text, classes=(0, 1), **options):
    lines, faults = parse_labels(text, classes, SIZE, **options)
    assert lines == []
    (found,) = faults
    return found


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("set/images/train/a.jpg", "set/labels/train/a.txt"),
        ("set/train/images/a.b.png", "set/train/labels/a.b.txt"),
        ("images/images/a.jpg", "images/labels/a.txt"),  # the last one
        ("set/train/a.jpg", "set/train/a.txt"),
        ("set/images", "set/images.txt"),  # a file of that name is no folder
        ("my_images/a.jpg", "my_images/a.txt"),
    ],
)
def test_labels_lie_in_the_parallel_folder(image, labels):
    assert label_path(Path(image)) == Path(labels)


def test_fractions_of_width_and_height_become_pixels():
    lines, faults = parse_labels(
        "1 0.1 0.1 0.5 0.25 1 1\n\n0 0 0 .2 0 .2 .05 0 .05\n", (0, 1), SIZE
    )
    assert faults == []
    assert [line.number for line in lines] == [1, 3]  # blank lines count but hold nothing
    assert [line.category for line in lines] == [1, 0]
    assert lines[0].polygon == [1.0, 2.0, 5.0, 5.0, 10.0, 20.0]
    assert lines[1].polygon == [0, 0, 2, 0, 2, 1, 0, 1]


def test_rounding_beyond_the_border_is_cut():
    lines, faults = parse_labels("0 -0.0009 0 1.0009 0 1 1.001", (0,), SIZE)
    assert (faults, lines[0].polygon) == ([], [0, 0, 10, 0, 10, 20])


def test_every_bad_line_is_told_and_the_good_ones_stay():
    text = "0 .1 .1 .2 .2 .3 .1\nx 1 1\n1 .1 .1 .2 .2 .3 .4\n2 .1 .1 .2 .2 .3 .1\n"
    lines, faults = parse_labels(text, (0, 1), SIZE)
    assert [line.number for line in lines] == [1, 3]
    assert [f.number for f in faults] == [2, 4]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2 .1 .1 .2 .2 .3 .1", "class 2 is not declared"),
        ("-1 .1 .1 .2 .2 .3 .1", "class -1 is not declared"),
        ("0.5 .1 .1 .2 .2 .3 .1", "class 0.5 is not declared"),
        ("0", "0 coordinates, but a polygon needs at least 3 points"),
        ("0 .1 .1", "2 coordinates, but a polygon needs at least 3 points"),
        ("0 .1 .1 .2 .2", "4 coordinates are a box"),
        ("0 .1 .1 .2 .2 .3", "5 coordinates, which are not pairs"),
        ("0 .1 .1 .2 .2 .3 .1 .4", "7 coordinates, which are not pairs"),
        ("0 .1 .1 .2 nan .3 .1", "'nan' is not a finite number"),
        ("0 .1 .1 .2 inf .3 .1", "'inf' is not a finite number"),
        ("apple .1 .1 .2 .2 .3 .1", "'apple' is not a finite number"),
        ("0,.1,.1,.2,.2,.3,.1", "'0,.1,.1,.2,.2,.3,.1' is not a finite number"),
        ("0 1 2 5 5 10 20", "the coordinate 20 is outside 0 to 1"),
        ("0 .1 .1 .2 -.002 .3 .1", "the coordinate -0.002 is outside 0 to 1"),
        ("0 .1 .1 .2 .2 1.002 .1", "the coordinate 1.002 is outside 0 to 1"),
        ("0 .1 .1 .1 .2 .1 .9", "on one straight line"),
        ("0 0 1 .5 1.0002 1 1.0004", "on one straight line or on the border"),
    ],
)
def test_reasons(text, reason):
    found = fault(text)
    assert found.number == 1
    assert reason in found.reason
    assert found.remedy


def test_pixel_coordinates_say_what_to_divide_by():
    assert "divide x by the image's width" in fault("0 1 2 5 5 10 20").remedy


def test_known_classes_are_listed_but_not_hundreds():
    found = fault("99 .1 .1 .2 .2 .3 .1", range(12))
    assert found.remedy.endswith("known are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...")
    assert fault("9 .1 .1 .2 .2 .3 .1").remedy.endswith("known are 0, 1")


def test_boxes_become_rectangles_only_when_asked():
    assert "boxes_as_masks" in fault("1 .5 .5 .2 .4").remedy
    lines, _ = parse_labels("1 .5 .5 .2 .4", (0, 1), SIZE, boxes_as_masks=True)
    # centre (5, 10), 2 wide and 8 high
    assert lines[0].polygon == pytest.approx([4, 6, 6, 6, 6, 14, 4, 14], abs=1e-6)
    assert "outside" in fault("1 .1 .5 .4 .4", boxes_as_masks=True).reason
    assert "0 wide" in fault("1 .1 .5 0 .4", boxes_as_masks=True).reason


def test_missing_and_empty_files_are_images_without_objects(tmp_path):
    assert read_labels(tmp_path / "a.txt", (0,), SIZE) == ([], [])
    (tmp_path / "a.txt").write_text("\n \n")
    assert read_labels(tmp_path / "a.txt", (0,), SIZE) == ([], [])


def test_byte_order_marks_and_windows_line_ends(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbf0 .1 .1 .2 .2 .3 .1\r\n1 .1 .1 .2 .2 .3 .1\r\n")
    lines, faults = read_labels(file, (0, 1), SIZE)
    assert (faults, [line.category for line in lines]) == ([], [0, 1])


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\x89PNG\xff\x00")
    (tmp_path / "b.txt").mkdir()
    for name in "ab":
        lines, (found,) = read_labels(tmp_path / f"{name}.txt", (0,), SIZE)
        assert (lines, found.number) == ([], None)
        assert "cannot be read" in found.reason


def test_written_numbers():
    # 1/3 of 10 px, beyond both borders, and a value with few digits
    line = format_line(7, [10 / 3, -1, 11, 5, 2.5, 21], SIZE)
    assert line == "7 0.3333333333 0 1 0.25 0.25 1"
