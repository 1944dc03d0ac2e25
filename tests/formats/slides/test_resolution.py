"""Resolution of slides, and patches at a resolution: the right pixels in the right place."""

import math

import numpy as np
import pytest
from PIL import Image

from formats.slides.pyramid import open_slide
from formats.slides.resolution import PatchReader, Resolution, resolution
from tests.support.slides import clouds, noise, ramp, reduced, wave, write_tiff

openslide = pytest.importorskip("openslide")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")

    def write(mpp):
        path = write_tiff(folder / "s.tiff", [noise(64, 64)], None, mpp, tile=64)
        return open_slide(path)

    return write


def test_where_the_resolution_comes_from(small):
    assert resolution(small(0.25)) == Resolution(0.25, "file")
    assert resolution(small(0.25), 0.5) == Resolution(0.5, "table")
    assert resolution(small(None), 0.5) == Resolution(0.5, "table")
    assert resolution(small((0.25, 0.252))).mpp == pytest.approx(0.251)
    assert resolution(small((0.25, 0.5)), 0.3).mpp == 0.3


COLUMN = "state the micrometres per pixel of level 0 in the column mpp"


@pytest.mark.parametrize(
    ("of_file", "given", "message"),
    [
        (None, None, f"the file does not tell its micrometres per pixel; {COLUMN}"),
        (1e4 / 72 * 2.54, None, f"352.778 x 352.778 .*72 dpi.*not between 0.05 and 20; {COLUMN}"),
        (0.04, None, f"0.04 x 0.04 micrometres per pixel, which is not between.*{COLUMN}"),
        (
            (0.25, 0.253),
            None,
            f"0.25 .* in x and 0.253 in y, which differ by more than 1%; {COLUMN}",
        ),
        (0.25, 0.0, "mpp 0 of the table is not between 0.05 and 20 .*; correct the column mpp"),
        (0.25, math.nan, "mpp nan of the table"),
        (0.25, 40, "mpp 40 of the table"),
    ],
)
def test_resolutions_that_are_refused(small, of_file, given, message):
    with pytest.raises(ValueError, match=r"s\.tiff: .*" + message):
        resolution(small(of_file), given)


def test_the_level_that_is_read(tmp_path):
    image = clouds(1024, 768)
    path = write_tiff(tmp_path / "a.tiff", [image, reduced(image, 2), reduced(image, 8)], None)
    with open_slide(path) as slide:

        def level(mpp, slide_mpp=0.25):
            reader = PatchReader(slide, slide_mpp, mpp, 16)
            assert reader.step == pytest.approx(mpp / slide_mpp * 16)
            return reader.level, reader.scale

        assert level(0.25) == (0, 1)
        assert level(0.499) == (0, pytest.approx(1.996))
        assert level(0.5) == (1, 1)
        assert level(0.5, 0.2501) == (1, pytest.approx(0.9996))  # rounding of a slide's resolution
        assert level(0.5, 0.253) == (0, pytest.approx(0.5 / 0.253))
        assert level(7) == (2, 3.5)
        assert level(0.25, 0.275) == (0, pytest.approx(1 / 1.1))
        with pytest.raises(
            ValueError, match=r"a\.tiff: .* 0.276 .*too coarse for patches of 0.25; "
        ):
            level(0.25, 0.276)
        with pytest.raises(ValueError, match="have no size"):
            PatchReader(slide, 0.25, 0.0, 16)
        with pytest.raises(ValueError, match="have no size"):
            PatchReader(slide, 0.25, 0.5, 0)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_a_level_of_the_asked_resolution_is_read_as_it_is(tmp_path, factor):
    image = noise(240 * factor, 200 * factor)
    levels = [image] if factor == 1 else [image, reduced(image, factor)]
    path = write_tiff(tmp_path / "a.tiff", levels, None, 0.1)
    plain = openslide.OpenSlide(path)
    with open_slide(path) as slide:
        reader = PatchReader(slide, 0.1, 0.1 * factor, 50)
        for x, y in ((0, 0), (50 * factor, 100 * factor), (7 * factor, 13 * factor)):
            expected = plain.read_region((x, y), len(levels) - 1, (50, 50)).convert("RGB")
            np.testing.assert_array_equal(reader.read(x, y), np.asarray(expected))


