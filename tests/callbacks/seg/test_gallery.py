import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.seg import gallery as mask_gallery
from callbacks.seg.gallery import MaskGallery, ShownImage, draw_sheet, native_media
from evaluation.seg.draw import contact_sheet, draw_instances, side_by_side
from loggers.wandb_logger import SafeWandbLogger, WandbOptions
from structures import Instances, RLEMasks


def read(path):
    return np.asarray(Image.open(path))


def names(folder):
    return sorted(p.name for p in folder.glob("*"))


def expected_sheet(stand_in, numbers):
    """Draw truth and predictions at half the file's size without any of the callback's code."""
    pairs = []
    for n in numbers:
        batch = stand_in.image(n)
        image = np.round(batch.images[0, :, :24, :32].numpy() * 255).astype(np.uint8)
        image = np.ascontiguousarray(image.transpose(1, 2, 0))
        true = RLEMasks.from_dense(batch.masks[:, :24, :32].numpy())
        truth = draw_instances(image, batch.boxes, batch.labels, true, ("square", "bar"))
        found = stand_in.found(n)
        drawn = draw_instances(
            image,
            found.boxes[:2] / 2,  # the third scores 0.3
            found.labels[:2],
            RLEMasks.from_dense(found.masks.decode()[:2, ::2, ::2]),
            ("square", "bar"),
            scores=found.scores[:2],
        )
        captions = f"image {100 + n}: truth", f"image {100 + n}: prediction"
        pairs.append(side_by_side(truth, drawn, captions))
    return contact_sheet(pairs, 2)


def test_files_of_a_run(stand_in, make_trainer, tmp_path):
    gallery = MaskGallery(num_pictures=2, every_n_epochs=3)
    trainer = make_trainer([gallery], max_epochs=5)
    trainer.fit(stand_in.SegModule(), stand_in.images(), stand_in.images())
    folder = tmp_path / "run" / "pictures"
    # The first, one every three epochs, and the last.
    epochs = ["gallery_epoch_001.png", "gallery_epoch_004.png", "gallery_epoch_005.png"]
    assert names(folder) == epochs
    trainer.test(stand_in.SegModule(), stand_in.images(), verbose=False)
    trainer.validate(stand_in.SegModule(), stand_in.images(), verbose=False)
    assert names(folder) == [*epochs, "gallery_test.png", "gallery_val.png"]
    np.testing.assert_array_equal(read(folder / epochs[0]), read(folder / "gallery_test.png"))


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("size", [(100, 150), (480, 640), (640, 480), (600, 1500)])
def test_a_sheet_is_at_most_2000_pixels_wide_and_its_columns_are_filled(count, size, monkeypatch):
    captions = []
    monkeypatch.setattr(
        mask_gallery,
        "side_by_side",
        lambda one, two, texts: captions.append(texts) or side_by_side(one, two, texts),
    )
    none = Instances.empty(size)
    image = np.full((*size, 3), 90, dtype=np.uint8)
    one = ShownImage(image, "image 5", none, np.zeros(0, dtype=bool), none)
    sheet = draw_sheet([one] * count, ("a", "b"), 0.25)
    assert sheet.shape[1] <= 2000
    assert captions[0] == ("image 5: no object", "image 5: no prediction above .25")
    filled = (sheet == 90).all(axis=2).any(axis=0)  # whether a column has a pixel of an image
    assert filled.mean() > 0.95


