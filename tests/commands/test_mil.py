"""`evaluate.py mil --unit patient` as a user types it."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import evaluate


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


def scored(tmp_path, *arguments):
    out = tmp_path / "out.json"
    assert run("mil", *arguments, "--out", out) == 0
    return json.loads(out.read_text())


@pytest.fixture
def cohort(tmp_path):
    """A table of 72 slides of 24 patients, some of one slide; patients, labels and scores."""
    random = np.random.default_rng(3)
    patients = [f"p{k}" for k in [*range(24), *random.integers(0, 20, 48)]]
    labels = [int(p[1:]) % 2 for p in patients]
    scores = np.clip(random.normal(0.4 + 0.2 * np.array(labels), 0.2), 0, 1)
    rows = [f"s{k},{y},{s!r},{p},0.35\n" for k, (p, y, s) in
            enumerate(zip(patients, labels, scores.tolist(), strict=True))]  # fmt: skip
    path = tmp_path / "slides.csv"
    path.write_text("bag_id,label,score,patient_id,threshold\n" + "".join(rows))
    return path, np.array(patients), np.array(labels), scores


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_patients_are_scored(cohort, tmp_path, capsys, pool):
    path, patients, labels, scores = cohort
    names = list(dict.fromkeys(patients.tolist()))
    pooled = [getattr(scores[patients == name], pool)() for name in names]
    truth = [int(labels[patients == name][0]) for name in names]
    words = ["--predictions", path, "--unit", "patient", "--pool", pool, "--draws", 100]
    saved = tmp_path / "saved.csv"
    found = scored(tmp_path, *words, "--save-predictions", saved)
    assert saved.read_text().startswith("bag_id,label,score,patient_id,prediction,threshold\n")
    assert found["metrics"]["bag_auroc"] == pytest.approx(roc_auc_score(truth, pooled))
    correct = np.mean((np.array(pooled) >= 0.35) == np.array(truth))
    assert found["metrics"]["bag_accuracy"] == pytest.approx(correct)
    assert [row["bag_id"] for row in found["bags"]] == names
    np.testing.assert_allclose([row["score"] for row in found["bags"]], pooled)
    assert (found["unit"], found["pool"], found["threshold"]) == ("patient", pool, 0.35)
    shown = capsys.readouterr().out
    assert "24 patients, threshold 0.35" in shown
    assert f"note: 72 bags were pooled by {pool} to 24 patients" in shown
    assert "the threshold 0.35 was chosen for bags, not for patients" in shown
    # A table of patients, whose bags they are, has the same intervals.
    columns = zip(names, truth, map(float, pooled), strict=True)
    rows = [f"{name},{y},{score!r},{name},0.35\n" for name, y, score in columns]
    own = tmp_path / "patients.csv"
    own.write_text("bag_id,label,score,patient_id,threshold\n" + "".join(rows))
    again = scored(tmp_path, "--predictions", saved, "--draws", 100)
    assert again["metrics"] == found["metrics"]
    alone = scored(tmp_path, "--predictions", own, "--draws", 100)
    assert found["intervals"] == alone["intervals"]
    assert found["confusion_matrix"] == alone["confusion_matrix"]
    assert (alone["unit"], alone["pool"], alone["notes"]) == ("bag", None, [])
    given = scored(tmp_path, *words, "--threshold", 0.5)
    assert given["threshold"] == 0.5 and len(given["notes"]) == 1


def test_few_patients_are_told(cohort, tmp_path):
    path, *_ = cohort
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *(line for line in lines if ",p1" in line)]))  # 11 patients
    found = scored(tmp_path, "--predictions", path, "--unit", "patient", "--draws", 20)
    assert found["intervals"]["bag_auroc"] == [None, None]
    assert any("patients: intervals" in note for note in found["notes"])


HEAD = "bag_id,label,score,patient_id\n"


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (f"{HEAD}a,1,0.5,p\nb,0,0.5,\n", [], "bag b, line 3: patient_id is missing; name"),
        ("bag_id,label,score\na,1,0.5\nb,0,0.2\n", [], "column patient_id missing; name"),
        (f"{HEAD}a,1,0.5,p\nb,0,0.5,p\n", [], "patient p: bags with labels 0 (b), 1 (a); give"),
        (f"{HEAD}a,1,0.5,p\n", ["--unit", "bag", "--pool", "max"], "--pool has an effect with"),
        (
            "repeat,fold,bag_id,label,score,patient_id\n0,0,a,1,0.5,p\n1,0,a,1,0.4,p\n",
            [],
            "has the repeats 0, 1 of a cross-validation; keep the lines of one repeat",
        ),
    ],
)
def test_what_cannot_be_pooled_is_refused(tmp_path, capsys, text, words, message):
    path = tmp_path / "bags.csv"
    path.write_text(text)
    assert run("mil", "--predictions", path, *(words or ["--unit", "patient"])) == 2
    assert message in capsys.readouterr().err


def test_lines_without_a_patient_can_be_left_out(tmp_path):
    path = tmp_path / "bags.csv"
    path.write_text(f"{HEAD}a,1,0.5,p\nb,0,0.5,\nc,0,0.25,q\nd,0,0.75,q\n")
    words = ["--predictions", path, "--unit", "patient", "--bad-data", "skip"]
    found = scored(tmp_path, *words)
    assert [(row["bag_id"], row["score"]) for row in found["bags"]] == [("p", 0.5), ("q", 0.5)]
    assert found["skipped"] == {str(path): 1}


def test_classes_in_their_order_are_told(tmp_path, capsys):
    path = tmp_path / "bags.csv"
    path.write_text(
        "bag_id,label,score_0,score_1,score_2,patient_id\n"
        "a,0,0.9,0.1,0,p\nb,2,0.2,0,0.8,p\nc,0,0.6,0.4,0,q\nd,1,0,1,0,r\n"
    )
    words = ["--predictions", path, "--unit", "patient", "--pool", "max"]
    found = scored(tmp_path, *words)
    assert found["metrics"]["bag_accuracy"] == 1.0
    assert found["bags"][0]["score"] == pytest.approx([0.2, 0.0, 0.8])
    assert "classes count in their order" in capsys.readouterr().out


@pytest.mark.slow
def test_a_checkpoint_scores_patients(write_slides, tmp_path):
    table, folds = write_slides(64), tmp_path / "folds"
    recipe = ["--config", "configs/mil/abmil_features.yaml", "--trainer.max_epochs", 1]
    data = ["--data", table, "--data.num_workers", 0, "--folds", 2, "--repeats", 1]
    assert run("mil-cv", *recipe, *data, "--save-checkpoints", folds) == 0
    words = ["--ckpt", folds / "repeat0_fold0.ckpt", "--data", table]
    slides = scored(tmp_path, *words)["bags"]
    patients = scored(tmp_path, *words, "--unit", "patient", "--pool", "max")["bags"]
    of_patient = {}
    for row in slides:
        number = int(row["bag_id"][1:])
        of_patient.setdefault(f"p{number // 4}_{number % 2}", []).append(row["score"])
    assert {row["bag_id"]: row["score"] for row in patients} == {
        patient: max(scores) for patient, scores in of_patient.items()
    }
    unknown = write_slides(64, name="unknown", patient_id=None)
    assert run("mil", *words[:3], unknown, "--unit", "patient") == 2
