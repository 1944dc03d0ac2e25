"""`evaluate.py froc` on folders."""

import json

import h5py
import numpy as np
import pytest

import evaluate
from formats.detections_csv import write_detections
from formats.files import write_csv, write_json
from tests.formats.slides.test_lesion_outlines import asap

SIDE = 3200  # 777 um, a lesion; 400 are 97 um, isolated cells


def ring(x, y, side):
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


def write_geojson(path, *squares, name="Lesion"):
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": {"type": "Polygon", "coordinates": [[*ring(*s), ring(*s)[0]]]},
        }
        for s in squares
    ]
    write_json(path, {"type": "FeatureCollection", "features": features})


@pytest.fixture
def folders(tmp_path):
    """Four slides: a with one lesion, b with two and isolated cells, c and d without."""
    found, outlines = tmp_path / "found", tmp_path / "outlines"
    outlines.mkdir()
    (outlines / "A.xml").write_text(asap("_0", points=ring(1000, 1000, SIDE)))
    write_geojson(outlines / "b.geojson", (0, 0, SIDE), (20000, 0, SIDE), (40000, 0, 400))
    write_geojson(outlines / "d.geojson")
    write_detections(found / "a.csv", [(0.9, 2000, 2000), (0.8, 2500, 2500), (0.3, 90000, 90000)])
    write_detections(found / "b.csv", [(0.6, 100, 100), (0.95, 40100, 100), (0.7, 9000, 9000)])
    write_detections(found / "c.csv", [])
    write_detections(found / "d.csv", [(0.5, 5, 5)])
    return found, outlines


def run(found, outlines, *words):
    out = found.parent / "out.json"
    given = ["--detections", found, "--annotations", outlines, "--out", out, *words]
    code = evaluate.main(["froc", *map(str, given)])
    return code, json.loads(out.read_text()) if code == 0 else None


def test_the_numbers_by_hand(folders, capsys):
    """Lesions .9, .6 and a missed one; false positives .7, .5, .3 of four slides."""
    code, record = run(*folders)
    assert code == 0
    assert (record["lesions"], record["isolated_cells"], record["slides"]) == (3, 1, 4)
    metrics = record["metrics"]
    assert metrics.pop("froc") == pytest.approx(2 / 3)
    # one false positive in four slides is a rate of 1/4, which may be reached
    assert set(metrics) == {f"sensitivity_at_{rate:g}" for rate in (0.25, 0.5, 1, 2, 4, 8)}
    assert list(metrics.values()) == pytest.approx([2 / 3] * 6)
    assert record["false_positives"] == {"a": 1, "b": 1, "c": 0, "d": 1}
    assert [row["probability"] for row in record["found"]] == [0.9, 0.6, None, 0.95]
    assert [row["isolated_cells"] for row in record["found"]] == [False, False, False, True]
    first = record["found"][0]
    assert (first["slide"], first["x"], first["y"]) == ("a", 2592, 2592)  # of 2600, on the raster
    assert first["major_axis_um"] == pytest.approx(4 * 853 / np.sqrt(12), rel=0.02)
    assert "4 slides, 3 lesions, and 1 of isolated tumour cells" in capsys.readouterr().out


def test_slides_that_do_not_count_are_named(folders, capsys):
    found, outlines = folders
    before = run(*folders)[1]["metrics"]
    write_detections(found / "test_114.csv", [(1.0, 1, 1)])
    for name in ("test_114", "forgotten"):
        write_geojson(outlines / f"{name}.geojson", (0, 0, SIDE))
    _, record = run(*folders)
    assert record["metrics"] == before
    first, second = record["notes"]
    assert first == "test_114 is left out, as its lesions are not all outlined"
    assert second.startswith("1 outlined slides have no file of detections")
    assert "forgotten" in capsys.readouterr().out


def test_the_resolution_decides_which_lesions_are_isolated_cells(folders):
    _, record = run(*folders, "--mpp", 1.0)  # 400 um
    assert (record["lesions"], record["isolated_cells"]) == (4, 0)
    assert run(*folders, "--mpp", 30)[0] == 2


def test_scores_of_patches(folders, tmp_path):
    """Slide a: patches 0 and 1 of 4 are inside, scored .4 and .2 of .4, .3, .2, .1."""
    (tmp_path / "features").mkdir()
    for slide in "ab":
        with h5py.File(tmp_path / f"features/{slide}.h5", "w") as file:
            file["coords"] = np.zeros((4, 2), np.int64)
            file.attrs["patch_size_level0"] = 512
    places = {"a": [(1000, 1000), (2000, 2000), (9000, 0), (0, 9000)], "b": [(50000, 0)] * 4}
    rows = [
        (slide, k, score, *places[slide][k])
        for slide in "ab"
        for k, score in enumerate([0.4, 0.2, 0.3, 0.1])
    ]
    write_csv(tmp_path / "p.csv", ["bag_id", "instance", "attention", "x", "y"], rows)
    words = ["--patches", tmp_path / "p.csv"]
    _, record = run(*folders, *words, "--features", tmp_path / "features")
    assert record["metrics"]["patch_auroc"] == pytest.approx(3 / 4)
    assert record["metrics"]["patch_auprc"] == pytest.approx((1 + 2 / 3) / 2)
    patients = [("p", slide, *row) for slide, *row in rows]  # attention in bags of patients
    header = ["bag_id", "slide_id", "instance", "attention", "x", "y"]
    write_csv(tmp_path / "patients.csv", header, patients)
    other = ["--patches", tmp_path / "patients.csv", "--features", tmp_path / "features"]
    assert run(*folders, *other)[1]["metrics"] == record["metrics"]
    assert run(*folders, *words)[0] == 2  # without features
    assert run(*folders, *words, "--features", tmp_path)[0] == 2  # another folder
    more = ["--features", tmp_path / "features", "--patch-score", "no"]
    assert run(*folders, *words, *more)[0] == 2


def _no_detections(found, outlines):
    for path in found.iterdir():
        path.unlink()


def _other_names(found, outlines):
    for path in found.iterdir():
        path.rename(path.with_name(f"x{path.name}"))


def _two_files(found, outlines):
    write_geojson(outlines / "a.geojson")


def _only_isolated(found, outlines):
    for name in "ab":
        write_geojson(outlines / f"{name}.json", (0, 0, 400))
    (outlines / "A.xml").unlink()
    (outlines / "b.geojson").unlink()


def _broken(found, outlines):
    (found / "a.csv").write_text("0.9,2000\n")


def _far(found, outlines):
    write_geojson(outlines / "b.geojson", (0, 0, SIDE), (9e9, 0, SIDE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_detections, "found: there are no detections, <slide>.csv; give the folder"),
        (_other_names, "outlines no lesion of the 4 slides"),
        (_two_files, "slide a: is also outlined by"),
        (_only_isolated, "none of the 4 slides has a lesion that counts"),
        (_broken, "a.csv, line 1: not three numbers"),
        (_far, "b.geojson: outlines that span"),
    ],
)
def test_what_is_refused(change, message, folders, capsys):
    change(*folders)
    assert run(*folders)[0] == 2
    assert message in capsys.readouterr().err.replace("A.xml", "a.xml")


def test_folders_that_are_none(folders, tmp_path, capsys):
    found, _ = folders
    assert run(found, tmp_path / "none")[0] == 2
    assert "none: no such folder; give the folder of outlines" in capsys.readouterr().err
