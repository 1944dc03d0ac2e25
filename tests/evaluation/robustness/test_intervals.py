"""Intervals of mPC and rPC against a slow bootstrap, and why there are none."""

import functools
import json
import zipfile

import numpy as np
import pytest

import formats.files
from evaluation.robustness.grid import METRICS, Grid, places, read_grids
from evaluation.robustness.intervals import _seed, find_intervals
from evaluation.robustness.kept import keep, kept_file, kept_folder, prepare_folder, read_kept
from evaluation.robustness.names import BENCHMARK, CLEAN
from evaluation.robustness.writer import CellWriter, Origin, origin_path, read_origin
from evaluation.seg.coco import evaluate_results
from evaluation.seg.coco_bootstrap import compare_images
from evaluation.seg.coco_weighted import match_once
from tests.evaluation.seg.test_coco_backends import random_case
from tests.evaluation.seg.test_coco_bootstrap import shaken
from tests.evaluation.seg.test_coco_weighted import copied

DRAWS = 4
ORIGIN = Origin({"a": "1", "b/..": "2"}, data="d", seed=0, domains={"night": "n"})
NIGHT = "domain:night"


@functools.cache
def data():
    """Return ground truth of 24 images, and results of a cell from its number."""
    cases = [random_case(seed) for seed in range(8)]
    truth = {"images": [], "annotations": [], "categories": cases[0][0]["categories"]}
    rows = []
    for number, (one, found) in enumerate(cases):
        known = {category["id"] for category in truth["categories"]}
        ids = {image["id"]: number * 1000 + n for n, image in enumerate(one["images"])}
        truth["images"] += [i | {"id": ids[i["id"]]} for i in one["images"]]
        for a in one["annotations"]:
            if a["category_id"] in known:
                moved = {"id": len(truth["annotations"]) + 1, "image_id": ids[a["image_id"]]}
                truth["annotations"].append(a | moved)
        rows += [r | {"image_id": ids[r["image_id"]]} for r in found if r["category_id"] in known]
    return truth, rows


def results(model, place):
    """Return the results of a model in a cell: worse with the severity."""
    rows, severity = data()[1], place[1]
    if severity:
        rows = shaken(rows, sum(map(ord, place[0])))
    return [r for n, r in enumerate(rows) if n % (7 - severity) != len(model)]


