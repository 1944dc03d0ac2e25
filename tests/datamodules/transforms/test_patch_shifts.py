"""Shifts of patches against scikit-image, Pillow, scipy and colorsys."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.color import hed2rgb, rgb2hed

from datamodules.transforms.patch_shifts import PATCH_SHIFTS, STRENGTHS, disk, shift_patches

DRAWN = ("stain", "scanner")


def tissue(side=48, seed=0):
    """Return a patch with nuclei in eosin, made by the stains of scikit-image."""
    rng = np.random.default_rng(seed)
    amounts = np.zeros((side, side, 3))
    amounts[..., 1] = 0.02 + 0.03 * ndimage.gaussian_filter(rng.random((side, side)), 2)
    nuclei = ndimage.gaussian_filter((rng.random((side, side)) > 0.99).astype(float), 2)
    amounts[..., 0] = 0.01 + 0.12 * nuclei / nuclei.max()
    amounts[..., 2] = 0.005
    return np.rint(hed2rgb(amounts) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def patches():
    return np.stack([tissue(seed=seed) for seed in range(3)])


def psnr(first, second):
    return -10 * np.log10(np.mean((first.astype(float) - second) ** 2) / 255**2)


@pytest.mark.parametrize("name", PATCH_SHIFTS)
def test_a_patch_is_shifted_as_it_is_alone(name, patches):
    before = patches.copy()
    found = shift_patches(patches, name, 3, 9)
    np.testing.assert_array_equal(patches, before)
    assert (found.dtype, found.shape) == (np.uint8, patches.shape)
    for patch, shifted in zip(patches, found, strict=True):
        np.testing.assert_array_equal(shift_patches(patch[None], name, 3, 9)[0], shifted)
    view = patches[:, ::-1, :, ::-1][:, ::-1, :, ::-1]  # neither contiguous
    np.testing.assert_array_equal(shift_patches(view, name, 3, 9), found)
    assert np.array_equal(shift_patches(patches, name, 3, 10), found) == (name not in DRAWN)
    assert shift_patches(patches[:0], name, 3, 9).shape == (0, *patches.shape[1:])
    wide = shift_patches(patches[:, :20], name, 5, 9)
    assert wide.shape == (3, 20, 48, 3)


@pytest.mark.parametrize("name", PATCH_SHIFTS)
def test_damage_grows_with_severity(name, patches):
    values = [psnr(patches, shift_patches(patches, name, severity, 4)) for severity in range(1, 6)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 4
    assert values[0] > 20


@pytest.mark.parametrize("severity", [1, 4])
def test_stains_change_as_in_scikit_image(severity, patches):
    strength = STRENGTHS["stain"][severity - 1]
    rng = np.random.default_rng(21)
    factors, shifts = rng.uniform(-1, 1, 3) * strength, rng.uniform(-1, 1, 3) * strength / 4
    unit = -np.log(1e-6)  # scikit-image counts stains in this optical density
    amounts = rgb2hed(patches) * (1 + factors) + shifts / unit
    expected = hed2rgb(amounts) * 255
    found = shift_patches(patches, "stain", severity, 21).astype(float)
    usual = (rgb2hed(patches) > 0).all(axis=-1)  # it cuts amounts below 0
    assert usual.mean() > 0.9
    assert np.abs(found - expected)[usual].max() < 0.51
    assert psnr(patches, found) < (45 if severity == 1 else 33)  # 43.2 and 31.7


@pytest.mark.parametrize("severity", range(1, 6))
def test_jpeg_is_that_of_pillow(severity, patches):
    file = io.BytesIO()
    quality = (75, 50, 30, 15, 8)[severity - 1]
    Image.fromarray(patches[0]).save(file, "jpeg", quality=quality)
    expected = np.asarray(Image.open(file))
    np.testing.assert_array_equal(shift_patches(patches, "jpeg", severity, 0)[0], expected)


def test_defocus_is_a_convolution_with_a_disk(patches):
    for severity, radius in enumerate((1, 1.5, 2, 3, 4), 1):
        kernel = disk(radius)
        reach = len(kernel) // 2
        assert len(kernel) == 2 * reach + 1 > 2 * radius - 1e-9
        fine = (np.arange(1000 * len(kernel)) + 0.5) / 1000 - reach - 0.5
        half = np.sqrt(np.maximum(radius**2 - fine**2, 0))  # of the chord at each place
        for row, middle in enumerate(range(-reach, reach + 1)):
            covered = np.minimum(half, middle + 0.5) - np.maximum(-half, middle - 0.5)
            areas = np.maximum(covered, 0).reshape(len(kernel), 1000).mean(axis=1)
            assert kernel[row] * np.pi * radius**2 == pytest.approx(areas, abs=0.03)
        values = patches[0].astype(float)
        expected = ndimage.convolve(values, kernel[..., None].astype(float), mode="mirror")
        found = shift_patches(patches, "defocus", severity, 0)[0]
        assert np.abs(found - expected).max() < 0.51


def test_sharpening_adds_what_a_blur_takes_away(patches):
    for severity, amount in enumerate((0.5, 1, 2, 3, 5), 1):
        values = patches[0].astype(float)
        blurred = ndimage.gaussian_filter(values, (1, 1, 0), mode="mirror", truncate=3)
        expected = np.clip(values + amount * (values - blurred), 0, 255)
        found = shift_patches(patches, "sharpening", severity, 0)[0]
        assert np.abs(found - expected).max() < 0.52


def test_finer_pixels_enlarge_the_centre():
    down, right = np.mgrid[:40, :60]
    ramp = np.stack([4 * right, 6 * down, np.full_like(down, 90)], axis=-1)
    for severity, factor in enumerate((1.1, 1.25, 1.5, 1.75, 2), 1):
        found = shift_patches(ramp[None].astype(np.uint8), "mpp", severity, 0)[0].astype(float)
        middle = np.array([4 * 29.5, 6 * 19.5, 90])
        assert np.abs(found - (middle + (ramp - middle) / factor)).max() < 0.6


@pytest.mark.parametrize("severity", [1, 5])
def test_a_scanner_turns_hues_and_has_gains(severity, patches):
    strength = (4, 8, 12, 18, 25)[severity - 1]
    found = shift_patches(patches, "scanner", severity, 3)
    rng = np.random.default_rng(3)
    hue, gains = rng.uniform(-strength, strength), 1 + rng.uniform(-strength, strength, 3) / 100
    for place in ((0, 5, 7), (1, 30, 2), (2, 11, 40)):
        h, s, v = colorsys.rgb_to_hsv(*(patches[place] / 255))
        expected = np.array(colorsys.hsv_to_rgb((h + hue / 360) % 1, s, v)) * gains * 255
        assert np.abs(found[place] - expected.clip(0, 255)).max() < 0.6


def test_grey_stays_grey_but_for_gains():
    grey = np.full((1, 4, 4, 3), 100, np.uint8)
    found = shift_patches(grey, "scanner", 5, 0)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 1
    assert np.abs(found.astype(int) - 100).max() <= 25
    for name in ("defocus", "sharpening", "mpp"):
        np.testing.assert_array_equal(shift_patches(grey, name, 5, 0), grey)


def test_wrong_arguments(patches):
    for given, told in (
        ((patches, "fog", 1, 0), "no shift 'fog'; there are stain, "),
        ((patches, "jpeg", 0, 0), "severity is a whole number from 1 to 5, got 0"),
        ((patches[0], "jpeg", 1, 0), r"\(N, H, W, 3\) uint8, got \(48, 48, 3\)"),
        ((patches / 255, "jpeg", 1, 0), "float64"),
    ):
        with pytest.raises(ValueError, match=told):
            shift_patches(*given)


def test_a_function_of_ones_own_has_the_same_random_numbers_for_each_patch(
    tmp_path, monkeypatch, patches
):
    (tmp_path / "own_scanner.py").write_text(
        "def warmer(image, severity, rng):\n"
        "    image[..., 0] = 255 - severity * rng.integers(1, 9)\n"
        "    return image\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = shift_patches(patches, "own_scanner.warmer", 2, 5)
    assert (found[..., 0] == 255 - 2 * np.random.default_rng(5).integers(1, 9)).all()
    np.testing.assert_array_equal(found[..., 1:], patches[..., 1:])
