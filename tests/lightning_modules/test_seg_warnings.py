from typing import NamedTuple

import numpy as np
import pytest
import torch

from lightning_modules.seg_warnings import data_warnings, named_batch_norm_error, without_size
from structures import SegBatch

NAMES = ["cat", "dog", "eel", "fly", "gnu", "hen", "ibis"]


class Counts(NamedTuple):
    by_image: np.ndarray
    by_class: np.ndarray


def counts(by_image, by_class):
    return Counts(np.array(by_image), np.array(by_class))


def test_images_with_more_objects_than_the_model_predicts():
    train, val = counts([3, 0, 5, 4], [1] * 7), counts([9, 1], [1] * 7)
    (message,) = data_warnings({"train": train, "val": val}, NAMES, 3)
    assert message.startswith("2 of 4 train images and 1 of 2 val images have more than 3 objects")
    assert "(at most 9)" in message
    assert "model.init_args.model.init_args.max_dets from 3 to 9 or more" in message
    (message,) = data_warnings({"train": train, "val": val}, NAMES, 5)
    assert message.startswith("1 of 2 val images have more than 5 objects (at most 9)")
    for limit in (9, None):  # exactly as many are predicted; tiles have no limit
        assert list(data_warnings({"train": train, "val": val}, NAMES, limit)) == []
    assert list(data_warnings({"train": None, "val": None}, NAMES, 1)) == []


def test_classes_that_are_hardly_seen():
    found = counts([1], [500, 5, 4, 0, 7, 300, 1])
    (message,) = data_warnings({"train": found, "val": None}, NAMES, 100)
    assert "more than 100 : 1" in message
    assert "cat has 500 objects, but fly 0, ibis 1, eel 4;" in message  # dog: exactly 100 : 1
    assert "docs/training.md" in message
    many = counts([1], [1000, 1, 2, 3, 4, 5, 6])
    (message,) = data_warnings({"train": many, "val": None}, NAMES, 100)
    assert "gnu 4, hen 5 and 1 more;" in message
    assert list(data_warnings({"train": None, "val": many}, NAMES, 100)) == []
    assert list(data_warnings({"train": counts([], [0] * 7), "val": None}, NAMES, 100)) == []


def test_the_error_of_a_batch_norm_with_one_value():
    batch = SegBatch(
        images=torch.zeros(1, 3, 32, 32),
        sizes=torch.tensor([[32, 32]]),
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0).long(),
        masks=torch.zeros(0, 32, 32).bool(),
        counts=torch.tensor([0]),
        crowd=torch.zeros(0).bool(),
        index=torch.tensor([0]),
        original_sizes=torch.tensor([[32, 32]]),
        image_ids=(7,),
    )
    other = ValueError("another")
    assert named_batch_norm_error(other, batch) is other
    norm = torch.nn.BatchNorm2d(2)
    with pytest.raises(ValueError, match="Expected more") as error:
        norm(torch.zeros(1, 2, 1, 1))
    message = str(named_batch_norm_error(error.value, batch))
    assert "1 image(s) of 32 x 32 px" in message
    assert "[7]" in message
    assert "data.batch_size 2" in message


def test_sizes_that_no_object_has():
    def truth(*areas):
        return {"annotations": [{"area": area, "iscrowd": crowd} for area, crowd in areas]}

    both = truth((1024, 0), (9217, 1))  # the second is a crowd; 1024 is small and medium
    assert [without_size(size, both) for size in ("small", "medium", "large")] == [
        "", "", "no object of the validation images is large",
    ]  # fmt: skip
    assert without_size("small", truth((1025, 0))) and not without_size("large", truth((9216, 0)))
