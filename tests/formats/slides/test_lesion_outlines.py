"""Outlines of lesions, of ASAP and QuPath."""

import json

import pytest

from formats.slides.lesion_outlines import read_lesion_outlines
from structures import DataProblems

SQUARE = [(0, 0), (8, 0), (8, 8), (0, 8)]


def asap(*groups, points=SQUARE):
    """Return XML as ASAP writes it; the points are listed backwards, as their order says."""
    listed = [f'<Coordinate Order="{n}" X="{x}" Y="{y}" />' for n, (x, y) in enumerate(points)][
        ::-1
    ]
    rings = f"<Coordinates>{''.join(listed)}</Coordinates>"
    made = [f'<Annotation Name="A{g}" PartOfGroup="{g}">{rings}</Annotation>' for g in groups]
    annotations = f"<Annotations>{''.join(made)}</Annotations><AnnotationGroups />"
    return f'<?xml version="1.0"?><ASAP_Annotations>{annotations}</ASAP_Annotations>'


def feature(name=None):
    ring = [list(point) for point in [*SQUARE, SQUARE[0]]]
    kind = {} if name is None else {"classification": {"name": name}}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": kind,
    }


def test_groups_of_asap(tmp_path):
    (tmp_path / "a.xml").write_text(asap("_0", "_1", "_2", "metastases", "normal", "Tumor"))
    found = read_lesion_outlines(tmp_path / "a.xml")
    assert (len(found.lesions), len(found.cut_out)) == (4, 2)
    assert found.lesions[0][0].tolist() == [list(point) for point in SQUARE]


def test_annotations_without_area_are_left_out(tmp_path):
    (tmp_path / "a.xml").write_text(asap("_0", points=SQUARE[:2]))
    assert read_lesion_outlines(tmp_path / "a.xml") == ([], [])


def test_classes_of_qupath(tmp_path):
    features = [feature(n) for n in ("Lesion", None, "_2", "Normal", "Ignore*")]
    features.append({**feature(), "properties": None})
    for content in ({"type": "FeatureCollection", "features": features}, features):
        (tmp_path / "a.geojson").write_text(json.dumps(content))
        found = read_lesion_outlines(tmp_path / "a.geojson")
        assert (len(found.lesions), len(found.cut_out)) == (3, 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", asap("_0", "_7"), r"annotation A_7: the group is '_7'; name the groups"),
        ("a.xml", asap("_0").replace('X="0"', 'X="nan"'), "not finite"),
        ("a.xml", asap("_0").replace('X="0"', ""), "cannot be read"),
        ("a.xml", "<Annotations/>", "the root is Annotations, not ASAP_Annotations"),
        ("a.xml", asap("_0")[:-40], "cannot be read .*; export the outlines again"),
        ("a.geojson", json.dumps({"type": "Point"}), "a geometry is a Point"),
        ("a.geojson", "{", "cannot be read"),
        ("a.geojson", "7", "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_refused(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataProblems, match=message):
        read_lesion_outlines(tmp_path / name)
