"""YOLO sets that are found by their folder alone, with or without a data.yaml."""

import pytest

from formats.yolo.layouts import find_set
from structures import DataProblems

LINE = "{} .25 .25 .75 .25 .75 .75\n"


def write(root, pattern, splits, number=0):
    for split in splits:
        images = root / pattern.format(split)
        labels = root / pattern.format(split).replace("images", "labels")
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        (images / "a.png").touch()
        (labels / "a.txt").write_text(LINE.format(number))
        number += 2


@pytest.mark.parametrize(
    ("pattern", "splits", "expected"),
    [
        ("images/{}", ("train", "val", "test"), ("train", "val", "test")),
        ("images/{}", ("train2017", "val2017"), ("train", "val")),
        ("{}/images", ("train", "valid"), ("train", "val")),
        ("{}/images", ("train", "val", "test"), ("train", "val", "test")),
    ],
)
def test_folders_are_enough(tmp_path, pattern, splits, expected):
    write(tmp_path, pattern, splits)
    dataset, notes = find_set(tmp_path)
    assert dataset.entries == {
        e: [pattern.format(s)] for e, s in zip(expected, splits, strict=True)
    }
    assert dataset.names == {n: str(n) for n in range(0, 2 * len(splits), 2)}
    assert "has no data.yaml" in notes[0] and "named by their numbers: 0, 2" in notes[0]


def test_the_names_are_those_of_the_labelling_tool(tmp_path):
    write(tmp_path, "images/{}", ("train", "val"))
    (tmp_path / "labels" / "train" / "classes.txt").write_text("apple\nfig\nplum\n")
    dataset, notes = find_set(tmp_path)
    assert dataset.names == {0: "apple", 1: "fig", 2: "plum"}
    assert "and classes from labels/train/classes.txt" in notes[0]


def test_another_yaml_file_declares_the_set(tmp_path):
    write(tmp_path, "images/{}", ("train", "val"))
    text = "{train: images/train, val: images/val, names: [a, b, c]}"
    (tmp_path / "coco8.yaml").write_text(text)
    (tmp_path / "notes.yml").write_text("remarks: none")
    dataset, notes = find_set(tmp_path)
    assert dataset.names == {0: "a", 1: "b", 2: "c"}
    assert "coco8.yaml declares the data set" in notes[0]
    (tmp_path / "other.yml").write_text(text)
    with pytest.raises(DataProblems, match="no data.yaml, but coco8.yaml, other.yml; name the one"):
        find_set(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    assert find_set(tmp_path).dataset.file == tmp_path / "data.yaml"


def test_nothing_or_two_sets(tmp_path):
    with pytest.raises(DataProblems, match="looked for data.yaml; images/train and labels/train"):
        find_set(tmp_path)
    write(tmp_path, "images/{}", ("train",))
    write(tmp_path, "{}/images", ("train",))
    with pytest.raises(DataProblems, match="has images/train and train/images; write a data.yaml"):
        find_set(tmp_path)


def test_folders_without_an_object_have_no_classes(tmp_path):
    write(tmp_path, "images/{}", ("train",))
    (tmp_path / "labels" / "train" / "a.txt").write_text("a b\n\n")
    with pytest.raises(DataProblems, match="no label file has an object; write a data.yaml"):
        find_set(tmp_path)
