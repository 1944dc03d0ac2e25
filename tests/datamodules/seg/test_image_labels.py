"""Labels of whole images on their way from LVIS's JSON into batches."""

import dataclasses

import pytest
import torch

from datamodules.seg.coco import CocoDataModule
from datamodules.seg.collate import collate_images

CATEGORIES = [{"id": 5, "name": "fig"}, {"id": 8, "name": "pear"}, {"id": 11, "name": "plum"}]


def annotation(number, image, category):
    box = [[2.0, 2, 12, 2, 12, 12, 2, 12]]
    record = {"id": number, "image_id": image, "category_id": category, "iscrowd": 0}
    return record | {"segmentation": box, "area": 100, "bbox": [2, 2, 10, 10]}


@pytest.fixture
def root(tmp_path, write_coco):
    images = [
        {"id": i, "file_name": f"{i}.png", "height": 40, "width": 40, "neg_category_ids": [8, 11]}
        for i in (1, 2)
    ]
    images[1]["neg_category_ids"] = [5]
    images[1]["not_exhaustive_category_ids"] = [8, 11]
    annotations = [annotation(1, 1, 5), annotation(2, 2, 8)]
    for split in ("train", "val"):
        write_coco(tmp_path, split, images=images, annotations=annotations, categories=CATEGORIES)
    return tmp_path


@pytest.mark.parametrize("known", [["fig", "pear"], None])
def test_batches_have_the_labels_of_learnt_classes(root, known):
    data = CocoDataModule(root=root, known=known, batch_size=2, eval_batch_size=2)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        (batch,) = loader
        first = batch.image_ids.index(1)
        negative = [[False, True, True], [True, False, False]]
        incomplete = [[False, False, False], [False, True, True]]
        for found, rows in ((batch.negative, negative), (batch.not_exhaustive, incomplete)):
            assert found.dtype == torch.bool
            assert found[[first, 1 - first]].tolist() == [row[: data.num_classes] for row in rows]
        one = batch.image(first)
        assert one.negative.tolist() == [negative[0][: data.num_classes]]
        moved = batch.to("meta")
        assert moved.negative.device.type == moved.not_exhaustive.device.type == "meta"


@pytest.mark.parametrize("known", [["fig"], None])
def test_merged_classes_have_none(root, known):
    data = CocoDataModule(root=root, known=known, class_agnostic=True, eval_batch_size=2)
    (batch,) = data.val_dataloader()
    assert batch.negative is None
    assert batch.not_exhaustive is None


def test_labels_of_some_images_are_those_of_none(root):
    data = CocoDataModule(root=root, eval_batch_size=2)
    (batch,) = data.val_dataloader()
    one, two = (batch.image(n) for n in range(2))
    without = dataclasses.replace(two, negative=None)
    joined = collate_images([one, without])
    assert joined.negative is None
    assert torch.equal(joined.not_exhaustive, batch.not_exhaustive)


@pytest.mark.parametrize("shape", [(2,), (3, 4)])
def test_a_field_of_another_shape_is_refused(root, shape):
    (batch,) = CocoDataModule(root=root, eval_batch_size=2).val_dataloader()
    with pytest.raises(ValueError, match="negative"):
        dataclasses.replace(batch, negative=torch.zeros(shape, dtype=torch.bool))
