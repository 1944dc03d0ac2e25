"""`evaluate.py robustness --cells` on tables that have predictions beside them."""

import json

import pytest

import evaluate
import formats.files
from evaluation.robustness.names import CLEAN
from tests.evaluation.robustness.test_intervals import write


def test_models_of_two_tables_are_paired(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(formats.files.os, "fsync", lambda _: None)
    first = write(tmp_path / "first.csv", ["a"], [(CLEAN, 0)])
    second = write(tmp_path / "second.csv", ["b/.."], [(CLEAN, 0)])
    out = tmp_path / "out.json"
    words = ("robustness", "--cells", first, second, "--reference", "b/..", "--draws", 30)
    assert evaluate.main([*map(str, words), "--out", str(out)]) == 0
    record, told = json.loads(out.read_text()), capsys.readouterr().out
    assert record["draws"] == 30
    assert list(record["intervals"]) == ["a", "b/.."]
    clean = [record["metrics"][model]["box_map_clean"] for model in ("a", "b/..")]
    low, high = record["intervals"]["a"]["box_map_clean"]
    assert low < clean[0] < high
    assert record["difference_from"] == "b/.."
    (difference,) = record["difference"].values()
    assert set(difference["box_map_clean"]) == {"value", "low", "high", "p"}
    assert difference["box_map_clean"]["value"] == pytest.approx(clean[0] - clean[1])
    night = record["domain_intervals"]["a"]["night"]
    value = record["domains"]["a"]["night"]["box_map_ratio"]
    assert night["box_map_ratio"][0] < value < night["box_map_ratio"][1]
    assert "value" in record["domain_difference"]["a"]["night"]["box_map"]
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in told.splitlines()]
    assert ["a", "clean", f"{clean[0]:.4f}", f"{low:.4f}", f"{high:.4f}"] in rows
    assert ["a", "clean", f"{clean[0] - clean[1]:.4f}"] in [row[:3] for row in rows]
    assert "box AP: difference from b/.. on the same images" in told
