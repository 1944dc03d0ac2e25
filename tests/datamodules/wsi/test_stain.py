"""Stains of pixels with known stains, and normalised pixels against slow formulae."""

import numpy as np
import pytest

from datamodules.transforms.stain import densities, mean_density
from datamodules.wsi.stain import Macenko, Reinhard, l_alpha_beta
from datamodules.wsi.stain_sample import StainSample

GLASS = np.array([243.0, 242.0, 244.0])
STAINS = np.array([[0.68, 0.72, 0.33], [0.13, 0.92, 0.36]])
UNIT = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)


def drawn(seed=0, count=20_000, glass=GLASS, stains=STAINS):
    """Pixels of stroma, which has eosin alone, of nuclei without eosin and of mixtures."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.2, 1.0, (count, 2)) * (1.2, 0.7)
    amounts[: count // 4, 0] = 0
    amounts[count // 4 : count // 2, 1] = 0
    light = glass * np.exp(-amounts @ stains)
    return StainSample(np.clip(np.rint(light), 0, 255).astype(np.uint8), glass)


def degrees(one, other):
    cosine = np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


@pytest.mark.parametrize("glass", [GLASS, np.array([225.0, 235.0, 215.0])])
def test_known_stains_are_found(glass):
    found = Macenko().fit(drawn(glass=glass))
    assert degrees(found["hematoxylin"], STAINS[0]) < 1
    assert degrees(found["eosin"], STAINS[1]) < 1
    assert np.linalg.norm(found["eosin"]) == pytest.approx(1, abs=1e-4)
    assert found["glass"] == glass.tolist()


def test_amounts_are_those_of_least_squares():
    sample = drawn()
    found = Macenko().fit(sample)
    vectors = np.array([found["hematoxylin"], found["eosin"]])
    dense = densities(sample.pixels, GLASS)
    dense = dense[dense.mean(1) > 0.15]
    amounts = np.linalg.lstsq(vectors.T, dense.T, rcond=None)[0]
    np.testing.assert_allclose(found["amounts"], np.percentile(amounts, 99, axis=1), atol=1e-3)


def test_what_a_plain_fit_misses():
    """White instead of the glass, and every channel instead of their mean, lose eosin (A680)."""
    pale = np.array([[0.68, 0.72, 0.33], [0.10, 0.84, 0.30]])
    sample = drawn(stains=pale)

    def eosin(white, compared):
        density = densities(sample.pixels, white)
        density = density[compared(density) > 0.15 * np.log(10)]
        plane = np.linalg.svd(density, full_matrices=False)[2][:2].T
        angles = np.percentile(np.arctan2(*(density @ plane).T[::-1]), [1, 99])
        ends = (plane @ [np.cos(angles), np.sin(angles)]).T
        return min(degrees(one * np.sign(one.sum()), pale[1]) for one in ends)

    assert eosin(np.full(3, 255.0), lambda d: d.min(1)) > 8
    assert eosin(np.full(3, 255.0), lambda d: d.mean(1)) > 2
    assert degrees(Macenko().fit(sample)["eosin"], pale[1]) < 1


def test_normalised_pixels_have_the_amounts_of_the_reference():
    sample, reference = drawn(), Macenko().fit(drawn(1, glass=np.full(3, 255.0)))
    stain = Macenko(reference)
    values = stain.fit(sample)
    own = np.array([values["hematoxylin"], values["eosin"]])
    wanted = np.array([reference["hematoxylin"], reference["eosin"]])
    amounts = np.linalg.lstsq(own.T, densities(sample.pixels, GLASS).T, rcond=None)[0].T
    amounts *= np.divide(reference["amounts"], values["amounts"])
    expected = np.clip(255 * np.exp(-amounts @ wanted), 0, 255)
    found = stain.transform(values)(sample.pixels.reshape(100, 200, 3)).reshape(-1, 3)
    assert np.abs(found - expected).max() < 0.51


@pytest.mark.parametrize(("method", "bound"), [(Macenko, 3), (Reinhard, 5)])
def test_slides_of_several_scanners_become_alike(method, bound):
    other = np.array([[0.60, 0.76, 0.36], [0.19, 0.88, 0.47]])
    one, two = drawn(), drawn(stains=other * 0.8, glass=np.array([238.0, 239.0, 236.0]))
    stain = method()
    before = np.abs(one.pixels.mean(0) - two.pixels.mean(0)).max()
    same = [stain.transform(stain.fit(s))(s.pixels[None]).mean((0, 1)) for s in (one, two)]
    assert np.abs(same[0] - same[1]).max() < bound < 10 < before


def test_means_and_deviations_become_those_of_the_reference():
    sample = drawn()
    reference = Reinhard().fit(drawn(1, stains=np.array([[0.6, 0.76, 0.36], [0.19, 0.88, 0.47]])))
    stain = Reinhard(reference)
    tissue = sample.pixels[mean_density(sample.pixels, GLASS) > 0.15]
    tissue = tissue[: len(tissue) // 10 * 10].reshape(10, -1, 3)
    found = l_alpha_beta(stain.transform(stain.fit(sample))(tissue))
    np.testing.assert_allclose(found.mean((0, 1)), reference["mean"], atol=0.01)
    np.testing.assert_allclose(found.std((0, 1)), reference["deviation"], atol=0.005)


def test_the_space_is_that_of_ruderman():
    # Equations 4 to 6 of Reinhard et al., written out for one colour.
    r, g, b = 200.0, 120.0, 180.0
    long = 0.3811 * r + 0.5783 * g + 0.0402 * b
    middle = 0.1967 * r + 0.7244 * g + 0.0782 * b
    short = 0.0241 * r + 0.1288 * g + 0.8444 * b
    x, y, z = np.log([long, middle, short])
    expected = (x + y + z) / 3**0.5, (x + y - 2 * z) / 6**0.5, (x - y) / 2**0.5
    found = l_alpha_beta(np.array([200, 120, 180], np.uint8))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("stain", [Macenko(), Reinhard()])
def test_a_patch_without_tissue_stays_as_it_is(stain):
    change = stain.transform(stain.fit(drawn()))
    rng = np.random.default_rng(0)
    patch = np.clip(GLASS + rng.normal(0, 3, (64, 64, 3)), 0, 255).astype(np.uint8)
    patch[:4, :10] = drawn().pixels[:40].reshape(4, 10, 3)  # 1 % of 4 096 pixels are 41
    np.testing.assert_array_equal(change(patch), patch)
    patch[4:12] = drawn().pixels[:512].reshape(8, 64, 3)
    assert np.abs(change(patch)[:12].astype(int) - patch[:12]).max() > 20


def test_glass_keeps_its_colour_beside_tissue():
    stain = Reinhard()
    patch = np.tile(GLASS.astype(np.uint8), (64, 64, 1))
    patch[:32] = drawn().pixels[: 32 * 64].reshape(32, 64, 3)
    found = stain.transform(stain.fit(drawn()))(patch)
    np.testing.assert_array_equal(found[32:], patch[32:])
    white = Macenko().transform(Macenko().fit(drawn()))(patch)
    np.testing.assert_array_equal(white[32:], 255)


@pytest.mark.parametrize("stain", [Macenko(), Reinhard()])
def test_too_little_tissue_is_said(stain):
    sample = drawn()
    glass = np.tile(GLASS.astype(np.uint8), (30_000, 1))
    scarce = StainSample(np.concatenate([glass, sample.pixels[:500]]), GLASS)
    with pytest.raises(ValueError, match=r"\d+ of 30500 sampled .* too few .*; look at"):
        stain.fit(scarce)
    with pytest.raises(ValueError, match="one colour"):
        stain.fit(StainSample(np.tile(np.array([200, 90, 170], np.uint8), (5000, 1)), GLASS))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"beta": 0.0}, "beta must be positive"), ({"percentile": 50.0}, "between 0 and 50")],
)
def test_arguments_out_of_range(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        Macenko(**arguments)


def test_a_section_makes_the_same_object():
    stain = Macenko(Macenko().fit(drawn()), beta=0.2)
    section = stain.section()
    assert section["class_path"] == "datamodules.wsi.stain.Macenko"
    again = Macenko(**section["init_args"])
    assert (again.reference, again.beta, again.section()) == (stain.reference, 0.2, section)
