"""Views of data sets with known and novel categories."""

import json

import numpy as np
import pytest

from datamodules.sampling.keys import SampleKey
from datamodules.seg import training_images
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.digit_scenes import DigitScenesDataModule
from datamodules.seg.open_world import KnownView
from datamodules.seg.yolo_txt import YoloTxtDataModule
from structures import CategoryMap

CATEGORIES = [{"id": 5, "name": "fig"}, {"id": 8, "name": "pear"}, {"id": 11, "name": "plum"}]


def annotation(number, image, category, crowd=0, at=2):
    corner = [at, 2, at + 6, 2, at + 6, 8, at, 8]
    record = {"id": number, "image_id": image, "category_id": category, "iscrowd": crowd}
    return record | {
        "segmentation": [[float(v) for v in corner]],
        "area": 36,
        "bbox": [at, 2, 6, 6],
    }


@pytest.fixture
def root(tmp_path, write_coco):
    """Images with a known and a novel object, with novel ones alone, too small, a known crowd."""
    sizes = {1: (40, 48), 2: (40, 40), 3: (31, 60), 4: (40, 40), 5: (32, 32), 6: (40, 40)}
    images = [
        {"id": i, "file_name": f"{i}.png", "height": h, "width": w} for i, (h, w) in sizes.items()
    ]
    crowd = {"segmentation": {"size": [40, 40], "counts": [0, 80, 1520]}}
    annotations = [
        annotation(1, 1, 5),
        annotation(2, 1, 8, at=20),
        annotation(3, 2, 8),
        annotation(4, 3, 5),
        annotation(5, 4, 5, crowd=1) | crowd,
        annotation(6, 5, 11),
        annotation(7, 5, 5, at=16),
        annotation(8, 4, 11, at=20),
    ]
    for split in ("train", "val"):
        write_coco(tmp_path, split, images=images, annotations=annotations, categories=CATEGORIES)
    return tmp_path


def trained_ids(data):
    source = data.source("train")
    return [source.read(k).image_id for k in data._training_items().tolist()]


@pytest.mark.parametrize("known", [["fig"], [5], 5, "fig", {"name": "mine", "known": [5]}])
@pytest.mark.parametrize("class_agnostic", [True, False])
def test_coco(root, known, class_agnostic):
    data = CocoDataModule(root=root, known=known, class_agnostic=class_agnostic)
    wanted = ((12,), ("object",)) if class_agnostic else ((5,), ("fig",))
    assert (data.category_map.ids, data.category_map.names) == wanted
    assert data.known_split.known == (5,)
    assert "1 of 3 categories are known" in data.notes[0]
    assert "with 3 objects" in data.notes[0]
    assert trained_ids(data) == [1, 5]
    first = data.eval_dataset("train")[SampleKey(0)]
    assert (first.labels.tolist(), first.boxes.tolist()) == ([0], [[2, 2, 8, 8]])
    region = data.eval_dataset("train")[SampleKey(3)]
    assert region.crowd.tolist() == [True]
    assert region.labels.tolist() == [0]
    # the truth for scoring keeps every object, that of training has known ones alone
    truth = data.ground_truth("val")
    assert {a["id"]: a["category_id"] for a in truth["annotations"]} == {
        1: 5, 2: 8, 3: 8, 4: 5, 5: 5, 6: 11, 7: 5, 8: 11,
    }  # fmt: skip
    assert truth["categories"] == CATEGORIES
    assert [i["id"] for i in truth["images"]] == [1, 2, 3, 4, 5, 6]
    for part in (data.labelled_truth("val"), data.ground_truth("train")):
        assert [a["id"] for a in part["annotations"]] == [1, 4, 5, 7]
        assert {a["category_id"] for a in part["annotations"]} == set(wanted[0])
    assert [len(data.eval_dataset("val")[SampleKey(k)].labels) for k in range(6)] == [
        1, 0, 1, 1, 1, 0,
    ]  # fmt: skip
    assert data.object_counts("train").by_class.tolist() == [3]


def test_the_images_left_out_are_counted(root, monkeypatch):
    lines = []
    monkeypatch.setattr(training_images, "rank_zero_info", lines.append)
    CocoDataModule(root=root, known=["fig"]).setup("fit")
    assert lines == [
        "open world: 2 of 6 training images are used; 1 have a side below 32 px, 3 others no "
        "known object"
    ]


