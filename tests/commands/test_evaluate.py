"""The evaluation scripts as a user types them."""

import json
import sys
from pathlib import Path

import pytest

import evaluate

FIXTURE = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_eval_fixture"
STATS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large",
         "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large")  # fmt: skip


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


@pytest.fixture
def fixture():
    if not FIXTURE.is_dir():
        pytest.skip("the COCO fixture is not beside this checkout (../shared/data)")
    return FIXTURE


@pytest.mark.parametrize("backend", ["fast", "pycocotools"])
@pytest.mark.parametrize(("kind", "prefix"), [("segm", "segm"), ("bbox", "box")])
def test_published_coco_numbers(fixture, tmp_path, backend, kind, prefix):
    out = tmp_path / "m.json"
    truth = fixture / "instances_val2014_100.json"
    predictions = fixture / f"instances_val2014_fake{kind}100_results.json"
    code = run(
        "coco", "--predictions", predictions, "--annotations", truth,
        "--backend", backend, "--out", out,
    )  # fmt: skip
    record = json.loads(out.read_text())
    expected = json.loads((fixture / "expected_stats.json").read_text())[kind]
    assert code == 0
    found = [record["metrics"][f"{prefix}_{name}"] for name in STATS]
    assert found == pytest.approx(expected, abs=1e-12)
    assert str(truth) in record["files"]
    assert "torch" in record["versions"]


def test_operating_point_of_two_files_gives_a_paired_difference(tmp_path):
    category, image = {"id": 3, "name": "a"}, {"id": 1, "height": 10, "width": 10}
    truth = {
        "images": [image, image | {"id": 2}],
        "categories": [category],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 3,
                "bbox": [0, 0, 4, 4],
                "area": 16,
                "iscrowd": 0,
            }
        ],
    }
    hit = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "score": 0.9}
    false_alarm = hit | {"image_id": 2}
    paths = [tmp_path / n for n in ("truth.json", "a.json", "b.json", "out.json")]
    for path, content in zip(paths, (truth, [hit], [hit, false_alarm]), strict=False):
        path.write_text(json.dumps(content))
    code = run(
        "operating-point", "--predictions", paths[1], paths[2], "--annotations", paths[0],
        "--out", paths[3],
    )  # fmt: skip
    assert code == 0
    record = json.loads(paths[3].read_text())
    precision = [record["metrics"][str(p)]["micro_precision"] for p in paths[1:3]]
    assert precision == [1.0, 0.5]
    assert record["difference"]["micro_precision"]["value"] == 0.5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("bag_id,label\na,1\n", "score"),
        ("bag_id,label,score\na,1,0.5\na,0,0.5\n", "bag a occurs more than once"),
        ("bag_id,label,score\na,1,\n", "line 2"),
        ("bag_id,label,score\na,1,1.5\n", "probabilities in [0, 1]"),
        ("bag_id,label,score\na,2,0.5\n", "bag a, line 2: label is '2'"),
        ("bag_id,label,score\n", "no bags"),
    ],
)
def test_a_wrong_bag_table_is_refused_with_code_2(tmp_path, capsys, rows, message):
    path = tmp_path / "bags.csv"
    path.write_text(rows)
    assert run("mil", "--predictions", path) == 2
    shown = capsys.readouterr().err
    assert "bags.csv" in shown
    assert message in shown


def test_missing_files_and_missing_flags(tmp_path, capsys):
    missing = tmp_path / "nothere.json"
    assert run("coco", "--predictions", missing, "--annotations", missing) == 2
    assert "nothere.json" in capsys.readouterr().err
    assert run("mil", "--ckpt", missing) == 2
    assert "--data" in capsys.readouterr().err
    (tmp_path / "c.ckpt").write_bytes(b"broken")
    assert run("mil", "--ckpt", tmp_path / "c.ckpt", "--data", missing) == 2
    assert "c.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize("by_lightning", [False, True])
def test_a_stopped_command_says_so_and_returns_130(tmp_path, monkeypatch, capsys, by_lightning):
    def stopped(args):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if by_lightning:
                sys.exit(1)
            raise

    monkeypatch.setattr("commands.mil.run", stopped)
    assert evaluate.main(["mil", "--predictions", str(tmp_path / "a.csv")]) == 130
    assert capsys.readouterr().err == "stopped by SIGINT\n"


def test_other_exits_pass(tmp_path, monkeypatch):
    monkeypatch.setattr("commands.mil.run", lambda args: sys.exit(3))
    with pytest.raises(SystemExit, match="3"):
        evaluate.main(["mil", "--predictions", str(tmp_path / "a.csv")])
