"""The sample that a stain is fitted on, the glass beside the tissue, and references."""

import json

import h5py
import numpy as np
import pytest
from PIL import Image

from datamodules.wsi.planning import Patching
from datamodules.wsi.slide_list import list_slides, read_headers
from datamodules.wsi.stain import Macenko, Reinhard
from datamodules.wsi.stain_sample import sample_tissue
from datamodules.wsi.tissue import OtsuTissue, TissueMask
from formats.slides.pyramid import open_slide, slide_fingerprint
from formats.slides.resolution import PatchReader
from tests.support.slides import reduced, write_tiff
from tests.support.stained_slides import BORDER, GLASS, stained_pixels


@pytest.fixture
def slide(tmp_path):
    """A slide of tissue on tinted glass, most of which was not scanned and is white."""
    image = np.full((1024, 4096, 3), 255, np.uint8)
    image[:, :1900] = GLASS
    image[:, :1100] = stained_pixels(0, width=1100, height=1024)
    path = tmp_path / "slides" / "a.tiff"
    path.parent.mkdir()
    return write_tiff(path, [image, reduced(image, 4)], None, 0.5, tile=64)


def sample(path, coords=None, px=64):
    fingerprint = slide_fingerprint(path)
    with open_slide(path) as file:
        tissue = OtsuTissue()(file, 0.5)
        reader = PatchReader(file, 0.5, 0.5, px)
        if coords is None:
            x, y = np.meshgrid(np.arange(0, 1100, px), np.arange(0, 1024, px))
            coords = np.stack([x.ravel(), y.ravel()], 1)
        return sample_tissue(file, 0.5, reader, coords, tissue, fingerprint)


def test_pixels_are_those_of_tissue_and_the_glass_is_that_beside_it(slide):
    found = sample(slide)
    assert found.glass.tolist() == list(GLASS)
    assert len(found.pixels) > 64 * 1000
    assert (found.pixels == GLASS).all(-1).mean() < 0.02  # of the mask's border alone
    assert (found.pixels == 255).all(-1).sum() == 0
    again = sample(slide)
    np.testing.assert_array_equal(found.pixels, again.pixels)


def test_no_more_than_some_pixels_of_some_patches(slide):
    found = sample(slide, px=32)  # 1 120 patches of 1 024 pixels
    assert len(found.pixels) <= 64 * 1024
    whole = sample(slide, np.array([[256, 256]]), px=256)
    assert len(whole.pixels) == 2048
    outside = sample(slide, np.array([[0, 0]]), px=BORDER // 2)
    assert outside.pixels.shape == (0, 3)


def test_a_slide_of_tissue_alone_has_white_glass(tmp_path):
    image = stained_pixels(0)[BORDER:-BORDER, BORDER:-BORDER]
    path = write_tiff(tmp_path / "full.tiff", [image], None, 0.5, tile=64)
    with open_slide(path) as file:
        everything = TissueMask(np.ones((24, 32), bool), 16.0, (0, 0))
        reader = PatchReader(file, 0.5, 0.5, 64)
        found = sample_tissue(file, 0.5, reader, np.array([[64, 64]]), everything, "ab")
    assert found.glass.tolist() == [255, 255, 255]
    assert len(found.pixels) == 2048


def test_a_plan_has_the_fit_whatever_else_is_read(slide):
    header = read_headers(list_slides(slide.parent, None)[0], 0.5)[0][0]
    one = Patching(0.5, 64, OtsuTissue(), 0.25, None, Macenko(), 2).plan(header)
    two = Patching(0.5, 64, OtsuTissue(), 0.25, None, Macenko()).plan(header)
    assert one.fault == "" and one.stain == two.stain
    assert (len(one.versions), len(two.versions)) == (2, 0)
    assert one.stain["glass"] == list(GLASS)
    assert json.loads(json.dumps(one.stain)) == one.stain
    assert Patching(0.5, 64, OtsuTissue(), 0.25).plan(header).stain is None


def test_references(tmp_path):
    image = stained_pixels(3)
    Image.fromarray(image).save(tmp_path / "image.png")
    values = Macenko(str(tmp_path / "image.png")).reference
    assert values["glass"] == list(GLASS)
    assert Macenko(str(tmp_path / "image.png")).section()["init_args"]["reference"] == values
    (tmp_path / "values.json").write_text(json.dumps(values))
    assert Macenko(str(tmp_path / "values.json")).reference == values
    with h5py.File(tmp_path / "slide.h5", "w") as file:
        file.attrs["stain"] = json.dumps(values)
    assert Macenko(str(tmp_path / "slide.h5")).reference == values
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file.attrs["mpp"] = 0.5
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.png").write_text("no image")
    for name, reason in {
        "none.png": "no such file; name an image or a JSON file",
        "bare.h5": "hematoxylin is None, not 3 numbers|glass is None, not 3 numbers",
        "broken.json": "cannot be read as a reference",
        "broken.png": "broken.png",
    }.items():
        with pytest.raises(ValueError, match=reason):
            Macenko(str(tmp_path / name))
    with pytest.raises(ValueError, match="mean is None, not 3 numbers"):
        Reinhard(values)
    with pytest.raises(ValueError, match=r"amounts is \[1\.0\], not 2 numbers"):
        Macenko(values | {"amounts": [1.0]})