def test_a_held_out_part_keeps_its_novel_objects(root):
    (root / "annotations" / "instances_val.json").unlink()
    data = CocoDataModule(root=root, known=["fig"], val_fraction=0.5)
    novel = {2, 3, 6, 8}
    held = {a["id"] for a in data.ground_truth("val")["annotations"]}
    assert held & novel
    assert not novel & {a["id"] for a in data.ground_truth("train")["annotations"]}
    images = {i["id"] for s in ("train", "val") for i in data.ground_truth(s)["images"]}
    assert images == {1, 2, 3, 4, 5, 6}


@pytest.fixture
def with_pseudo(root):
    """Return the same set with a pseudo-label in two images of both files."""
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        content["categories"].append({"id": 12, "name": "pseudo"})
        for number, image in ((20, 1), (21, 6)):
            made = annotation(number, image, 12, at=30) | {"is_pseudo": 1, "score": 0.9}
            content["annotations"].append(made)
        file.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_pseudo_labels_are_learnt_and_never_scored(with_pseudo, class_agnostic):
    options = {"root": with_pseudo, "known": ["fig"], "class_agnostic": class_agnostic}
    data = CocoDataModule(**options, pseudo=True)
    assert data.class_names == (["object"] if class_agnostic else ["fig", "pseudo"])
    assert data.known_split.known == (5,)
    assert trained_ids(data) == [1, 5, 6]
    assert data.eval_dataset("train")[SampleKey(0)].labels.tolist() == [
        0,
        0 if class_agnostic else 1,
    ]
    assert "1 of 3 categories are known" in data.notes[0]
    assert "with 3 objects, 2 pseudo-labels are learnt beside them" in data.notes[0]
    plain = CocoDataModule(**options)
    assert trained_ids(plain) == [1, 5]
    for part in (data, plain):
        assert {a["id"] for a in part.ground_truth("val")["annotations"]} == {*range(1, 9)}
        assert {a["id"] for a in part.labelled_truth("val")["annotations"]} == {1, 4, 5, 7}


def test_pseudo_labels_beside_all_categories(with_pseudo):
    data = CocoDataModule(root=with_pseudo, pseudo=True, class_agnostic=True)
    assert len(data.ground_truth("train")["annotations"]) == 10
    assert len(data.ground_truth("val")["annotations"]) == 8


def test_categories_may_not_leave_out_what_is_to_be_learnt(with_pseudo):
    with pytest.raises(ValueError, match=r"data.categories leaves out 'pseudo'"):
        CocoDataModule(root=with_pseudo, categories=["fig"], pseudo=True)
    data = CocoDataModule(root=with_pseudo, categories=["fig", "pseudo"], pseudo=True)
    assert data.class_names == ["fig", "pseudo"]


@pytest.mark.parametrize("known", [["fig"], None])
def test_pseudo_labels_need_their_category(root, known):
    with pytest.raises(ValueError, match=r"instances_train.json: data.pseudo: true, but none of"):
        CocoDataModule(root=root, known=known, pseudo=True)


def test_a_checkpoint_brings_its_split(root):
    trained = CocoDataModule(root=root, known=["fig"], class_agnostic=True)
    arguments = json.loads(json.dumps(trained.category_arguments()))
    assert arguments["known"] == {"name": "names", "known": [5], "names": {"5": "fig"}}
    files = {
        "test_images": root / "images" / "val",
        "test_annotations": root / "annotations" / "instances_val.json",
    }
    again = CocoDataModule(**files, category_map=trained.category_map.to_dict(), **arguments)
    assert again.known_split == trained.known_split
    assert again.ground_truth("test") == trained.ground_truth("val")
    assert again.labelled_truth("test") == trained.labelled_truth("val")


def test_images_without_a_known_object_cannot_be_trained_on(root):
    with pytest.raises(ValueError, match="no image of train has an object of a known category"):
        file = root / "annotations" / "instances_train.json"
        data = json.loads(file.read_text())
        data["annotations"] = [a for a in data["annotations"] if a["category_id"] != 5]
        file.write_text(json.dumps(data))
        CocoDataModule(root=root, known=["fig"])


