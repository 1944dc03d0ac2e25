"""Synthetic slides: files, table, outlines, and what a lesion changes."""

import csv
import hashlib
import json

import numpy as np
import pytest

from datamodules.wsi import synthetic_slides
from datamodules.wsi.synthetic_shapes import inside
from datamodules.wsi.synthetic_slides import plan_slides, write_slides
from datamodules.wsi.synthetic_stain import SCANNERS, SectionPainter
from datamodules.wsi.synthetic_tissue import LYMPHOCYTE, TUMOUR, draw_section

SIDE = 600.0  # um


def area(outline):
    x, y = outline.T
    return abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2


@pytest.fixture(scope="module")
def pair():
    """A section with a lesion of a tenth, and the same without."""
    draw = [draw_section(np.random.default_rng(5), SIDE, share, True) for share in (0.1, None)]
    return draw[0], draw[1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    pytest.importorskip("tifffile", reason="extra `slides` missing")
    made = []
    for name in ("a", "b"):
        folder = tmp_path_factory.mktemp(name)
        assert write_slides(folder, 3, 2, seed=2, side_mm=0.5) == folder / "slides.csv"
        made.append(folder)
    return made


def test_what_is_written(folders):
    openslide = pytest.importorskip("openslide", reason="extra `slides` missing")
    with (folders[0] / "slides.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["slide_id"] for row in rows] == [f"slide_{k:03d}" for k in range(3)]
    assert len({row["patient_id"] for row in rows}) == 2
    assert {row["label"] for row in rows} == {"0", "1"}
    for row in rows:
        scanner = next(s for s in SCANNERS if s.name == row["scanner"])
        with openslide.OpenSlide(folders[0] / "slides" / f"{row['slide_id']}.tiff") as slide:
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(scanner.mpp)
            assert slide.dimensions == (round(500 / scanner.mpp),) * 2
            corner = slide.read_region((0, 0), 0, (4, 4)).convert("RGB").getpixel((1, 1))
        assert corner == pytest.approx(scanner.glass, abs=2)
        content = json.loads((folders[0] / "lesions" / f"{row['slide_id']}.geojson").read_text())
        assert content["type"] == "FeatureCollection"
        assert bool(content["features"]) == (row["label"] == "1")
        for feature in content["features"]:
            (ring,) = feature["geometry"]["coordinates"]
            assert ring[0] == ring[-1] and len(ring) > 5
            assert np.min(ring) >= 0 and np.max(ring) <= 500 / scanner.mpp


def test_equal_seeds_give_equal_files(folders):
    def digests(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }

    first, second = map(digests, folders)
    assert len(first) == 7 and first == second


def test_slides_and_patients():
    planned = plan_slides(40, 30, seed=0)
    assert len({s.patient_id for s in planned}) == 30
    by_patient = {s.patient_id: {(t.label, t.scanner.name) for t in planned
                                 if t.patient_id == s.patient_id} for s in planned}  # fmt: skip
    assert all(len(found) == 1 for found in by_patient.values())
    assert sum(label for ((label, _),) in by_patient.values()) == 15
    for label in (0, 1):  # the scanner does not tell the label
        names = [name for ((own, name),) in by_patient.values() if own == label]
        assert {names.count(scanner.name) for scanner in SCANNERS} == {5}
    assert {s.scanner.mpp for s in planned} == {0.25, 0.363, 0.5}
    assert plan_slides(40, 30, seed=1) != planned
    for wrong in ((3, 4, 1.8), (3, 1, 1.8), (3, 3, 0.1)):
        with pytest.raises(ValueError, match="at least two patients"):
            plan_slides(wrong[0], wrong[1], 0, wrong[2])


def test_a_lesion_changes_its_nuclei_alone(pair):
    ill, healthy = pair
    assert not healthy.lesions and len(ill.lesions) == 1
    for name in ("tissue", "thickness", "eosin", "flow"):
        assert np.array_equal(getattr(ill, name), getattr(healthy, name))
    for ours, theirs in zip(ill.glands, healthy.glands, strict=True):
        assert np.array_equal(ours.outer, theirs.outer)
    (outline,) = ill.lesions
    assert area(outline) / ill.tissue_um2 == pytest.approx(0.1, abs=0.02)
    within = inside(outline, ill.nuclei.places)
    assert set(ill.nuclei.kinds[within]) <= {TUMOUR, LYMPHOCYTE}
    assert TUMOUR not in ill.nuclei.kinds[~within] and (ill.nuclei.kinds == TUMOUR).sum() > 20
    without = ~inside(outline, healthy.nuclei.places)
    assert np.array_equal(ill.nuclei.places[~within], healthy.nuclei.places[without])
    assert np.array_equal(ill.nuclei.shapes[~within], healthy.nuclei.shapes[without])


def test_a_lesion_hardly_changes_the_mean_colour():
    scanner = SCANNERS[2]
    differences, spreads = [], []
    for seed in range(4):
        blocks = []
        for share in (0.12, None):
            section = draw_section(np.random.default_rng(seed), SIDE, share, False)
            blocks.append(SectionPainter(section, scanner).block(0, 0, 1200, 1200).astype(float))
            if share:
                y, x = np.mgrid[0:1200:4, 0:1200:4]
                places = np.stack([x, y], axis=-1).reshape(-1, 2) * 0.5
                cells = np.any([inside(outline, places) for outline in section.lesions], axis=0)
        ill, healthy = (block[::4, ::4].reshape(-1, 3)[cells] for block in blocks)
        differences.append(ill.mean(axis=0) - healthy.mean(axis=0))
        spreads.append(np.abs(ill - healthy).mean())
    assert np.abs(np.mean(differences, axis=0)).max() < 3  # of 255
    assert np.mean(spreads) > 10  # while single pixels differ


def test_blocks_fit_together_and_glass_is_not_drawn(pair):
    section = pair[0]
    painter = SectionPainter(section, SCANNERS[2], ink=1)
    whole = painter.block(0, 0, 1200, 1200)
    parts = np.concatenate(
        [
            np.concatenate([painter.block(x, y, 400, 600) for x in (0, 400, 800)], axis=1)
            for y in (0, 600)
        ]
    ).astype(int)
    # a value of a field may round to another byte
    assert (np.abs(whole - parts) > 3).mean() < 1e-5 and np.abs(whole - parts).mean() < 0.01
    assert SectionPainter(pair[1], SCANNERS[0]).block(0, 0, 64, 64) is None
    darkest = whole.reshape(-1, 3).min(axis=0)
    assert (darkest < 120).all()


def test_the_law_of_beer_and_lambert():
    scanner = SCANNERS[0]
    table = synthetic_slides.SectionPainter(
        draw_section(np.random.default_rng(0), SIDE, None, False), scanner
    )._colours
    density = 1.0 * np.array(scanner.hematoxylin) + 0.5 * np.array(scanner.eosin)
    expected = np.round(np.array(scanner.glass) * np.exp(-density))
    found = table[256 * 100 + 50].tobytes()
    assert list(found) == [*expected.astype(int), 0]
    assert list(table[0].tobytes()) == [*scanner.glass, 0]
