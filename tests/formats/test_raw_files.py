"""RAW files: a DNG written with its tags comes back, in every pattern and orientation."""

import sys

import numpy as np
import pytest

from datamodules.seg.image_folder import ImageFolderDataModule
from datamodules.transforms.raw.files import read_linear
from formats.raw_files import raw_size, read_developed, read_raw

CATEGORIES = {"ids": [1], "names": ["thing"]}
BLACK, WHITE = 512, 16383
PATTERNS = {"RGGB": (0, 1, 1, 2), "GRBG": (1, 0, 2, 1), "GBRG": (1, 2, 0, 1), "BGGR": (2, 1, 1, 0)}


def write_dng(path, levels, pattern="RGGB", orientation=1):
    """Write (h, w) levels above black as a DNG file."""
    tifffile = pytest.importorskip("tifffile", reason="DNG files are written by tifffile")
    pytest.importorskip("rawpy", reason="the extra raw is not installed")
    matrix = [value for row in np.eye(3) for n in row for value in (int(n), 1)]
    tags = [
        (274, "H", 1, orientation, True),
        (33421, "H", 2, (2, 2), True),  # size and colours of the pattern
        (33422, "B", 4, PATTERNS[pattern], True),
        (50706, "B", 4, (1, 4, 0, 0), True),  # version
        (50708, "s", 0, "segmil test", True),
        (50714, "H", 1, BLACK, True),
        (50717, "H", 1, WHITE, True),
        (50721, "2i", 9, matrix, True),
        (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True),
    ]
    values = (np.asarray(levels) + BLACK).astype(np.uint16)
    tifffile.imwrite(path, values, photometric=32803, extratags=tags, metadata=None)
    return path


def scene(pattern="RGGB", size=(24, 32)):
    """A mosaic whose red is 1/2, green 1/4 and blue 1/8 of white, with a bright corner."""
    share = np.array([0.5, 0.25, 0.125])[list(PATTERNS[pattern])].reshape(2, 2)
    levels = np.tile(share, (size[0] // 2, size[1] // 2)) * (WHITE - BLACK)
    levels[:4, :4] *= 1.5
    return levels


@pytest.mark.parametrize("pattern", PATTERNS)
def test_colours_of_every_pattern(tmp_path, pattern):
    file = write_dng(tmp_path / "a.dng", scene(pattern), pattern)
    assert raw_size(file) == (24, 32)
    image = read_linear(file)
    assert image.shape == (24, 32, 3)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[12, 16] / 255, [0.5, 0.25, 0.125], atol=1e-3)
    np.testing.assert_allclose(image[1, 1] / 255, [0.75, 0.375, 0.1875], atol=1e-3)


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
