"""Objects for QuPath, by the rules of its reader."""

import json
import time

import numpy as np
import pytest

from formats.slides.qupath import SlideObject, read_objects, tiles, write_objects

SQUARE = np.array([[0.0, 0], [30, 0], [30, 30], [0, 30]])
HOLE = np.array([[10.0, 10], [10, 20], [20, 20], [20, 10]])


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / "slide.geojson"
    own = [
        *tiles(np.array([[100, 200], [350, 200]]), 250.5, {"score": [0.25, -3], "rank": [1, 0]}),
        SlideObject("annotation", [[SQUARE, HOLE]], "tumour", (200, 0, 10), locked=True),
        SlideObject("annotation", [[SQUARE], [SQUARE + 100]], "Ignore*"),
    ]
    write_objects(path, own, origin=(40, 50))
    found = read_objects(path, origin=(40, 50))
    assert [one._replace(polygons=[]) for one in found] == [o._replace(polygons=[]) for o in own]
    assert found[0].measurements == {"score": 0.25, "rank": 1}
    for one, given in zip(found, own, strict=True):
        for part, own_part in zip(one.polygons, given.polygons, strict=True):
            np.testing.assert_equal(part, own_part)


def test_the_file_is_as_qupath_expects_it(tmp_path):
    path = tmp_path / "slide.geojson"
    own = [
        *tiles(np.array([[100, 200]]), 50, {"score": [0.25]}),
        SlideObject("annotation", [[SQUARE, HOLE]], "tumour", (200, 0, 10), locked=True),
    ]
    write_objects(path, own, origin=(100, 0))
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    tile, region = content["features"]
    assert set(tile) == set(region) == {"type", "geometry", "properties"}  # no id
    assert tile["properties"] == {"objectType": "tile", "measurements": {"score": 0.25}}
    # The slide's bounds begin at x = 100.
    ring = [[0, 200], [50, 200], [50, 250], [0, 250], [0, 200]]
    assert tile["geometry"] == {"type": "Polygon", "coordinates": [ring]}
    assert region["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "tumour", "color": [200, 0, 10]},
        "isLocked": True,
    }
    assert len(region["geometry"]["coordinates"]) == 2  # outline and hole


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_and_leaves_the_old_file(tmp_path, value):
    path = tmp_path / "slide.geojson"
    path.write_text("old")
    with pytest.raises(ValueError, match="object 1 .* not finite"):
        write_objects(path, tiles(np.zeros((2, 2)), 5, {"score": [0, value]}))
    with pytest.raises(ValueError, match="object 0 .* not finite"):
        write_objects(path, tiles(np.full((1, 2), value), 5, {}))
    assert [file.name for file in tmp_path.iterdir()] == ["slide.geojson"]
    assert path.read_text() == "old"


def feature(**changed):
    ring = [[0, 0], [9, 0], [9, 9], [0, 0]]
    own = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation"},
    }
    return own | changed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"id": "PathAnnotationObject"}, "badly formed"),
        ({"geometry": {"type": "Point", "coordinates": [1, 2]}}, "a Point"),
        ({"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 1]]]}},
         "end where it begins"),
        ({"properties": {"objectType": "square"}}, "square"),
        ({"properties": {"measurements": [{"name": "a", "value": 1}]}}, "object of numbers"),
        ({"properties": {"measurements": {"a": None}}}, "no number"),
        ({"properties": {"classification": {"name": "a", "color": [0, 0, 256]}}}, "0 to 255"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_named(tmp_path, wrong, message):
    path = tmp_path / "slide.geojson"
    content = {"type": "FeatureCollection", "features": [feature(), feature(**wrong)]}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"slide.geojson: object 1: .*{message}.*; export"):
        read_objects(path)


@pytest.mark.parametrize("text", ["{", '{"type": "FeatureCollection"}', "[NaN]", "3"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "slide.geojson"
    path.write_text(text)
    with pytest.raises(ValueError, match="not GeoJSON"):
        read_objects(path)


def test_qupaths_own_export_is_read(tmp_path):
    path = tmp_path / "slide.geojson"
    own = feature(
        id="0e8cbd9e-0a3e-4b1c-9b0e-1f4d1f5d7a55",
        properties={"objectType": "annotation", "classification": {"names": ["Tumor", "Necrosis"]}},
    )
    path.write_text(json.dumps([own, feature(properties={})]))
    first, second = read_objects(path)
    assert (first.name, second.name, second.kind) == ("Tumor: Necrosis", "", "annotation")


def test_20_000_patches_take_3_seconds_and_15_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 100_000, (20_000, 2))
    values = rng.normal(size=(2, 20_000))
    named = {"leave_one_out": values[0], "leave_one_out rank": values[1]}
    start = time.process_time()
    write_objects(tmp_path / "slide.geojson", tiles(corners, 453.3, named), origin=(7, 9))
    seconds = time.process_time() - start
    size = (tmp_path / "slide.geojson").stat().st_size
    assert seconds < 3, seconds
    assert size < 15e6, size