def test_training_needs_a_large_image_with_a_known_object(root):
    for name in ("train", "val"):
        file = root / "annotations" / f"instances_{name}.json"
        data = json.loads(file.read_text())
        data["annotations"] = [a for a in data["annotations"] if a["id"] in (3, 4)]
        file.write_text(json.dumps(data))
    data = CocoDataModule(root=root, known=["fig"])
    with pytest.raises(ValueError, match="no training image is left.*name other known categories"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"known": ["fig"], "categories": ["fig"]}, "exclude each other"),
        ({"known": ["figg"]}, "'figg' is no split"),
        ({"known": [4]}, "category id 4 is not in .*instances_train.json"),
        ({"known": {"name": "mine", "known": [4]}}, "data.known: category id 4 is not in"),
        ({"known": {"name": "mine"}}, "'known' is not a list of category ids"),
        ({"known": ["fig", "pear", "plum"]}, "all 3 categories of .* are known"),
        ({"known": "voc"}, "its ids are not those of the split"),
    ],
)
def test_mistakes_are_refused(root, arguments, message):
    with pytest.raises(ValueError, match=message):
        CocoDataModule(root=root, **arguments)


def test_restored_views_need_the_content_of_a_split():
    labels = CategoryMap((5,), ("fig",))
    assert KnownView.restored(None, labels, False) is None
    with pytest.raises(ValueError, match="data.known: not a split"):
        KnownView.restored("voc", labels, False)


SQUARE = "{} .25 .25 .75 .25 .75 .75 .25 .75\n"


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_yolo(tmp_path, write_yolo, class_agnostic):
    both = SQUARE.format(1) + "0 0 0 .5 0 .5 .5 0 .5\n"
    write_yolo(
        tmp_path,
        {
            "train": {"a.png": ((40, 40), both), "b.png": ((40, 40), SQUARE.format(0))},
            "val": {"c.png": ((40, 40), both), "d.png": ((40, 40), None)},
        },
    )
    data = YoloTxtDataModule(root=tmp_path, known=["fig"], class_agnostic=class_agnostic)
    assert data.class_names == (["object"] if class_agnostic else ["fig"])
    assert data.category_map.ids == ((2,) if class_agnostic else (1,))
    assert trained_ids(data) == [1]
    assert data.eval_dataset("train")[SampleKey(0)].labels.tolist() == [0]
    assert [a["category_id"] for a in data.ground_truth("val")["annotations"]] == [1, 0]
    assert [a["category_id"] for a in data.labelled_truth("val")["annotations"]] == [
        data.category_map.ids[0]
    ]
    again = YoloTxtDataModule(
        root=tmp_path,
        category_map=data.category_map.to_dict(),
        known=data.category_arguments()["known"],
        class_agnostic=class_agnostic,
    )
    assert again.ground_truth("test") == data.ground_truth("test")
    merged = YoloTxtDataModule(root=tmp_path, class_agnostic=True)
    assert merged.class_names == ["object"]
    assert [a["category_id"] for a in merged.ground_truth("val")["annotations"]] == [2, 2]


def test_digits():
    shared = {"train_scenes": 30, "val_scenes": 10}
    data = DigitScenesDataModule(known=[1, 2, 3], class_agnostic=True, **shared)
    every = DigitScenesDataModule(**shared)
    assert (data.class_names, data.category_map.ids) == (["object"], (11,))
    assert data.ground_truth("val") == every.ground_truth("val")
    known = [a for a in every.ground_truth("val")["annotations"] if a["category_id"] <= 3]
    boxes = [a["bbox"] for a in data.labelled_truth("val")["annotations"]]
    assert boxes == [a["bbox"] for a in known]
    source, whole = data.source("train"), every.source("train")
    wanted = [k for k in range(30) if (whole.read(k).labels < 3).any()]
    assert data._training_items().tolist() == wanted
    assert 0 < len(wanted) < 30
    for k in range(30):
        assert np.array_equal(source.read(k).image, whole.read(k).image)
        assert (source.read(k).labels == 0).all()
    part = DigitScenesDataModule(known=[1, 2, 3], **shared)
    assert part.class_names == ["0", "1", "2"]
    assert DigitScenesDataModule(class_agnostic=True).num_classes == 1


def test_a_written_set_has_every_object(tmp_path):
    data = DigitScenesDataModule(known=[1, 2, 3], class_agnostic=True, train_scenes=4, val_scenes=4)
    for split in ("train", "val"):
        data.write_split(split, tmp_path)
    read = CocoDataModule(root=tmp_path, known=[1, 2, 3], class_agnostic=True)
    assert read.category_map == data.category_map
    assert read.ground_truth("val") == data.ground_truth("val")
    for split in ("train", "val"):
        boxes = [[a["bbox"] for a in d.labelled_truth(split)["annotations"]] for d in (read, data)]
        assert boxes[0] == boxes[1]