def write(path, models=("a", "b/.."), cells=None, domain=True):
    """Write a table and its predictions."""
    truth = data()[0]
    wanted = places(BENCHMARK) if cells is None else cells
    with CellWriter(path, ORIGIN) as table:
        prepare_folder(path)
        for model in models:
            for place in [*wanted, *[(NIGHT, 0)] * domain]:
                found = results(model, place)
                keep(kept_file(path, model, place), [match_once(truth, found, "bbox")])
                metrics = evaluate_results(truth, found, iou_types=["bbox"]).metrics
                table.add(model, *place, metrics)
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Do not wait for the disk."""
    monkeypatch.setattr(formats.files.os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Intervals of a complete table of two models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats.files.os, "fsync", lambda _: None)
        return found_of(write(tmp_path_factory.mktemp("whole") / "cells.csv"))


def found_of(path, reference=None, **options):
    grids = read_grids([path])
    return find_intervals(grids, {path: read_origin(path)}, reference, draws=DRAWS, **options)


@functools.cache
def slow_values(model, place, seed):
    """Return (R,) box AP of copies of the images."""
    truth, found = data()[0], results(model, place)
    count = len(truth["images"])
    picks = np.random.default_rng(seed).integers(count, size=(DRAWS, count))
    every = [np.bincount(row, minlength=count) for row in picks]
    kinds = {"iou_types": ["bbox"]}
    return np.array(
        [evaluate_results(*copied(truth, found, w), **kinds).metrics["box_map_50"] for w in every]
    )


@pytest.mark.slow
def test_intervals_are_those_of_a_slow_bootstrap(whole):
    found, expected = whole, {}
    for model in ("a", "b/.."):
        clean = slow_values(model, (CLEAN, 0), 0)
        mpc = np.mean([slow_values(model, place, 0) for place in places(BENCHMARK)[1:]], axis=0)
        expected[model] = {"clean": clean, "mpc": mpc, "rpc": mpc / clean}
        for key, values in expected[model].items():
            interval = found.intervals[model][f"box_map_50_{key}"]
            assert interval == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1e-9)
            assert 0 < interval[0] < interval[1]
        night = slow_values(model, (NIGHT, 0), _seed("night"))
        for name, values in (("box_map_50", night), ("box_map_50_ratio", night / clean)):
            interval = found.domains[model]["night"][name]
            assert interval == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1e-9)
    assert (found.first, list(found.difference)) == ("a", ["b/.."])
    for key, values in expected["b/.."].items():
        over = values - expected["a"][key]
        difference = found.difference["b/.."][f"box_map_50_{key}"]
        assert difference[3:5] == pytest.approx(np.quantile(over, [0.025, 0.975]), abs=1e-9)
        assert difference.value == pytest.approx(difference.first - difference.second)
    assert found.notes == []


@pytest.mark.slow
def test_clean_differences_are_those_of_compare(whole):
    truth = data()[0]
    first, second = (results(model, (CLEAN, 0)) for model in ("b/..", "a"))
    expected = compare_images(truth, first, second, draws=DRAWS)
    differences = whole.difference["b/.."]
    for name in METRICS["box"]:
        if f"box_{name}_clean" not in differences:
            assert np.isnan(expected.differences[f"box_{name}"].value)
            continue
        one, other = differences, expected.differences[f"box_{name}"]
        np.testing.assert_allclose(one[f"box_{name}_clean"], other, atol=1e-12, err_msg=name)


def test_differences_are_from_the_reference(tmp_path):
    path = write(tmp_path / "cells.csv", cells=[(CLEAN, 0)])
    first, second = found_of(path), found_of(path, "b/..")
    assert (first.first, second.first) == ("a", "b/..")
    one, other = first.difference["b/.."], second.difference["a"]
    assert one["box_map_clean"].value == -other["box_map_clean"].value != 0
    one, other = first.domain_difference["b/.."]["night"], second.domain_difference["a"]["night"]
    assert one["box_map"][3:5] == pytest.approx([-end for end in other["box_map"][4:2:-1]])
    assert first.intervals == second.intervals


def test_predictions_are_read_as_they_were_written(tmp_path):
    truth, rows = random_case(3)
    for found in (rows, rows[:1], []):
        written = [match_once(truth, found, kind) for kind in ("bbox", "segm")]
        keep(tmp_path / "a.npz", written)
        read = read_kept(tmp_path / "a.npz")
        assert [one[:3] for one in read] == [one[:3] for one in written]
        for one, other in zip(read, written, strict=True):
            assert len(one.classes) == len(other.classes)
            for a, b in zip(one.classes, other.classes, strict=True):
                for name in a._fields:
                    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
        first = (tmp_path / "a.npz").read_bytes()
        keep(tmp_path / "b.npz", written)
        assert (tmp_path / "b.npz").read_bytes() == first


def test_any_name_is_a_name_of_a_file(tmp_path):
    path = tmp_path / "cells.csv"
    names = ("a", "..", ".", "a/b", "ä b", "a:b", "%2E")
    files = {kept_file(path, name, ("own.fog", 2)) for name in names}
    assert len(files) == len(names)
    for file in files:
        assert file.resolve().parent.parent == kept_folder(path).resolve()
    kept_folder(path).write_text("")
    with pytest.raises(ValueError, match="is no folder"):
        prepare_folder(path)


def test_what_killed_processes_left_is_removed(tmp_path):
    file = kept_file(tmp_path / "cells.csv", "a", ("fog", 1))
    file.parent.mkdir(parents=True)
    for name in (".fog_1.npz.123", "fog_1.npz"):
        (file.parent / name).write_bytes(b"x")
    prepare_folder(tmp_path / "cells.csv")
    assert [path.name for path in file.parent.iterdir()] == ["fog_1.npz"]


def test_an_incomplete_grid_has_intervals_of_what_is_there(tmp_path):
    told = []
    path = write(tmp_path / "cells.csv", ["a"], places(["fog"], [1]), domain=False)
    found = found_of(path, progress=lambda *numbers: told.append(numbers))
    assert {name.rpartition("_")[2] for name in found.intervals["a"]} == {"clean"}
    assert told == [(1, 1)]
    assert (found.difference, found.domains, found.notes) == ({}, {}, [])


def broken(path, how):
    """Break what is beside a table; return what is told."""
    file = kept_file(path, "a", (CLEAN, 0))
    if how == "missing":
        file.unlink()
        return "a: no intervals, because no predictions are kept in"
    if how == "no zip":
        file.write_bytes(b"x")
        return "clean_0.npz: cannot be read"
    if how == "lacks arrays":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("other.txt", "")
        return "clean_0.npz: cannot be read"
    if how == "other cell":
        file.write_bytes(kept_file(path, "b/..", (CLEAN, 0)).read_bytes())
        return "clean_0.npz has not the predictions of the cell in "
    if how == "no folder":
        for each in kept_folder(path).rglob("*.npz"):
            each.unlink()
        for folder in (*kept_folder(path).iterdir(), kept_folder(path)):
            folder.rmdir()
        return f"no intervals for the models of {path}, because no predictions are kept in"
    origin = json.loads(origin_path(path).read_text())
    origin["shared"] = {k: v for k, v in origin["shared"].items() if k != "data"}
    origin_path(path).write_text(json.dumps(origin))
    return "b/..: no difference from a, because nothing says that the images are the same"


@pytest.mark.parametrize(
    "how", ["missing", "no zip", "lacks arrays", "other cell", "no folder", "no origin"]
)
def test_a_note_says_why_there_is_no_interval(tmp_path, how):
    path = write(tmp_path / "cells.csv", cells=[(CLEAN, 0)])
    told = broken(path, how)
    found = found_of(path)
    assert any(note.startswith(told) or told in note for note in found.notes), found.notes
    if how != "no origin":
        assert "a" not in found.intervals
        assert found.difference == {}
    if how not in ("no origin", "no folder"):
        assert "box_map" in found.domains["a"]["night"]  # its own images
        assert "box_map_ratio" not in found.domains["a"]["night"]


def test_few_images_have_no_intervals(tmp_path):
    truth, rows = random_case(1)
    keep(kept_file(tmp_path / "c.csv", "a", (CLEAN, 0)), [match_once(truth, rows, "bbox")])
    value = evaluate_results(truth, rows).metrics["box_map"]
    grid = Grid(tmp_path / "c.csv", {(CLEAN, 0): {"box_map": value}})
    found = find_intervals({"a": grid}, {})
    assert found.intervals == {}
    assert f"has {len(truth['images'])} image" in found.notes[0]
    assert "withheld" in found.notes[0]
