import json

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.sampling.keys import SampleKey
from datamodules.seg import coco_files
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.unusable import UnusableData


@pytest.fixture
def root(tmp_path, write_coco, small_coco):
    for split in ("train", "val"):
        write_coco(tmp_path, split, **small_coco)
    return tmp_path


def edit(root, split, change):
    file = root / "annotations" / f"instances_{split}.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return file


def test_labels_follow_the_sorted_ids(root):
    data = CocoDataModule(root=root)
    assert data.category_map.ids == (0, 5, 8, 11)
    assert data.class_names == ["apple", "fig", "pear", "plum"]
    assert data.num_classes == 4
    sample = data.eval_dataset("val")[SampleKey(1)]
    assert sample.image_ids == (7,)
    assert sample.labels.tolist() == [1, 2]
    assert sample.crowd.tolist() == [True, False]
    assert sample.boxes.tolist() == [[0, 0, 2, 12], [2, 1, 14, 8]]
    assert sample.masks[1].sum() == 48
    file = Image.open(root / "images" / "val" / "seven.png")
    pixels = torch.from_numpy(np.array(file)).permute(2, 0, 1) / 255
    assert torch.equal(sample.images[0], pixels)
    empty = data.eval_dataset("val")[SampleKey(2)]
    assert empty.boxes.shape == (0, 4)
    assert empty.masks.shape == (0, 9, 9)


def test_ground_truth_is_in_the_ids_of_the_file(root):
    truth = CocoDataModule(root=root, scale=3.0).ground_truth("val")
    assert [(a["id"], a["image_id"], a["category_id"]) for a in truth["annotations"]] == [
        (12, 3, 0),
        (13, 7, 5),
        (40, 7, 8),
    ]
    assert [a["iscrowd"] for a in truth["annotations"]] == [0, 1, 0]
    assert [a["segmentation"]["size"] for a in truth["annotations"]] == [
        [20, 10],
        [12, 16],
        [12, 16],
    ]
    assert [c["id"] for c in truth["categories"]] == [0, 5, 8, 11]
    assert [i["id"] for i in truth["images"]] == [3, 7, 11]


def test_validation_may_lack_a_category_but_not_rename_one(root):
    edit(root, "val", lambda d: d["categories"].pop(0))  # plum, which nothing uses
    data = CocoDataModule(root=root)
    assert len(data.category_map) == 4
    assert len(data.ground_truth("val")["categories"]) == 4
    file = edit(root, "val", lambda d: d["categories"][0].update(name="date"))
    with pytest.raises(ValueError, match=r"id 5 is 'date' here and 'fig' in") as error:
        CocoDataModule(root=root)
    assert str(file) in str(error.value)


def test_subset_by_name_keeps_all_images(root):
    data = CocoDataModule(root=root, categories=["plum", "pear"])
    assert data.category_map.ids == (8, 11)
    assert len(data.source("train")) == 3
    truth = data.ground_truth("train")
    assert [(a["id"], a["category_id"]) for a in truth["annotations"]] == [(40, 8)]
    assert data.eval_dataset("train")[SampleKey(1)].labels.tolist() == [0]
    with pytest.raises(ValueError, match="grape"):
        CocoDataModule(root=root, categories=["grape"])


def test_class_agnostic(root):
    data = CocoDataModule(root=root, class_agnostic=True)
    assert (data.num_classes, data.class_names) == (1, ["object"])
    truth = data.ground_truth("val")
    # one above the largest id of the file, so that it stands for no category of the data set
    assert [a["category_id"] for a in truth["annotations"]] == [12, 12, 12]
    assert truth["categories"] == [{"id": 12, "name": "object"}]
    some = CocoDataModule(root=root, class_agnostic=True, categories=["pear"])
    assert [a["id"] for a in some.ground_truth("val")["annotations"]] == [40]


def test_map_of_a_checkpoint_replaces_the_training_file(root):
    trained = CocoDataModule(root=root, categories=["pear", "fig"])
    paths = {
        "test_images": root / "images" / "val",
        "test_annotations": root / "annotations" / "instances_val.json",
    }
    data = CocoDataModule(**paths, category_map=trained.category_map.to_dict())
    assert data.category_map == trained.category_map
    assert data.ground_truth("test") == trained.ground_truth("val")
    with pytest.raises(ValueError, match="no train split"):
        data.train_dataloader()
    for keep, count in ((None, 3), (["pear"], 1)):
        agnostic = CocoDataModule(root=root, class_agnostic=True, categories=keep)
        again = CocoDataModule(
            **paths,
            category_map=agnostic.category_map.to_dict(),
            **agnostic.category_arguments(),
        )
        assert len(again.ground_truth("test")["annotations"]) == count
        assert again.ground_truth("test") == agnostic.ground_truth("val")
    strange = CocoDataModule(**paths, category_map={"ids": [77], "names": ["car"]})
    with pytest.raises(ValueError, match=r"no category is among \['car'\]"):
        strange.ground_truth("test")
    other = CocoDataModule(**paths, category_map={"ids": [5], "names": ["date"]})
    with pytest.raises(ValueError, match="id 5 is 'fig' here and 'date' in the category map"):
        other.ground_truth("test")


def test_paths_can_be_named_singly(root, tmp_path):
    moved = tmp_path / "elsewhere"
    (root / "images" / "val").rename(moved)
    data = CocoDataModule(root=root, val_images=moved)
    assert data.image_records("val")[0]["path"] == str(moved / "three.png")
    assert len(list(data.val_dataloader())) == 3
    with pytest.raises(ValueError, match="without val_annotations"):
        CocoDataModule(
            train_images=root / "images" / "train",
            train_annotations=root / "annotations" / "instances_train.json",
            val_images=moved,
        )
    with pytest.raises(ValueError, match="there is no folder"):
        CocoDataModule(root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="names no folder"):
        CocoDataModule()


