"""`evaluate.py coco --errors` as a user types it."""

import json

import pytest

import evaluate
from evaluation.report.errors import FIXES, KINDS
from tests.support.error_scenes import random_scenes


def scored(folder, truth, rows, *words):
    paths = [folder / name for name in ("truth.json", "rows.json", "out.json")]
    for path, content in zip(paths, (truth, rows), strict=False):
        path.write_text(json.dumps(content))
    given = ["--annotations", paths[0], "--predictions", paths[1], "--out", paths[2], *words]
    assert evaluate.main(["coco", *map(str, given)]) == 0
    return json.loads(paths[2].read_text())


def test_errors_and_calibration_of_masks_and_boxes(tmp_path, capsys):
    truth, rows = random_scenes(1)
    record = scored(tmp_path, truth, rows, "--errors")
    assert list(record["errors"]) == list(record["error_counts"]) == ["segm", "box"]
    for kind in ("segm", "box"):
        assert tuple(record["errors"][kind]) == FIXES
        assert tuple(record["error_counts"][kind]) == KINDS
    assert record["errors"]["segm"]["loc"] == pytest.approx(0.054508335, abs=1e-6)  # tidecv
    assert record["error_counts"]["box"]["loc"] == 10
    found = record["calibration"]
    assert found["of"] == "segm" and found["temperature"] is None and "after" not in found
    names = {"ece", "ece_equal_mass", "mce", "brier", "log_loss", "bins", "band", "brier_parts"}
    assert names <= found.keys() and len(found["bins"]) == len(found["band"]["low"]) == 15
    shown = capsys.readouterr().out
    assert "AP50 gained without an error, box, best 100 of each image" in shown
    assert "calibration: scores and matches at IoU 0.5, segm" in shown and "lie outside" in shown
    plain = scored(tmp_path, truth, rows)
    assert not {"errors", "error_counts", "calibration"} & plain.keys()
    assert plain["metrics"] == record["metrics"]
    capsys.readouterr()
    capped = scored(tmp_path, truth, rows, "--errors", "--max-dets", 2, "--class-agnostic")
    counts = capped["error_counts"]["segm"]
    assert counts["cls"] == 0 and "best 2 of each" in capsys.readouterr().out
    assert sum(counts.values()) - counts["miss"] <= 2 * len(truth["images"])


def test_no_detections_and_scores_above_1(tmp_path, capsys):
    truth, rows = random_scenes(1)
    record = scored(tmp_path, truth, [], "--errors")
    assert record["calibration"] is None and record["errors"]["segm"]["miss"] is None
    assert "note: no calibration: there is no detection" in capsys.readouterr().out
    sure = [row | {"score": 1.0} for row in rows]
    found = scored(tmp_path, truth, sure, "--errors")["calibration"]
    assert found["log_loss"] is None and found["ece"] > 0
    assert "log_loss is undefined: a detection of score 1 is no match" in capsys.readouterr().out
    high = [row | {"score": row["score"] + 1} for row in rows]
    record = scored(tmp_path, truth, high, "--errors")
    assert record["calibration"] is None and record["error_counts"]["segm"]["bkg"] > 0
