import shutil

import pytest

from formats.yolo.data_yaml import YoloSet
from structures import DataProblems

LINE = "0 .1 .1 .5 .1 .5 .5\n"
IMAGE = ((8, 6), LINE)


def declare(folder, text):
    file = folder / "data.yaml"
    file.write_text(text)
    return file


def refused(file, **options):
    with pytest.raises(DataProblems) as error:
        YoloSet.read(file, **options)
    (problem,) = error.value.problems
    assert problem.file == file
    assert problem.remedy
    return problem.reason


def test_names_as_list_or_as_mapping(tmp_path):
    head = "train: images/train\n"
    listed = YoloSet.read(declare(tmp_path, head + "nc: 3\nnames: [plum, fig, 7]\n"))
    assert listed.names == {0: "plum", 1: "fig", 2: "7"}
    assert listed.category_map.ids == (0, 1, 2)
    mapped = YoloSet.read(declare(tmp_path, head + "names: {5: plum, 2: fig}\n"))
    assert (mapped.category_map.ids, mapped.category_map.names) == ((2, 5), ("fig", "plum"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: a\n", "names is None"),
        ("train: a\nnames: []\n", "names is []"),
        ("train: a\nnames: fig\n", "names is 'fig'"),
        ("train: a\nnames: [fig, fig]\n", "'fig' occurs twice"),
        ("train: a\nnames: [yes, fig]\n", "the name of class 0 is True"),
        ("train: a\nnames: [fig, null]\n", "the name of class 1 is None"),
        ("train: a\nnames: {fig: 0}\n", "'fig' is not a class number"),
        ("train: a\nnames: {-1: fig}\n", "-1 is not a class number"),
        ("train: a\nnames: [fig]\nnc: 2\n", "nc is 2, but there are 1 names"),
        ("names: [fig]\n", "has none of train, val, test"),
        ("train:\nnames: [fig]\n", "has none of train, val, test"),
        ("train: 7\nnames: [fig]\n", "train is 7"),
        ("train: [a, 7]\nnames: [fig]\n", "train is ['a', 7]"),
        ("train: {a: b}\nnames: [fig]\n", "train is {'a': 'b'}"),
        ("train: a\nnames: [fig]\npath: [b]\n", "path is ['b']"),
        ("train: a\nnames: [fig]\nkpt_shape: [17, 3]\n", "keypoint"),
        ("train: [a\nnames: [fig]\n", "not a readable YAML"),
        ("- train\n", "has no keys"),
        ("", "has no keys"),
        ("train: !!python/object/apply:os.getcwd []\nnames: [fig]\n", "not a readable YAML"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, text, reason):
    assert reason in refused(declare(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    assert "no such file" in refused(tmp_path / "data.yaml")
    (tmp_path / "data.yaml").write_bytes(b"\xff\xfe\x00names")
    assert "not a readable YAML" in refused(tmp_path / "data.yaml")


def test_folders_are_searched_with_all_folders_within(tmp_path, write_yolo):
    images = dict.fromkeys(["b.png", "a.jpg", "deep/c.png"], IMAGE)
    file = write_yolo(tmp_path, {"train": images})
    found = YoloSet.read(file).images("train")
    assert found.folder == tmp_path / "images" / "train"
    assert found.names == ["a.jpg", "b.png", "deep/c.png"]
    assert found.problems == []


def test_path_is_relative_to_the_file_and_root_replaces_it(tmp_path, write_yolo):
    write_yolo(tmp_path / "set", {"train": {"a.png": IMAGE}})
    text = "path: set\ntrain: images/train\nnames: [fig]\n"
    file = declare(tmp_path, text)
    assert YoloSet.read(file).images("train").names == ["a.png"]
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "set", moved)
    with pytest.raises(DataProblems, match=r"there is no .*images/train; .*data\.root"):
        YoloSet.read(file).images("train")
    assert YoloSet.read(file, moved).images("train").folder == moved / "images" / "train"


def test_a_path_of_another_computer(tmp_path, write_yolo):
    write_yolo(tmp_path, {"train": {"a.png": IMAGE}})
    file = declare(tmp_path, "path: /content/gone\ntrain: images/train\nnames: [fig]\n")
    assert YoloSet.read(file).images("train").folder == tmp_path / "images" / "train"


def test_a_path_that_leads_one_folder_too_far_up(tmp_path, write_yolo):
    """Some export tools write ../train/images for the folder train/images beside the file."""
    write_yolo(tmp_path, {"train": {"a.png": IMAGE}})
    file = declare(tmp_path, "train: ../images/train\nnames: [fig]\n")
    assert YoloSet.read(file).images("train").folder == tmp_path / "images" / "train"


def test_several_folders_are_named_relative_to_the_root(tmp_path, write_yolo):
    write_yolo(tmp_path, {"b": {"x.png": IMAGE}, "a": {"x.png": IMAGE}})
    file = declare(tmp_path, "train: [images/b, images/a]\nnames: [fig]\n")
    found = YoloSet.read(file).images("train")
    assert (found.folder, found.names) == (tmp_path, ["images/a/x.png", "images/b/x.png"])


def test_a_text_file_lists_images(tmp_path, write_yolo):
    images = dict.fromkeys(["a.png", "b.png", "c.png"], IMAGE)
    write_yolo(tmp_path, {"train": images})
    absolute = tmp_path / "images" / "train" / "c.png"
    lines = ["./images/train/b.png", "", str(absolute), "images/train/a.png"]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    file = declare(tmp_path, "train: train.txt\nnames: [fig]\n")
    found = YoloSet.read(file).images("train")
    assert found.folder == tmp_path
    assert found.names == [f"images/train/{name}.png" for name in "abc"]
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    shutil.copy(absolute, elsewhere / "d.png")
    (tmp_path / "train.txt").write_text(f"{elsewhere / 'd.png'}\n")
    inner = YoloSet.read(file, tmp_path / "images")
    (tmp_path / "images" / "train.txt").write_text(f"{elsewhere / 'd.png'}\n")
    assert inner.images("train").names == [(elsewhere / "d.png").as_posix()]


def test_missing_and_repeated_images_of_a_list(tmp_path, write_yolo):
    write_yolo(tmp_path, {"train": {"a.png": IMAGE}})
    (tmp_path / "train.txt").write_text("images/train/a.png\nimages/train/no.png\n" * 2)
    file = declare(tmp_path, "train: train.txt\nnames: [fig]\n")
    found = YoloSet.read(file).images("train")
    assert found.names == ["images/train/a.png"]
    assert [(p.item, p.annotation) for p in found.problems] == [
        ("images/train/no.png", 2),
        ("images/train/no.png", 4),
        ("images/train/a.png", None),
    ]
    assert "is missing" in found.problems[0].reason
    assert "more than once" in found.problems[2].reason


def test_a_split_that_cannot_be_listed(tmp_path, write_yolo):
    file = write_yolo(tmp_path, {"train": {"a.png": IMAGE}})
    dataset = YoloSet.read(file)
    with pytest.raises(DataProblems, match="has no val split, only train"):
        dataset.images("val")
    (tmp_path / "images" / "train" / "a.png").unlink()
    with pytest.raises(DataProblems, match="has no image"):
        dataset.images("train")
    (tmp_path / "train.txt").write_text("\n")
    file = declare(tmp_path, "train: train.txt\nnames: [fig]\n")
    with pytest.raises(DataProblems, match="lists no image"):
        YoloSet.read(file).images("train")
    (tmp_path / "train.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataProblems, match="give a folder of images"):
        YoloSet.read(file).images("train")
