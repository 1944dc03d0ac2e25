"""`python quickstart.py wsi`, on fewer and smaller slides."""

import csv
import functools
import json
from pathlib import Path

import pytest

import quickstart
from datamodules.wsi import synthetic_slides

ROOT = Path(__file__).resolve().parents[2]


def test_another_word_is_refused(capsys):
    assert quickstart.main(["slides"]) == 2
    assert "quickstart.py [wsi]" in capsys.readouterr().err


@pytest.mark.slow
def test_from_slides_to_a_summary(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    small = functools.partial(synthetic_slides.write_slides, side_mm=0.7)
    monkeypatch.setattr(synthetic_slides, "write_slides", small)
    monkeypatch.setattr(quickstart, "RUNS", tmp_path)
    monkeypatch.setattr(quickstart, "WSI", tmp_path / "quickstart_wsi")
    monkeypatch.setattr(quickstart, "SLIDES", 16)
    monkeypatch.setattr(quickstart, "PATIENTS", 12)
    few = {name: (recipe, 2) for name, (recipe, _) in quickstart.SLIDE_MODELS.items()}
    monkeypatch.setattr(quickstart, "SLIDE_MODELS", few)
    assert quickstart.main(["wsi"]) == 0
    summary = json.loads((tmp_path / "quickstart_wsi/summary.json").read_text())
    assert {"slides", "table", "lesions", "features", "predictions", "attention"} <= set(summary)
    assert {"colour_auroc", "seconds", "seconds_by_step", "pictures"} <= set(summary)
    patches = 0
    for file in Path(summary["features"]).glob("*.h5"):
        patches += rows_of(file)
    for name in ("abmil", "mhim"):
        assert 0 <= summary["slide_auroc"][name] <= 1
        assert 0 <= summary["lesion_patch_auroc"][name] <= 1
        slides = table(summary["predictions"][name])
        assert sorted(row["bag_id"] for row in slides) == [f"slide_{n:03d}" for n in range(16)]
        assert {"bag_id", "label", "score", "patient_id", "fold"} <= set(slides[0])
        found = table(summary["attention"][name])
        assert {"bag_id", "instance", "attention", "x", "y"} <= set(found[0])
        assert len(found) == patches  # each slide once, by the fold that did not see it
    assert all(Path(path).is_file() for path in summary["pictures"])


def rows_of(file):
    import h5py

    with h5py.File(file) as content:
        return len(content["features"])


def table(path):
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))
