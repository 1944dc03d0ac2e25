"""`evaluate.py robustness` on tables of cells."""

import json

import pytest

import evaluate
from evaluation.robustness.names import BENCHMARK
from evaluation.robustness.writer import CellWriter, Origin
from tests.support.cells import PUBLISHED, rows, write


def run(*words):
    return evaluate.main(["robustness", *map(str, words)])


def printed(capsys):
    """Return the lines of the output without the lines of the tables."""
    shown = capsys.readouterr()
    assert shown.err == ""
    return [line.strip("│ ").replace(" │ ", "|") for line in shown.out.splitlines()]


def test_two_models_with_a_reference(tmp_path, capsys):
    first = write(tmp_path / "first.csv", rows("a", loss=0.1))
    second = write(tmp_path / "second.csv", rows("b", BENCHMARK, loss=0.12))
    out = tmp_path / "out.json"
    words = ("--cells", first, second, "--reference", "a", "--out", out)
    assert run(*words) == 0
    lines = [[cell.strip() for cell in line.split("|")] for line in printed(capsys)]
    mpc = 0.85 - 3 * 0.12 - 3 * 0.001 * 8  # mean severity 3, mean number of a corruption 8
    assert ["b", "0.8500", f"{mpc:.4f}", f"{mpc / 0.85:.4f}", "-"] in [row[:5] for row in lines]
    assert ["a", "1.0000", "1.0000"] in [[row[0], *row[-2:]] for row in lines]
    fog = 3 * (0.1 + 0.001 * 10), 3 * (0.12 + 0.001 * 10)
    cells = [f"{0.8 - loss:.4f}" for loss in fog]
    cd = f"{(0.2 + fog[1]) / (0.2 + fog[0]):.4f}"
    assert ["fog", "weather", *cells, cd] in lines
    record = json.loads(out.read_text())
    assert list(record["metrics"]) == ["a", "b"]
    assert record["metrics"]["a"]["segm_mcd"] == record["metrics"]["a"]["box_mcd"] == 1
    assert record["metrics"]["b"]["box_map_mpc"] == pytest.approx(mpc, rel=1e-12)
    assert record["corruptions"]["b"]["fog"]["segm_map"] == pytest.approx(0.8 - fog[1], rel=1e-12)
    assert record["cells"]["a"]["snow"]["2"]["segm_map_50"] == 0.9 - 0.2 - 0.001 * 8 * 2
    assert record["cells"]["a"]["clean"]["0"]["segm_map"] == 0.8
    assert set(record["files"]) == {str(first), str(second)}
    assert (record["path"], record["reference"]) == (None, "a")
    assert [note.partition(", because")[0] for note in record["notes"]] == [
        f"no intervals for the models of {path}" for path in (first, second)
    ]
    assert record["intervals"] == record["difference"] == {}


def test_an_unfinished_table_says_so(tmp_path, capsys):
    path, out = tmp_path / "cells.csv", tmp_path / "out.json"
    with CellWriter(path, Origin({"a": "1"}, data="d", seed=0, path="exact")) as table:
        table.add("a", "clean", 0, {"segm_map": 0.5})
        table.add("a", "fog", 1, {"segm_map": 0.4})
    figure = tmp_path / "figure.png"
    assert run("--cells", path, "--out", out, "--figure", figure) == 0
    notes = [line for line in printed(capsys) if line.startswith("note: a: no mPC and rPC of segm")]
    assert "because 74 cells are missing: gaussian_noise, shot_noise" in notes[0]
    record = json.loads(out.read_text())
    assert record["metrics"]["a"] == {
        "segm_map_clean": 0.5, "segm_map_mpc": None, "segm_map_rpc": None
    }  # fmt: skip
    assert record["corruptions"]["a"]["fog"] == {"segm_map": None}
    assert record["path"] == "exact"
    assert notes[0] == f"note: {record['notes'][0]}"
    assert figure.stat().st_size > 1000


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"{PUBLISHED} is not here")
def test_the_published_table(tmp_path, capsys):
    assert run("--cells", PUBLISHED, "--out", tmp_path / "out.json") == 0
    lines = [line.replace(" ", "") for line in printed(capsys)]
    assert "coco_c_mask_rcnn_r50|0.3416|0.1678|0.4912|0.1798" in lines
    assert "coco_c_mask_rcnn_r50|0.3727|0.1868|0.5014|0.1994" in lines


def test_wrong_input(tmp_path, capsys):
    good = write(tmp_path / "good.csv", rows("a", BENCHMARK[:1]))
    bad = write(tmp_path / "bad.csv", ["b,fog,6,segm,map,0.1", "b,fog,1,segm,map,nan"])
    lacking = write(
        tmp_path / "lacking.csv", ["b,fog,1,segm,0.1"], "model,corruption,severity,task,value"
    )
    twice = write(tmp_path / "twice.csv", ["b,fog,1,segm,map,0.1"] * 2)
    text = write(tmp_path / "text.csv", ["b,fog,1,segm,map,good"])
    for words, told in (
        (["--cells", lacking], f"{lacking}: has no column metric"),
        (["--cells", good, twice], f"{twice}, line 3: segm_map of b fog 1 is in line 2, too"),
        (["--cells", text], f"{text}, line 2: value is 'good'"),
        (["--cells", good, "--reference", "c"], "--reference c: no such model; there are a"),
        (["--cells", good, good], f"{good}, model a: is also in {good}"),
        (["--cells", good, bad], f"{bad}, line 2: severity is '6'; write 1 to 5"),
        (["--cells", good, bad], f"{bad}, line 3: value is 'nan'; write a fraction"),
        (["--cells", tmp_path / "none.csv"], "none.csv: no such file"),
        (["--cells", good, "--figure", tmp_path / "a.txt"], "a figure is written as .png"),
        (["--cells", good, "--out", good], "would replace it"),
    ):
        out = [] if "--out" in words else ["--out", tmp_path / "out.json"]
        assert run(*words, *out) == 2
        shown = capsys.readouterr()
        assert told in shown.err
        assert "Traceback" not in shown.err
        assert shown.out == ""
    assert not (tmp_path / "out.json").exists()
