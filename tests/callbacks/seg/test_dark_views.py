"""Pictures of images in the dark: what is stored, what is seen, and where nothing changes."""

from types import SimpleNamespace

import numpy as np
import pytest

from callbacks.seg.dark_views import brighten, dark_views
from callbacks.seg.frames import image_in_frame, original_size
from callbacks.seg.gallery import MaskGallery, draw_sheet
from datamodules.seg.digit_scenes import DigitScenesDataModule
from structures import Instances

INPUTS = ("raw3", "raw4", "srgb")


def data_of(low_light, **more):
    return DigitScenesDataModule(
        train_scenes=2, val_scenes=3, eval_batch_size=3, seed=4, low_light=low_light, **more
    )


def validated(data):
    """Return the validation batch as the network gets it, and as it is read."""
    plain = next(iter(data.val_dataloader()))
    return data.on_after_batch_transfer(plain, 0), plain


@pytest.mark.parametrize("form", INPUTS)
def test_the_stored_image_has_the_noise_of_the_validation(form):
    dark, plain = validated(data_of({"input": form}))
    stored = validated(data_of({"input": "srgb"}))[0]
    for position in range(3):
        size = original_size(dark, position)
        views = dark_views(data_of({"input": form}), "val", dark, position, size)
        np.testing.assert_array_equal(views.stored, image_in_frame(stored, position, size))
        image = image_in_frame(plain, position, size).astype(float)
        assert views.stored.mean() < 0.4 * image.mean()
        np.testing.assert_array_equal(views.seen, image)
        # brightened, the scene is back, with noise
        assert np.corrcoef(views.bright.ravel(), image.ravel())[0, 1] > 0.25
        assert abs(views.bright.mean() - image.mean()) < 0.3 * image.mean()


def test_images_that_are_not_dark_have_no_views():
    batch = validated(data_of(None))[0]
    for data in (None, object(), data_of(None), data_of({"evaluate": "normal"})):
        assert dark_views(data, "val", batch, 0, original_size(batch, 0)) is None
    # photographs to predict are not darkened
    assert dark_views(data_of({}), "predict", batch, 0, original_size(batch, 0)) is None


def test_an_image_that_was_taken_in_the_dark_is_brightened():
    data = data_of({})
    data.already_dark = True
    batch, plain = validated(data)
    size = original_size(batch, 0)
    views = dark_views(data, "val", batch, 0, size)
    np.testing.assert_array_equal(views.stored, image_in_frame(plain, 0, size))
    assert views.bright.mean() > views.stored.mean()
    np.testing.assert_array_equal(views.seen, views.bright)


def test_brightening():
    image = np.full((20, 20, 3), [0.01, 0.005, 0.0], dtype=np.float32)
    image[:4] *= 2
    shown = brighten(image)
    assert shown[0, 0].tolist() == [255, 140, 0]  # the middle, .25, becomes .3
    assert shown[10, 10].tolist() == [140, 76, 0]
    darker = image.copy()
    darker[4:] /= 20
    assert brighten(darker)[10, 10, 0] == round(255 * (1 / 40) ** (1 / 2.2))
    assert brighten(np.zeros((4, 4, 3))).max() == 0
    bright = np.full((4, 4, 3), 0.9)
    assert brighten(bright).min() > 200


@pytest.mark.parametrize("form", INPUTS)
def test_a_gallery_in_the_dark_has_four_views(form):
    data = data_of({"input": form})
    batch = validated(data)[0]
    gallery = MaskGallery(num_pictures=3)
    gallery._stage = "epoch_001"
    found = [Instances.empty(original_size(batch, n)) for n in range(3)]
    gallery.keep(SimpleNamespace(trainer=SimpleNamespace(datamodule=data)), found, batch)
    shown = [one for _, one in gallery._sample.items()]
    sheet = draw_sheet(shown, data.class_names, 0.5)
    height, width = sheet.shape[:2]
    assert width <= 2000
    views = [sheet[:, n * width // 4 : (n + 1) * width // 4] for n in range(4)]
    ink = [np.median(view[view.min(axis=2) < 250]) for view in views]
    assert ink[0] < 0.5 * min(ink[1:])  # one view of four is dark
    assert height > 3 * shown[0].image.shape[0]
