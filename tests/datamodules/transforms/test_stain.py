"""Maps of optical densities against their formula, and versions that depend on their key alone."""

import numpy as np
import pytest

from datamodules.transforms.stain import (
    HED,
    SHIFT,
    STRENGTH,
    DensityMap,
    StainVersion,
    densities,
    mean_density,
    stain_version,
)

GLASS = (240.0, 238.0, 245.0)


def image(seed=0, shape=(9, 7)):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def test_densities_are_logarithms_of_the_light_that_is_left():
    pixels = image()
    expected = -np.log(np.maximum(pixels.astype(float), 1) / GLASS)
    np.testing.assert_allclose(densities(pixels, GLASS), expected, atol=1e-12)
    np.testing.assert_allclose(mean_density(pixels, GLASS), expected.mean(-1), atol=1e-5)
    assert densities(np.array([240, 238, 245], np.uint8), GLASS).tolist() == [0, 0, 0]


def test_a_map_is_a_product_with_a_matrix():
    rng = np.random.default_rng(1)
    pixels, matrix = image(), np.eye(3) + rng.normal(0, 0.1, (3, 3))
    shift, after = rng.normal(0, 0.05, 3), (250.0, 251.0, 252.0)
    expected = after * np.exp(-(densities(pixels, GLASS) @ matrix + shift))
    found = DensityMap(matrix, shift, GLASS, after)(pixels)
    assert np.abs(found - np.clip(expected, 0, 255)).max() <= 0.501
    assert (expected > 255).any()  # is cut, and does not begin anew at 0
    same = DensityMap(np.eye(3), np.zeros(3), GLASS, GLASS)(pixels)
    np.testing.assert_array_equal(same, np.maximum(pixels, 1))


def test_a_version_changes_the_amounts_of_the_stains():
    amounts = np.array([[0.4, 0.3, 0.05], [0.2, 0.5, 0.1], [0.0, 0.0, 0.0]])
    pixels = np.rint(255 * np.exp(-amounts @ HED)).astype(np.uint8)
    version = StainVersion((1.1, 0.9, 1.2), (0.02, -0.01, 0.03), 0, mirrored=False)
    changed = amounts * version.factors + version.shifts
    expected = np.clip(255 * np.exp(-changed @ HED), 0, 255)
    assert np.abs(version.density_map()(pixels) - expected).max() < 2  # both are rounded


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_turns_and_mirrors(turns, mirrored):
    square = image(shape=(5, 5))
    expected = square[:, ::-1] if mirrored else square
    for _ in range(turns):
        expected = expected.transpose(1, 0, 2)[::-1]
    version = StainVersion((1, 1, 1), (0, 0, 0), turns, mirrored)
    np.testing.assert_array_equal(version.turned(square), expected)


def test_versions_depend_on_slide_and_number_alone():
    assert stain_version("0f3a", 1) == stain_version("0f3a", 1)
    versions = {stain_version(name, k) for name in ("0f3a", "0f3b") for k in (1, 2)}
    assert len(versions) == 4
    many = [stain_version(f"{k:x}", 1) for k in range(400)]
    factors, shifts = (np.array([v[at] for v in many]) for at in (0, 1))
    for values, middle, width in ((factors, 1, STRENGTH), (shifts, 0, SHIFT)):
        assert np.abs(values - middle).max() <= width
        np.testing.assert_allclose(values.min(0), middle - width, atol=0.05 * width)
        np.testing.assert_allclose(values.max(0), middle + width, atol=0.05 * width)
    assert {(v.turns, v.mirrored) for v in many} == {
        (t, m) for t in range(4) for m in (False, True)
    }