def test_borders_come_from_the_neighbours(tmp_path):
    """Patches side by side are the slide resampled as a whole, and so is the middle of one."""
    image = noise(700, 700)
    path = write_tiff(tmp_path / "a.tiff", [image], None, 0.25)
    with open_slide(path) as slide:
        reader = PatchReader(slide, 0.25, 0.5, 64)
        whole = np.asarray(Image.fromarray(image).resize((350, 350), Image.Resampling.BILINEAR))
        for x, y in ((128, 128), (256, 128), (384, 512)):
            expected = whole[y // 2 : y // 2 + 64, x // 2 : x // 2 + 64]
            np.testing.assert_array_equal(reader.read(x, y), expected)


def test_the_edge_of_the_slide_has_no_rim_of_background(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", [np.full((300, 300, 3), 90, np.uint8)], None, 0.25)
    with open_slide(path) as slide:
        reader = PatchReader(slide, 0.25, 0.6, 50)
        assert (reader.read(0, 0) == 90).all() and (reader.read(180, 180) == 90).all()
        beyond = reader.read(240, 0)  # its right half lies outside
        assert (beyond[:, :24] == 90).all() and (beyond[:, 26:] == 255).all()


def test_reduction_has_no_alias(tmp_path):
    """Stripes of two pixels become grey; reading every fifth pixel would give other stripes."""
    image = np.zeros((600, 600, 3), np.uint8)
    image[:, ::2] = 255
    path = write_tiff(tmp_path / "a.tiff", [image], None, 0.25)
    with open_slide(path) as slide:
        assert PatchReader(slide, 0.25, 1.25, 64).read(100, 90).std() < 8


def misplaced(patch, x, y, ratio):
    """Return the shift in pixels of level 0, of x and y, that explains a patch of `ramp` best."""
    shifts = []
    for axis, (channel, start) in enumerate(((0, x), (1, y))):
        at = start + (np.arange(len(patch)) + 0.5) * ratio
        slope = (wave(at + 0.5) - wave(at - 0.5)) * (np.abs(wave(at) - 128) < 80)  # not at a turn
        seen = patch[..., channel].mean(axis).astype(float)
        shifts.append(((seen - wave(at)) * slope).sum() / (slope**2).sum())
    return shifts


@pytest.mark.parametrize("factor", [3, 4])
def test_patches_do_not_drift(tmp_path, factor):
    """Over 20 000 pixels, whatever level is read, patches show the place of their coordinates."""
    width, height = 20_000, 900
    image = ramp(width, height)
    levels = [image, reduced(image, factor)]
    levels.append(reduced(levels[1], factor))
    path = write_tiff(tmp_path / "a.tiff", levels, None, 0.25)
    worst = {}
    with open_slide(path) as slide:
        for ratio in (1.0, 1.507, 2.381, factor + 0.7, factor**2 + 0.3):
            reader = PatchReader(slide, 0.25, 0.25 * ratio, 40)
            assert reader.level == (ratio > factor) + (ratio > factor**2)
            for x in range(0, int(width - 40 * ratio), 1237):
                for y in (0, int(height - 40 * ratio) - factor**2):
                    patch = reader.read(x, y)
                    shift = misplaced(patch, x, y, ratio)
                    place = patch[..., 2].mean() / 255 * width - 20 * ratio
                    assert abs(place - x) < 60  # the waves repeat after 128 pixels
                    worst[ratio] = max(worst.get(ratio, 0), *map(abs, shift))
    assert max(worst[1.0], worst[1.507], worst[2.381]) < 0.1
    assert max(worst.values()) < 1
