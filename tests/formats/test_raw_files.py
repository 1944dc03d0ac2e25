"""RAW files: a DNG written with its tags comes back, in every pattern and orientation."""

import sys

import numpy as np
import pytest

from datamodules.seg.image_folder import ImageFolderDataModule
from datamodules.transforms.raw.files import read_linear
from formats.raw_files import raw_size, read_developed, read_raw
from tests.support.dng import PATTERNS, scene, write_dng

CATEGORIES = {"ids": [1], "names": ["thing"]}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_colours_of_every_pattern(tmp_path, pattern):
    file = write_dng(tmp_path / "a.dng", scene(pattern), pattern)
    assert raw_size(file) == (24, 32)
    image = read_linear(file)
    assert image.shape == (24, 32, 3)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[12, 16] / 255, [0.5, 0.25, 0.125], atol=1e-3)
    np.testing.assert_allclose(image[1, 1] / 255, [0.75, 0.375, 0.1875], atol=1e-3)


def test_a_dark_file_gets_the_usual_brightness(tmp_path):
    """One factor for all colours; a brighter file is left as it is, and nothing exceeds white."""
    levels = scene()
    bright = read_linear(write_dng(tmp_path / "bright.dng", levels))
    dark = read_linear(write_dng(tmp_path / "dark.dng", levels / 40))
    assert dark.mean() / 255 == pytest.approx(0.14, rel=1e-3)
    factor = 0.14 * 255 / bright.mean()
    np.testing.assert_allclose(dark[8:, 8:], factor * bright[8:, 8:], rtol=0.02)
    spot = np.zeros_like(levels)
    spot[2:6, 2:6] = 1000
    assert read_linear(write_dng(tmp_path / "spot.dng", spot)).max() == 255
    assert not read_linear(write_dng(tmp_path / "black.dng", 0 * levels)).any()


def test_planes_and_levels(tmp_path):
    raw = read_raw(write_dng(tmp_path / "a.dng", scene()))
    assert raw.planes.shape == (4, 12, 16)
    np.testing.assert_allclose(raw.planes[:, 6, 6], [0.5, 0.25, 0.125, 0.25], atol=1e-3)


@pytest.mark.parametrize(("orientation", "corner"), [(3, (-2, -2)), (6, (1, -2)), (8, (-2, 1))])
def test_turned_files_are_upright(tmp_path, orientation, corner):
    file = write_dng(tmp_path / "a.dng", scene(), orientation=orientation)
    image = read_linear(file)
    assert image.shape[:2] == raw_size(file) == ((24, 32) if orientation == 3 else (32, 24))
    assert read_developed(file).shape == image.shape
    assert image[corner][0] > 1.4 * image[12, 12, 0]


def test_a_developed_image_is_an_ordinary_one(tmp_path):
    image = read_developed(write_dng(tmp_path / "a.dng", scene()))
    assert image.shape == (24, 32, 3)
    assert image.dtype == np.uint8
    assert image[12, 16].argmax() == 0


def test_a_folder_is_shown_as_it_is(tmp_path):
    """And with more than 8 bits: steps of one level of the sensor are kept."""
    levels = scene()
    levels[12:, 16:] = 40 + np.arange(12)[:, None]
    write_dng(tmp_path / "a.dng", levels)
    data = ImageFolderDataModule(tmp_path, CATEGORIES, low_light={"input": "raw3"})
    batch = next(iter(data.predict_dataloader()))
    assert data.on_after_batch_transfer(batch, 0) is batch
    assert batch.images.shape == (1, 3, 32, 32)
    assert batch.original_sizes.tolist() == [[24, 32]]
    assert len(batch.images[0, 1, 14:22, 24].unique()) == 8
    developed = ImageFolderDataModule(tmp_path, CATEGORIES, low_light={"input": "srgb"})
    plain = ImageFolderDataModule(tmp_path, CATEGORIES)
    pair = [next(iter(d.predict_dataloader())).images for d in (developed, plain)]
    assert (pair[0] == pair[1]).all()
    assert (pair[0] * 255 - (pair[0] * 255).round()).abs().max() < 1e-4


def test_what_is_refused(tmp_path):
    file = write_dng(tmp_path / "a.dng", scene())
    with pytest.raises(ValueError, match="three channels, but the model takes four"):
        ImageFolderDataModule(tmp_path, CATEGORIES, low_light={"input": "raw4"})
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 RAW files beside 1 other images"):
        ImageFolderDataModule(tmp_path, CATEGORIES)
    (tmp_path / "b.png").unlink()
    (tmp_path / "b.cr2").write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"b\.cr2 cannot be read: .*replace it"):
        ImageFolderDataModule(tmp_path, CATEGORIES)


def test_without_rawpy_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    (tmp_path / "a.nef").write_bytes(b"II")
    with pytest.raises(ValueError, match=r"a\.nef: RAW files need rawpy.*'.\[raw\]'"):
        ImageFolderDataModule(tmp_path, CATEGORIES)
