import numpy as np
import pytest
import torch

from callbacks.seg import instance_table
from callbacks.seg.gallery import MaskGallery, ShownImage
from callbacks.seg.instance_table import COLUMNS, instance_rows
from structures import Instances, RLEMasks

NAMES = ("square", "bar")
SIZE = (40, 60)


def shown(truth, found, crowd=None, with_masks=True, name="image 7", reduction=1.0):
    """An image of (x, y, side, label) squares and of predictions that also have a score."""
    image = np.arange(SIZE[0] * SIZE[1] * 3, dtype=np.uint32).astype(np.uint8).reshape(*SIZE, 3)
    flags = np.zeros(len(truth), dtype=bool) if crowd is None else np.array(crowd)
    parts = [squares([one[:4] for one in truth], [1.0] * len(truth), True)]
    parts.append(squares([one[:4] for one in found], [one[4] for one in found], with_masks))
    return ShownImage(image, name, parts[0], flags, parts[1], reduction=reduction)


def squares(places, scores, with_masks):
    dense = np.zeros((len(places), *SIZE), dtype=bool)
    for mask, (x, y, side, _) in zip(dense, places, strict=True):
        mask[y : y + side, x : x + side] = True
    boxes = [[x, y, x + side, y + side] for x, y, side, _ in places]
    return Instances(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor([label for *_, label in places], dtype=torch.int64),
        SIZE,
        RLEMasks.from_dense(dense) if with_masks else None,
    )


def records(rows):
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


@pytest.mark.parametrize("with_masks", [True, False])
def test_every_kind_of_row_by_hand(with_masks):
    truth = [(0, 0, 10, 0), (20, 0, 10, 1), (0, 20, 10, 0), (40, 0, 10, 0)]
    found = [
        (0, 0, 10, 0, 0.9),  # right
        (0, 0, 10, 0, 0.8),  # found already
        (20, 0, 10, 0, 0.7),  # another class
        (0, 26, 10, 0, 0.6),  # 4 of 16 rows: IoU .25
        (50, 30, 8, 1, 0.5),  # nothing there
    ]
    rows = records(
        instance_rows([shown(truth, found, with_masks=with_masks, reduction=4.0)], NAMES)
    )
    by_error = {row["error"]: row for row in rows}
    assert sorted(by_error) == ["bkg", "cls", "dupe", "loc", "match", "miss"]
    assert len(rows) == 6
    assert rows[-1]["error"] == "match"  # errors come first
    expected = {  # class, true class, score, IoU, area of the file
        "match": ("square", "square", 0.9, 1.0, 400),
        "dupe": ("square", "square", 0.8, 1.0, 400),
        "cls": ("square", "bar", 0.7, 1.0, 400),
        "loc": ("square", "square", 0.6, 0.25, 400),
        "bkg": ("bar", None, 0.5, 0.0, 256),
        "miss": ("square", "square", None, 0.0, 400),
    }
    for error, values in expected.items():
        names = ("class", "true class", "score", "IoU", "area")
        assert tuple(by_error[error][name] for name in names) == values
        assert by_error[error]["image"] == "7"


def test_a_crop_shows_the_surroundings_and_the_mask():
    one = shown([], [(20, 12, 16, 1, 0.9)])
    (row,) = records(instance_rows([one], NAMES))
    medium = row["crop"]
    np.testing.assert_array_equal(medium.image, one.image[8:32, 16:40])  # a margin of a quarter
    expected = np.zeros((24, 24), dtype=np.uint8)
    expected[4:20, 4:20] = 2  # label + 1
    mask = medium.masks["prediction"]
    np.testing.assert_array_equal(mask["mask_data"], expected)
    assert mask["class_labels"] == {0: "background", 2: "bar"}
    assert medium.caption == "image 7: bkg, bar"


def test_a_crop_ends_at_the_image_and_large_ones_are_reduced(monkeypatch):
    monkeypatch.setattr(instance_table, "CROP_SIDE", 20)
    (row,) = records(instance_rows([shown([(0, 0, 40, 0)], [])], NAMES))
    medium = row["crop"]
    assert medium.image.shape == (16, 20, 3)  # of 40 x 50
    data = medium.masks["truth"]["mask_data"]
    assert data.shape == (16, 20)
    assert data.mean() == pytest.approx(40 / 50)


def test_without_masks_a_crop_has_none():
    (row,) = records(instance_rows([shown([], [(20, 12, 16, 1, 0.9)], with_masks=False)], NAMES))
    assert row["crop"].masks == {}


def test_crowds_and_empty_images():
    empty = shown([], [])
    crowd = shown([(0, 0, 20, 0)], [(4, 4, 8, 0, 0.9)], crowd=[True])
    rows = records(instance_rows([empty, crowd], NAMES))
    assert [row["error"] for row in rows] == ["crowd"]  # no error, and no object is missed
    assert instance_rows([empty], NAMES) == []


def test_kinds_take_turns_in_the_first_rows(monkeypatch):
    monkeypatch.setattr(instance_table, "MAX_ROWS", 4)
    wrong = [(10 * k, 0, 8, 0, 0.5 + k / 100) for k in range(5)]
    lost = [(12 * k, 20, 4 + k, 1) for k in range(4)]
    rows = records(instance_rows([shown(lost, wrong)], NAMES))
    assert sorted(row["error"] for row in rows) == ["bkg", "bkg", "miss", "miss"]
    assert sorted(row["score"] for row in rows if row["score"]) == [0.53, 0.54]
    assert sorted(row["area"] for row in rows if row["error"] == "miss") == [36, 49]


def test_labels_that_say_what_is_found_are_no_classes():
    """As in the gallery of known and novel objects."""
    one = shown([(0, 0, 10, 0)], [(0, 6, 10, 1, 0.9)])
    (row,) = records(instance_rows([one], NAMES, class_agnostic=True))
    assert (row["error"], row["class"], row["true class"]) == ("loc", "bar", "square")


def test_a_training_sends_it_once(stand_in, make_trainer, monkeypatch):
    gallery, sent = MaskGallery(num_pictures=2), []
    monkeypatch.setattr(gallery.wandb, "enabled", lambda trainer: True)
    monkeypatch.setattr(gallery.wandb, "log", lambda *given: None)
    monkeypatch.setattr(gallery.wandb, "send", lambda trainer, key, make: sent.append(key))
    trainer = make_trainer([gallery], max_epochs=3)
    trainer.fit(stand_in.SegModule(), stand_in.images(), stand_in.images())
    assert sent == ["val/pictures", "val/pictures", "val/instances"]
    trainer.test(stand_in.SegModule(), stand_in.images(), verbose=False)
    assert sent[3:] == ["test/instances", "test/pictures"]
