"""The quickstart's own wiring; `make quickstart` runs it for real."""

import csv
import json
from pathlib import Path

import pytest

import quickstart
from engine.deploy.predict import predict_coco

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_summary_names_files_that_exist(tmp_path, monkeypatch):
    """A run with one training step: everything the summary promises is there, and is right."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(quickstart, "RUNS", tmp_path)
    monkeypatch.setattr(quickstart, "OUT", tmp_path / "quickstart")
    few = "--trainer.max_epochs=1 --trainer.limit_train_batches=1 --trainer.limit_val_batches=2"
    monkeypatch.setattr(quickstart, "EXTRA", few.split())
    assert quickstart.TEST_SCENES == 200  # what `make quickstart` scores
    monkeypatch.setattr(quickstart, "TEST_SCENES", 12)
    assert quickstart.main([]) == 0
    summary = json.loads((tmp_path / "quickstart" / "summary.json").read_text())
    for name in ("annotations", "predictions", "images", "bag_predictions", "attention"):
        assert Path(summary[name]).exists()
    assert all(Path(p).is_file() for p in summary["pictures"])
    assert set(summary["checkpoints"]) == {"seg", "mil"}
    assert all(Path(p).is_file() for p in summary["checkpoints"].values())
    assert set(summary["reports"]) == {"seg", "mil"}
    assert all(10**6 < Path(p).stat().st_size < 8 * 10**6 for p in summary["reports"].values())
    for name in ("segm_map", "segm_map_50", "bag_auroc", "witness_auroc"):
        assert 0 <= summary[name] <= 1
    assert len(list(Path(summary["images"]).glob("*.png"))) == 12
    assert len(json.loads(Path(summary["annotations"]).read_text())["images"]) == 12
    images, annotations = Path(summary["images"]), Path(summary["annotations"])
    scored = predict_coco(Path(summary["checkpoints"]["seg"]), annotations, images)
    assert len(scored.rows) > 12
    assert json.loads(Path(summary["predictions"]).read_text()) == scored.rows
    with Path(summary["bag_predictions"]).open() as stream:
        assert len(list(csv.DictReader(stream))) == 500
