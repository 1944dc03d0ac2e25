"""Tissue on slides with pink and purple tissue, ink, noise and dark borders."""

import cv2
import numpy as np
import pytest

from datamodules.wsi.tissue import OtsuTissue, TissueMask, tissue_area, tissue_share
from formats.slides.overview import overview
from formats.slides.pyramid import open_slide
from tests.support.slides import GLASS, INKS, clouds, reduced, stained, write_tiff

pytest.importorskip("openslide")


@pytest.fixture
def found(tmp_path):
    """Return a function that writes an image at 4 um and returns its tissue in the same pixels."""

    def run(image, method=None, levels=()):
        path = write_tiff(tmp_path / "a.tiff", [image, *levels], "jpeg", 4.0)
        with open_slide(path) as slide:
            tissue = (method or OtsuTissue())(slide, 4.0)
        size = image.shape[1::-1]
        mask = cv2.resize(tissue.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        return tissue, mask.astype(bool)

    return run


def test_tissue_of_a_stained_slide(found):
    image, inside, _ = stained()
    tissue, mask = found(image)
    assert tissue.mask.shape == (375, 500) and (tissue.scale, tissue.origin) == (2, (0, 0))
    assert (mask & inside).sum() > 0.97 * inside.sum()
    assert (mask & ~inside).sum() < 0.02 * inside.sum()
    assert tissue_area(tissue, 4.0) == pytest.approx(inside.sum() * 16e-6, rel=0.03)


@pytest.mark.parametrize("ink", INKS)
def test_pen_marks_are_no_tissue(found, ink):
    image, inside, pen = stained([ink])
    _, mask = found(image)
    assert not (mask & pen & ~inside).any()
    free = inside & ~cv2.dilate(pen.astype(np.uint8), np.ones((21, 21))).astype(bool)
    assert (mask & free).sum() > 0.96 * free.sum()


def test_ink_over_tissue_goes_with_its_stroke(found):
    image, inside, pen = stained(["black", "blue"])  # they cross the purple piece
    _, mask = found(image)
    assert (mask & pen).sum() < 0.05 * (pen & inside).sum()
    _, kept = found(image, OtsuTissue(pens=False))
    assert (kept & pen & ~inside).sum() > 0.4 * (pen & ~inside).sum()  # blue is saturated


@pytest.mark.parametrize("inks", [(), tuple(INKS)])
@pytest.mark.parametrize("shadow", [False, True])
def test_an_empty_slide_has_no_tissue(found, inks, shadow):
    image, _, _ = stained(inks, tissue=False, shadow=shadow)
    tissue, _ = found(image)
    assert not tissue.mask.any()
    assert tissue_area(tissue, 4.0) == 0
    assert (tissue_share(tissue, np.array([[0, 0], [250, 250]]), 100.0) == 0).all()


def test_a_slide_full_of_tissue_has_it_everywhere(found):
    pale, dark = (225, 190, 215), (110, 60, 140)
    image = np.full((600, 600, 3), pale, np.uint8)
    image[:, 300:] = dark
    assert found(image)[0].mask.all()


def test_small_pieces_and_holes(found):
    image = np.full((500, 500, 3), GLASS, np.uint8)
    image[50:450, 50:300] = (170, 90, 160)
    image[100:120, 100:120] = GLASS  # 0.0064 mm2
    image[200:300, 100:200] = GLASS  # 0.16 mm2
    image[50:75, 400:425] = (170, 90, 160)  # 0.01 mm2
    _, mask = found(image)
    assert mask[110, 110] and not mask[250, 150] and not mask[62, 412] and mask[150, 150]
    _, mask = found(image, OtsuTissue(min_area_mm2=0.005, max_hole_mm2=0.0))
    assert not mask[110, 110] and mask[62, 412]


def test_a_slide_without_low_levels_gives_the_same_mask(found, monkeypatch):
    monkeypatch.setattr("formats.slides.overview._BLOCK", 1 << 16)  # many blocks
    image, _, _ = stained()
    low = reduced(image, 2)
    (_, with_levels), (_, without) = found(image, levels=[low]), found(image)
    assert (with_levels != without).mean() < 0.005
    monkeypatch.setattr("formats.slides.overview._BLOCK", 1 << 22)
    assert (found(image)[1] == without).all()


def test_the_overview_keeps_to_the_bounds(tmp_path):
    image = clouds(1000, 800)
    path = write_tiff(tmp_path / "a.tiff", [image], None, 0.5)
    with open_slide(path) as slide:
        slide.bounds = (200, 80, 600, 400)
        view = overview(slide, 0.5, 2.0)
        expected = cv2.resize(image[80:480, 200:800], (150, 100), interpolation=cv2.INTER_AREA)
        assert view.image.shape == expected.shape
        assert (view.scale, view.origin) == (4, (200, 80))
        assert np.abs(view.image.astype(int) - expected).mean() < 2
        tissue = OtsuTissue(mpp=4.0)(slide, 0.5)
        assert (tissue.mask.shape, tissue.scale, tissue.origin) == ((50, 75), 8, (200, 80))
        assert overview(slide, 0.5, 0.1).scale == 1  # no finer than the slide


def test_shares_count_parts_of_pixels():
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:4] = True
    tissue = TissueMask(mask, 10.0, (100, 200))  # tissue at x 120 to 140, y 210 to 230
    coords = np.array([[120, 210], [115, 210], [110, 205], [100, 200], [155, 235], [500, 500]])
    share = tissue_share(tissue, coords, 20.0)
    np.testing.assert_allclose(share, [1, 0.75, 0.5 * 0.75, 0, 0, 0])
    np.testing.assert_allclose(tissue_share(tissue, np.array([[127, 217]]), 5.5), [1])
    np.testing.assert_allclose(tissue_share(tissue, np.array([[60, 160]]), 120.0), [400 / 120**2])
    full = TissueMask(np.ones((4, 6), bool), 10.0, (0, 0))
    np.testing.assert_allclose(tissue_share(full, np.array([[40, 20]]), 40.0), [0.25])  # border
    assert tissue_area(tissue, 0.5) == pytest.approx(4 * (10 * 0.5e-3) ** 2)


@pytest.mark.parametrize(
    "options", [{"mpp": 0.0}, {"floor": 0.3}, {"floor": -0.1}, {"min_area_mm2": -1.0}]
)
def test_options_that_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        OtsuTissue(**options)


def test_a_real_slide(shared_data):
    with open_slide(shared_data("wsi_small") / "cmu_small_region.svs") as slide:
        tissue = OtsuTissue()(slide, 0.499)
        small = overview(slide, 0.499, 8.0).image.astype(float)
    pink = small.max(-1) - small.min(-1)
    assert 0.55 < tissue_area(tissue, 0.499) < 0.7
    assert pink[tissue.mask].mean() > 45 and pink[~tissue.mask].mean() < 6