def test_sanity_check_draws_nothing(stand_in, make_trainer, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(mask_gallery, "write_png", lambda path, _: drawn.append(path.name))
    trainer = make_trainer([MaskGallery(every_n_epochs=9)], num_sanity_val_steps=-1)
    trainer.fit(stand_in.SegModule(), stand_in.images(), stand_in.images())
    assert drawn == ["gallery_epoch_001.png"]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_same_drawing_whatever_the_batch_size(batch_size, stand_in, make_trainer, tmp_path):
    trainer = make_trainer([MaskGallery(num_pictures=3, max_side=32)])
    trainer.validate(stand_in.SegModule(), stand_in.images(batch_size), verbose=False)
    sheet = read(tmp_path / "run" / "pictures" / "gallery_val.png")
    # Numbers times 0.618 modulo 1: 0, .62, .24, .85, .47, .09.
    np.testing.assert_array_equal(sheet, expected_sheet(stand_in, [0, 2, 5]))


def test_only_the_chosen_images_are_held(stand_in):
    gallery = MaskGallery(num_pictures=2)
    for n in range(6):
        gallery.keep(None, [stand_in.found(n)], stand_in.image(n))
        assert len(gallery._sample.items()) <= 2
    shown = dict(gallery._sample.items())
    assert sorted(shown) == [0, 5]
    assert shown[5].image.shape == (48, 64, 3)
    assert len(shown[5].prediction) == 2  # the third is below the score


def test_large_images_are_reduced(stand_in):
    gallery = MaskGallery(num_pictures=1, max_side=32)
    gallery.keep(None, [stand_in.found(0)], stand_in.image(0))
    ((_, shown),) = gallery._sample.items()
    assert shown.image.shape == (24, 32, 3)
    assert shown.prediction.boxes[0].tolist() == [6, 4, 14, 12]
    assert shown.truth.boxes[0].tolist() == [4, 4, 12, 12]
    assert shown.truth.masks.areas().tolist() == [64, 40]


def test_bags_are_left_alone(stand_in, make_trainer, tmp_path):
    trainer = make_trainer([MaskGallery()])
    trainer.validate(stand_in.BagModule(), stand_in.bags(), verbose=False)
    assert names(tmp_path / "run" / "pictures") == []


@pytest.mark.parametrize(
    "wrong", [{"num_pictures": 0}, {"score": 1.5}, {"max_side": 0}, {"every_n_epochs": 0}]
)
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MaskGallery(**wrong)


def test_native_media_pad_to_one_size_and_leave_crowds_out(stand_in):
    gallery = MaskGallery(num_pictures=2)
    crowd = dataclasses.replace(stand_in.image(0), crowd=torch.tensor([False, True]))
    gallery.keep(None, [stand_in.found(0)], crowd)
    small = dataclasses.replace(stand_in.image(5), original_sizes=torch.tensor([[24, 32]]))
    prediction = dataclasses.replace(stand_in.found(5), masks=None, size=(24, 32))
    gallery.keep(None, [prediction], small)
    shown = [one for _, one in gallery._sample.items()]
    first, second = native_media(shown, ("square", "bar"), "epoch 004")
    assert first.image.shape == second.image.shape == (48, 64, 3)
    assert second.image[24:].max() == second.image[:, 32:].max() == 0
    assert first.caption == "epoch 004, image 100"
    truth = first.masks["truth"]["mask_data"]
    assert (truth == 1).sum() == 16 * 16
    assert truth.max() == 1  # the bar is a crowd
    assert [row["class_id"] for row in first.boxes["truth"]["box_data"]] == [1]
    assert first.masks["prediction"]["class_labels"] == {0: "background", 1: "square", 2: "bar"}
    # Boxes of the smaller image are fractions of the common canvas.
    position = second.boxes["truth"]["box_data"][0]["position"]
    assert position == {"minX": 9 / 64, "minY": 4 / 48, "maxX": 17 / 64, "maxY": 12 / 48}
    drawn = draw_sheet(shown, ("square", "bar"), 0.5)
    assert drawn.ndim == 3


@pytest.fixture
def offline(offline_wandb):
    """Return a folder for the run; W&B writes nothing outside the test's folders."""
    return offline_wandb / "wandb_dir"


@pytest.mark.slow
def test_offline_run_holds_masks_boxes_and_names(stand_in, make_trainer, offline, read_wandb):
    logger = SafeWandbLogger(offline, WandbOptions())
    trainer = make_trainer([MaskGallery(num_pictures=2)], logger=logger)
    trainer.fit(stand_in.SegModule(), stand_in.images(), stand_in.images())
    logger.finish()
    (run,) = offline.glob("wandb/offline-run-*")
    found = read_wandb(run)
    items = found.history
    (native,) = [item for item in items if "val/gallery._type" in item]
    assert native["val/gallery._type"] == "images/separated"
    assert native["val/gallery.captions"] == ["epoch 001, image 100", "epoch 001, image 105"]
    assert native["trainer/global_step"] == 3
    assert [item.get("val/gallery_drawn.count") for item in items].count(1) == 1
    labels = found.labels
    for kind in ("truth", "prediction"):
        names = labels[f"val/gallery_wandb_delimeter_{kind}"]["value"]
        assert names == {"0": "background", "1": "square", "2": "bar"}
    files = run / "files"
    mask = read(files / native["val/gallery.all_masks"][0]["prediction"]["path"])
    expected = np.zeros((48, 64), dtype=np.uint8)
    expected[8:24, 12:28], expected[32:40, 40:60] = 1, 2
    np.testing.assert_array_equal(mask, expected)
    boxes = json.loads(
        (files / native["val/gallery.all_boxes"][1]["prediction"]["path"]).read_text()
    )
    row = boxes["box_data"][0]
    assert row["position"] == {"minX": 22 / 64, "minY": 8 / 48, "maxX": 38 / 64, "maxY": 24 / 48}
    assert row["scores"]["score"] == pytest.approx(0.9)
    assert boxes["class_labels"] == {"1": "square", "2": "bar"}


@pytest.mark.slow
def test_a_broken_service_does_not_stop_training(
    stand_in, make_trainer, offline, monkeypatch, caplog
):
    import wandb

    logger = SafeWandbLogger(offline, WandbOptions())

    def refuse(*args, **kwargs):
        raise wandb.errors.CommError("connection lost")

    monkeypatch.setattr(wandb, "Image", refuse)
    trainer = make_trainer([MaskGallery(num_pictures=1)], logger=[logger], max_epochs=2)
    trainer.fit(stand_in.SegModule(), stand_in.images(), stand_in.images())
    assert trainer.current_epoch == 2
    assert len(names(offline / "pictures")) == 2
    assert [r.levelname for r in caplog.records if "W&B" in r.getMessage()] == ["WARNING"]
    logger.finish()
