"""Outlines of tissue that `predict` writes, and those that replace detection."""

import json
import shutil

import h5py
import numpy as np
import pytest
import yaml

import train
from formats.slides.qupath import SlideObject, read_objects, write_objects
from tests.support.extraction import RECIPE, content
from tests.support.small_slides import write_slide

SQUARE = np.array([[128.0, 128], [384, 128], [384, 320], [128, 320]])  # four patches by three


@pytest.fixture
def extract(tmp_path, capfd):
    """Return a function that extracts two slides and returns exit code and output."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    for number, name in enumerate("ab"):
        write_slide(tmp_path / f"slides/{name}.tiff", number)

    def run(*words, out="out"):
        command = ["predict", "--config", recipe, "--data.slides", tmp_path / "slides"]
        command += ["--data.features", tmp_path / out, "--runs_dir", tmp_path / "runs"]
        capfd.readouterr()
        code = train.main([*map(str, command), *map(str, words)])
        return code, capfd.readouterr().err

    return run


@pytest.mark.slow
def test_outlines_leave_and_come_back(extract, tmp_path):
    assert extract()[0] == 0
    outlines = tmp_path / "out/tissue"
    assert sorted(file.name for file in outlines.iterdir()) == ["a.geojson", "b.geojson"]
    shutil.copytree(outlines, tmp_path / "own")
    flag = ["--data.tissue_outlines", tmp_path / "own"]
    assert extract(*flag, out="again")[0] == 0
    for name in "ab":
        with (
            h5py.File(tmp_path / f"out/{name}.h5") as one,
            h5py.File(tmp_path / f"again/{name}.h5") as two,
        ):
            np.testing.assert_array_equal(one["coords"][:], two["coords"][:])
            assert set(json.loads(two.attrs["settings"])["tissue"]) == {"outlines"}
    assert not (tmp_path / "again/tissue").exists()
    # b is corrected: its features are refused, those of a stay.
    write_objects(tmp_path / "own/b.geojson", [SlideObject("annotation", [[SQUARE]])])
    before = content(tmp_path / "again")
    code, said = extract(*flag, out="again")
    assert code == 2
    assert "slide b" in said and "tissue.outlines" in said and "slide a" not in said
    assert content(tmp_path / "again") == before
    (tmp_path / "again/b.h5").unlink()
    assert extract(*flag, out="again")[0] == 0
    with h5py.File(tmp_path / "again/b.h5") as file:
        corners = {tuple(place) for place in file["coords"][:].tolist()}
    assert corners == {(x, y) for x in range(128, 384, 64) for y in range(128, 320, 64)}
    # Outlines that may have been corrected are not replaced.
    write_objects(outlines / "a.geojson", [SlideObject("annotation", [[SQUARE]])])
    (tmp_path / "out/a.h5").unlink()
    assert extract()[0] == 0
    assert len(read_objects(outlines / "a.geojson")[0].polygons[0][0]) == 4


def test_slides_without_outlines_are_listed_before_anything_is_written(extract, tmp_path):
    (tmp_path / "own").mkdir()
    code, said = extract("--data.tissue_outlines", tmp_path / "own")
    assert code == 2
    assert "has no a.geojson" in said and "has no b.geojson" in said
    assert not (tmp_path / "out").exists()
    (tmp_path / "own/a.geojson").write_text("{")
    write_objects(tmp_path / "own/b.geojson", [SlideObject("annotation", [[SQUARE]])])
    code, said = extract("--data.tissue_outlines", tmp_path / "own")
    assert code == 2
    assert "a.geojson: not GeoJSON" in said
    assert [file.name for file in (tmp_path / "out").glob("*.h5")] == ["b.h5"]