def test_testing_falls_back_to_validation(root, write_coco, small_coco):
    data = CocoDataModule(root=root)
    assert data.source("test") is data.source("val")
    assert data.image_records("predict") == data.image_records("val")
    small_coco["images"] = small_coco["images"][:1]
    small_coco["annotations"] = small_coco["annotations"][:1]
    write_coco(root, "test", **small_coco)
    assert [r["id"] for r in CocoDataModule(root=root).image_records("test")] == [7]


def test_degenerate_objects_leave_the_targets_but_not_the_truth(root):
    def flatten(data):
        data["annotations"][0]["segmentation"] = [[3, 3, 6, 3, 6, 3]]

    edit(root, "val", flatten)
    data = CocoDataModule(root=root)
    assert data.eval_dataset("val")[SampleKey(1)].labels.tolist() == [1]
    assert len(data.ground_truth("val")["annotations"]) == 3


def test_training_on_crowds_alone_is_refused(root):
    def all_crowd(data):
        for annotation in data["annotations"]:
            annotation["iscrowd"] = 1

    file = edit(root, "train", all_crowd)
    with pytest.raises(ValueError, match=r"all 3 annotations are crowds.* can be learnt") as error:
        CocoDataModule(root=root)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(("split", "use"), [("train", "learnt"), ("val", "scored")])
def test_a_split_without_any_object_is_refused(root, split, use):
    file = edit(root, split, lambda d: d["annotations"].clear())
    with pytest.raises(UnusableData) as error:
        CocoDataModule(root=root)
    problems = [(p.file, p.reason) for p in error.value.problems]
    assert problems == [(file, f"no image of {split} has an object: nothing can be {use}")]


def test_a_test_split_without_any_object_can_be_predicted(root, write_coco, small_coco):
    write_coco(root, "test", **small_coco)
    edit(root, "test", lambda d: d["annotations"].clear())
    assert len(CocoDataModule(root=root).source("predict")) == 3


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("policy", ["skip", "repair"])
def test_a_split_that_skipping_has_emptied_is_refused(root, write_coco, small_coco, split, policy):
    def out_of_bounds(data):
        for annotation in data["annotations"]:
            annotation["segmentation"] = [[90, 90, 99, 90, 99, 99]]

    write_coco(root, "test", **small_coco)
    file = edit(root, split, out_of_bounds)
    with pytest.raises(UnusableData, match=f"{file}: no object is left: nothing can be"):
        CocoDataModule(root=root, bad_data=policy)


def test_broken_files_are_named_before_training(root):
    file = edit(root, "val", lambda d: d["annotations"][0].update(segmentation=[[1, 2]]))
    with pytest.raises(ValueError, match="image 7, annotation 40: a polygon has 2") as error:
        CocoDataModule(root=root)
    assert str(file) in str(error.value)
    edit(root, "val", lambda d: d["annotations"].pop(0))
    (root / "images" / "train" / "three.png").unlink()
    with pytest.raises(ValueError, match=r"image 3: image file .*three\.png is missing"):
        CocoDataModule(root=root)


def test_image_that_changed_is_named_when_it_is_read(root, monkeypatch):
    monkeypatch.setattr(coco_files, "HEADER_LIMIT", 0)
    Image.fromarray(np.zeros((4, 5), dtype=np.uint8)).save(root / "images" / "train" / "seven.png")
    data = CocoDataModule(root=root)
    with pytest.raises(ValueError, match=r"image 7: .*seven\.png is 4 px high and 5 px wide"):
        data.source("train").read(1)


def test_grey_images_train_like_colour(root):
    for split in ("train", "val"):
        for file in (root / "images" / split).iterdir():
            Image.open(file).convert("L").save(file)
    batch = next(iter(CocoDataModule(root=root, batch_size=3).train_dataloader()))
    assert torch.equal(batch.images[:, 0], batch.images[:, 2])
    assert batch.images.max() > 0.5


@pytest.mark.parametrize(
    ("name", "train", "val", "classes"),
    [("coco_small", (195, 1857), (120, 1121), 80), ("dsb2018_fluo", (192, 5891), (56, 2090), 1)],
)
def test_real_data_load_whole(shared_data, name, train, val, classes):
    data = CocoDataModule(root=shared_data(name))
    assert data.num_classes == classes
    for split, (images, annotations) in (("train", train), ("val", val)):
        source = data.source(split)
        assert (len(source), source.store.ids.size) == (images, annotations)
        assert len(data.ground_truth(split)["annotations"]) == annotations
    crowds = [int(data.source(split).store.crowd.sum()) for split in ("train", "val")]
    assert crowds == ([22, 13] if name == "coco_small" else [0, 0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
@pytest.mark.parametrize("name", ["coco_small", "dsb2018_fluo"])
def test_real_batches_hold_the_masks_of_the_file(shared_data, name):
    from pycocotools.coco import COCO

    root = shared_data(name)
    reference = COCO(str(root / "annotations" / "instances_val.json"))
    data = CocoDataModule(root=root)
    dataset = data.eval_dataset("val")
    for index in range(0, len(dataset), 5):
        sample = dataset[SampleKey(index)]
        numbers = sorted(reference.getAnnIds(imgIds=[sample.image_ids[0]]))
        dense = [reference.annToMask(reference.anns[number]) for number in numbers]
        dense = [mask for mask in dense if mask.any()]
        assert len(dense) == len(sample.masks)
        for mask, expected, box in zip(sample.masks, dense, sample.boxes, strict=True):
            assert np.array_equal(mask.numpy(), expected == 1)
            rows, columns = np.nonzero(expected)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == edges
