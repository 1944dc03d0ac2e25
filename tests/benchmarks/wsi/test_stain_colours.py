"""What the study of stains measures: the fits that it compares, and its tables."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.wsi import cross_scanner, stain_colours
from datamodules.wsi.stain import Macenko
from datamodules.wsi.stain_sample import StainSample
from tests.support.stained_slides import BORDER, GLASS, stained_pixels


def test_with_glass_and_mean_density_the_fit_is_that_of_the_package():
    pixels = stained_pixels()[BORDER:-BORDER, BORDER:-BORDER].reshape(-1, 3)
    sample = StainSample(pixels, np.array(GLASS, float))
    one, other = stain_colours.fitted(sample, True, True, 1.0), Macenko().fit(sample)
    np.testing.assert_allclose(one.vectors, [other["hematoxylin"], other["eosin"]], atol=1e-4)
    np.testing.assert_allclose(one.amounts, other["amounts"], atol=1e-4)
    shown = pixels.reshape(384, 512, 3)
    found = one.change_to(stain_colours.STANDARD)(shown).astype(int)
    assert np.abs(found - Macenko().transform(other)(shown)).max() <= 1


def test_tables(tmp_path, monkeypatch):
    colours = {name: {"a": [1, 2, 3], "b": [3, 2, 7]} for name in stain_colours.METHODS}
    angles = {name: {} for name in stain_colours.METHODS} | {"Macenko": {"a": [1, 2], "b": [3, 6]}}
    (tmp_path / "colours.json").write_text(json.dumps({"colours": colours, "angles": angles}))
    Image.new("RGB", (8, 6), "pink").save(tmp_path / "stains.png")
    for seed, area in enumerate((0.5, 1.0)):
        folder = tmp_path / "trained" / f"Macenko_{seed}"
        folder.mkdir(parents=True)
        scores = {"slides": [area, 1.0, 0.5], "patches": [0.75, 0.75, 0.75]}
        (folder / "scores.json").write_text(json.dumps(scores))
    page, image = tmp_path / "page.md", tmp_path / "image.jpg"
    page.write_text(f"before\n\n{cross_scanner.BEGIN}old{cross_scanner.END}\n\nafter\n")
    monkeypatch.setattr(cross_scanner, "PAGE", page)
    monkeypatch.setattr(cross_scanner, "IMAGE", image)
    cross_scanner.write_table(tmp_path)
    text = page.read_text()
    assert "| Macenko | 1.0, 0.0, 2.0 | 2.0 (at most 3.0) | 4.0 (at most 6.0) |" in text
    assert (
        "| Macenko | .750 (.354) | 1.000 (.000) | .500 (.000) | .750 (.118) | .750 (.000) |" in text
    )
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    cross_scanner.write_table(tmp_path)
    assert page.read_text() == text
    assert Image.open(image).size == (8, 6)


def test_angles_are_those_to_the_stains_of_the_slide():
    slide = next(iter(cross_scanner.plan_slides(2, 2, 0)))
    true = stain_colours.true_stains(slide, (1.1, 0.9))
    assert true.angles(slide) == pytest.approx((0, 0), abs=1e-5)
    turned = true._replace(vectors=true.vectors[::-1])
    assert min(turned.angles(slide)) > 20
