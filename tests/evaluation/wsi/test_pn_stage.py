"""Stages of CAMELYON17, by function and by command."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

import evaluate
from evaluation.wsi.pn_stage import STAGES, pn_stage, quadratic_kappa

SLIDES = [f"patient_{p:03d}_node_{n}" for p in range(3) for n in range(5)]
TRUTH = [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 2, 0, 1, 0]  # pN0, pN0(i+), pN1


def write(path, columns, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return path


def stage(folder, columns, rows, truth=TRUTH):
    """Run the command; return the exit code and the record, or None."""
    patients = [s[:11] for s in SLIDES]
    write(
        folder / "t.csv",
        ["slide_id", "patient_id", "label"],
        zip(SLIDES, patients, truth, strict=True),
    )
    write(folder / "p.csv", columns, rows)
    words = ["--predictions", folder / "p.csv", "--truth", folder / "t.csv", "--out", folder / "o"]
    code = evaluate.main(["pn-stage", *map(str, words)])
    return code, json.loads((folder / "o").read_text()) if code == 0 else None


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("00000", "pN0"), ("10000", "pN0(i+)"), ("11111", "pN0(i+)"),
        ("20000", "pN1mi"), ("22222", "pN1mi"), ("21111", "pN1mi"),
        ("30000", "pN1"), ("32200", "pN1"), ("33300", "pN1"), ("31111", "pN1"),
        ("32220", "pN2"), ("33330", "pN2"), ("32222", "pN2"), ("33333", "pN2"),
    ],
)  # fmt: skip
def test_the_rules(nodes, expected):
    assert pn_stage([int(n) for n in nodes]) == expected


def test_kappa_equals_that_of_the_organisers_library():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, 60)
    says = np.clip(true + rng.integers(-1, 3, 60), 0, 4)
    table = np.zeros((5, 5), dtype=np.int64)
    np.add.at(table, (true, says), 1)
    expected = cohen_kappa_score(true, says, labels=range(5), weights="quadratic")
    assert quadratic_kappa(table) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(quadratic_kappa(np.diag([7, 0, 0, 0, 0])))


@pytest.mark.parametrize("names", [["0", "1", "2", "3"], ["itc", "macro", "micro", "negative"]])
def test_scores_numbers_and_labels_as_predictions(names, tmp_path, capsys):
    """Numbers in a column `prediction` count the columns of the scores, as `predict` writes it."""
    nodes = ["negative", "itc", "micro", "macro"]
    place = {n: names.index(str(n) if names[0] == "0" else nodes[n]) for n in range(4)}
    scores = [[0.7 if k == place[n] else 0.1 for k in range(4)] for n in TRUTH]
    columns = [f"score_{name}" for name in names]
    pairs = list(zip(SLIDES, scores, TRUTH, strict=True))
    for given, rows in [
        (["bag_id", *columns], [[s, *values] for s, values, _ in pairs]),
        (
            ["bag_id", "label", *columns, "prediction"],
            [[s, 0, *[0.25] * 4, place[n]] for s, _, n in pairs],
        ),
        (["slide_id", "label"], [[s, n] for s, _, n in pairs]),
        (["slide_id", "prediction"], [[s, nodes[n].upper()] for s, _, n in pairs]),
    ]:
        code, record = stage(tmp_path, given, rows)
        assert code == 0
        assert record["metrics"] == {"stage_kappa": 1.0}
    predicted = {"patient_000": "pN0", "patient_001": "pN0(i+)", "patient_002": "pN1"}
    assert record["stages"]["predicted"] == predicted
    assert record["stages"]["counts"] == dict(zip(STAGES, [1, 1, 0, 1, 0], strict=True))
    assert "stage_kappa 1.0000" in capsys.readouterr().out


def test_wrong_stages_and_patients_without_a_prediction(tmp_path):
    """Distances 2, 0 and 3 of stages 0, 1, 3 against 2, 1, 0, by hand."""
    wrong = [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    rows = list(zip(SLIDES, wrong, strict=True))
    _, record = stage(tmp_path, ["bag_id", "prediction"], rows)
    expected = sum((t - p) ** 2 for t in (0, 1, 3) for p in (2, 1, 0)) / 3
    assert record["metrics"]["stage_kappa"] == pytest.approx(1 - 13 / expected)
    _, record = stage(tmp_path, ["bag_id", "prediction"], rows[:5])
    assert record["stages"]["true"] == {"patient_000": "pN0"}
    assert record["notes"] == [f"2 patients of {tmp_path / 't.csv'} have no prediction"]


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (["bag_id", "prediction"], [[s, 0] for s in SLIDES[:4]], "has no prediction for"),
        (["bag_id", "prediction"], [["x", 0]], "slide x: the slide is not in"),
        (["bag_id", "prediction"], [[SLIDES[0], 4]], "line 2: '4' is no class"),
        (["bag_id", "prediction"], [[SLIDES[0], 1]] * 2, "line 3: the slide occurs twice"),
        (["bag_id", "score", "prediction"], [[SLIDES[0], 0.7, 1]], "need a score of each class"),
        (["bag_id", "score_0", "score_1"], [[SLIDES[0], 0.7, 0.3]], "need a score of each class"),
        (["bag_id", *(f"score_{k}" for k in range(4))], [[SLIDES[0], 1, 0, 0, ""]], "is no class"),
        (["bag_id"], [[SLIDES[0]]], "no class is predicted"),
        (["name", "prediction"], [[SLIDES[0], 1]], "column slide_id is missing"),
        (["bag_id", "prediction"], [], "no slide in the file"),
    ],
)
def test_what_is_refused(columns, rows, message, tmp_path, capsys):
    assert stage(tmp_path, columns, rows)[0] == 2
    error = capsys.readouterr().err
    assert message in error
    assert "; " in error  # a remedy


def test_a_patient_of_four_slides_has_no_stage(tmp_path, capsys):
    truth = write(
        tmp_path / "t.csv", ["slide_id", "label"], zip(SLIDES[:4], TRUTH[:4], strict=True)
    )
    words = ["pn-stage", "--predictions", str(truth), "--truth", str(truth)]
    assert evaluate.main(words) == 2
    assert "patient patient_000: has 4 slides; a stage needs 5" in capsys.readouterr().err
