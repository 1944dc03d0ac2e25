"""Outlines of slides."""

import json

import numpy as np
import pytest

from formats.slides.geojson import inside, read_polygons

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]]
FAR = [[20, 20], [30, 20], [25, 30], [20, 20]]


def feature(geometry):
    return {"type": "Feature", "properties": {}, "geometry": geometry}


POLYGON = {"type": "Polygon", "coordinates": [SQUARE, HOLE]}
MULTI = {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [FAR]]}


@pytest.mark.parametrize(
    ("content", "polygons"),
    [
        (POLYGON, 1),
        (feature(MULTI), 2),
        ({"type": "FeatureCollection", "features": [feature(POLYGON), feature(MULTI)]}, 3),
        ([feature(POLYGON)], 1),  # QuPath can write a bare list
        ({"type": "FeatureCollection", "features": []}, 0),
    ],
)
def test_every_form_of_file(tmp_path, content, polygons):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(content))
    found = read_polygons(path)
    assert len(found) == polygons
    points = np.array([[5, 5], [2, 2], [11, 5], [25, 22]])
    expected = [False, polygons > 0, False, polygons > 1]
    assert inside(found, points).tolist() == expected


def test_points_in_random_polygons_are_those_of_opencv():
    import cv2

    generator = np.random.default_rng(0)
    for _ in range(20):
        ring = generator.uniform(0, 100, (12, 2))
        points = generator.uniform(-10, 110, (200, 2))
        theirs = [
            cv2.pointPolygonTest(ring.astype(np.float32), (float(x), float(y)), False) > 0
            for x, y in points
        ]
        assert inside([[ring]], points).tolist() == theirs


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"type": "Point", "coordinates": [1, 2]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [1, NaN], [2, 2]]]}',
        '{"features": []}',
        "[3]",
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "a.geojson"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"a\.geojson: not GeoJSON of polygons"):
        read_polygons(path)
