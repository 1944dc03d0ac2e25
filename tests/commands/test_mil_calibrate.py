"""`evaluate.py mil --calibrate` as a user types it, against reference libraries."""

import warnings

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from tests.commands.test_mil_subgroups import refused, scored, write


def binary(seed, count=200, start="b"):
    """Lines whose logits are doubled, and the logits."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=count)
    labels = (random.random(count) < expit(logits)).astype(int)
    rows = [
        {"bag_id": f"{start}{n}", "label": y, "score": p, "patient_id": f"{start}p{n // 2}"}
        for n, (y, p) in enumerate(zip(labels.tolist(), expit(2 * logits).tolist(), strict=True))
    ]
    return rows, labels, 2 * logits


def grades(seed, count=200, start="b"):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 3)) * 2
    labels = (random.random((count, 1)) > softmax(logits, 1).cumsum(axis=1)).sum(axis=1)
    chance = softmax(2 * logits, 1)
    rows = [
        {"bag_id": f"{start}{n}", "label": int(labels[n])}
        | {f"score_{k}": float(chance[n, k]) for k in range(3)}
        for n in range(count)
    ]
    return rows, labels, 2 * logits


def test_binary_equals_scikit_learn_and_scipy(tmp_path, capsys):
    rows, labels, logits = binary(0)
    other, truth, margin = binary(1, start="v")
    path, validation = write(tmp_path / "p.csv", rows), write(tmp_path / "v.csv", other)
    drawn = tmp_path / "f.png"
    words = ["--predictions", path, "--calibrate"]
    record = scored(tmp_path, *words, validation, "--figure", drawn)
    found = record["calibration"]
    observed, predicted = calibration_curve(labels, expit(logits), n_bins=15)
    held = [row for row in found["bins"] if row["count"]]
    assert [row["frequency"] for row in held] == pytest.approx(observed)
    assert [row["confidence"] for row in held] == pytest.approx(predicted)
    size = np.array([row["count"] for row in held])
    gaps = np.abs(observed - predicted)
    assert found["ece"] == pytest.approx(gaps @ size / 200)
    assert found["mce"] == pytest.approx(gaps.max())
    assert found["brier"] == pytest.approx(brier_score_loss(labels, expit(logits)))
    assert found["log_loss"] == pytest.approx(log_loss(labels, expit(logits)))

    def loss(logarithm):
        return np.logaddexp(0, np.where(truth == 1, -1, 1) * margin / np.exp(logarithm)).mean()

    best = minimize_scalar(loss, bounds=(-3, 4), method="bounded", options={"xatol": 1e-9})
    assert found["temperature"] == pytest.approx(np.exp(best.x), rel=1e-5)
    cooled = expit(logits / found["temperature"])
    assert found["after"]["log_loss"] == pytest.approx(log_loss(labels, cooled))
    assert found["validation"] == {"file": str(validation), "bags": 200, "skipped": {}}
    assert str(validation) in record["files"] and drawn.read_bytes().startswith(b"\x89PNG")
    assert "at temperature" in capsys.readouterr().out
    # Without a file: the same numbers and no temperature.
    alone = scored(tmp_path, *words)["calibration"]
    assert alone["temperature"] is None and "after" not in alone and alone["ece"] == found["ece"]
    # It is always there, and printed when asked for.
    capsys.readouterr()
    plain = scored(tmp_path, words[0], path)["calibration"]
    assert plain == alone and "ece" not in capsys.readouterr().out
    # Other scored bags do not move the temperature.
    swapped = [row | {"label": 1 - row["label"]} for row in rows]
    again = scored(tmp_path, words[0], write(tmp_path / "s.csv", swapped), words[2], validation)
    assert again["calibration"]["temperature"] == found["temperature"]


def test_grades_are_scored_as_classes(tmp_path):
    rows, labels, logits = grades(0)
    other, truth, margin = grades(1, start="v")
    other.append(other[0] | {"bag_id": "unknown", "label": ""})
    path, validation = write(tmp_path / "p.csv", rows), write(tmp_path / "v.csv", other)
    words = ["--predictions", path, "--task", "ordinal", "--calibrate", validation]
    found = scored(tmp_path, *words, "--figure", tmp_path / "f.png")["calibration"]
    assert found["log_loss"] == pytest.approx(log_loss(labels, softmax(logits, 1)))

    def loss(logarithm):
        return -log_softmax(margin / np.exp(logarithm), axis=1)[np.arange(200), truth].mean()

    best = minimize_scalar(loss, bounds=(-3, 4), method="bounded", options={"xatol": 1e-9})
    assert found["temperature"] == pytest.approx(np.exp(best.x), rel=1e-5)
    assert found["validation"]["bags"] == 200
    scored(tmp_path, *words[:4], "--figure", tmp_path / "grades.png")  # of predicted by true grades
    assert (tmp_path / "grades.png").read_bytes() != (tmp_path / "f.png").read_bytes()


def test_patients_of_both_tables_are_pooled(tmp_path):
    def patients(seed, start):
        rows, labels, logits = binary(seed, start=start)
        truth = np.repeat(labels[::2], 2)
        rows = [row | {"label": int(y)} for row, y in zip(rows, truth, strict=True)]
        means = expit(logits).reshape(-1, 2).mean(axis=1).tolist()
        own = [{"bag_id": f"{start}p{n}", "label": int(truth[2 * n]), "score": p}
               for n, p in enumerate(means)]  # fmt: skip
        return rows, own

    (rows, one), (other, two) = patients(0, "b"), patients(1, "v")
    names = iter("pvqw")
    p, v, q, w = (write(tmp_path / f"{next(names)}.csv", r) for r in (rows, other, one, two))
    found = scored(tmp_path, "--predictions", p, "--unit", "patient", "--calibrate", v)
    alone = scored(tmp_path, "--predictions", q, "--calibrate", w)
    for name in ("ece", "brier", "temperature"):
        assert found["calibration"][name] == pytest.approx(alone["calibration"][name])
    assert found["calibration"]["validation"]["bags"] == 100


def test_probabilities_of_0_and_1_leave_numbers_finite_or_say_why(tmp_path):
    rows, *_ = binary(0)
    other, *_ = binary(1, start="v")
    sure = other[0] | {"bag_id": "sure", "label": 1, "score": 1.0}
    path = write(tmp_path / "p.csv", rows)
    words = ["--predictions", path, "--calibrate"]
    plain = scored(tmp_path, *words, write(tmp_path / "v.csv", other))["calibration"]
    found = scored(tmp_path, *words, write(tmp_path / "v.csv", [*other, sure]))["calibration"]
    assert found["temperature"] == plain["temperature"]
    wrong = sure | {"label": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scored(tmp_path, *words, write(tmp_path / "v.csv", [*other, wrong]))["calibration"]
    assert found["temperature"] is None and "after" not in found
    assert "gives its true class the probability 0" in found["undefined"]["temperature"]
    assert np.isfinite(found["log_loss"])


def test_survival_equals_lifelines_for_all_and_each_risk_group(tmp_path, capsys):
    random = np.random.default_rng(0)
    time, event = random.integers(1, 30, 90), random.random(90) < 0.7
    risk = random.normal(size=90) - time / 20
    early, late = expit(1 - risk / 2), expit(-risk / 2)
    rows = [
        {"bag_id": f"b{n}", "time": time[n], "event": int(event[n]), "risk": risk[n],
         "survival_5": early[n], "survival_20": late[n]}
        for n in range(90)
    ]  # fmt: skip
    path, drawn = write(tmp_path / "p.csv", rows), tmp_path / "f.png"
    words = ["--predictions", path, "--times", 5, 12.5, 20, "--calibrate"]
    found = scored(tmp_path, *words, "--figure", drawn)["calibration"]
    assert drawn.read_bytes().startswith(b"\x89PNG")
    high = risk >= np.median(risk)
    parts = [(found["times"], np.ones(90, bool))]
    parts += [(g["times"], high == bool(g["group"])) for g in found["groups"]]
    assert len(parts) == 3
    for times, own in parts:
        fitted = KaplanMeierFitter().fit(time[own], event[own])
        assert [row["observed"] for row in times] == pytest.approx(
            fitted.predict([5, 12.5, 20]).tolist()
        )
        mean = [early[own].mean(), (early[own] + late[own]).mean() / 2, late[own].mean()]
        assert [row["predicted"] for row in times] == pytest.approx(mean)
    assert "predicted survival beside Kaplan-Meier" in capsys.readouterr().out
    scored(tmp_path, *words, path)  # has no temperature, so nothing is fitted to shared bags
    assert "survival has no temperature" in capsys.readouterr().out
    risks = [{k: v for k, v in row.items() if "survival" not in k} for row in rows]
    words[1] = write(tmp_path / "q.csv", risks)
    assert "--calibrate needs predicted survival" in refused(capsys, *words)


def test_what_cannot_be_calibrated_is_refused(tmp_path, capsys):
    rows, *_ = binary(0, 20)
    path = write(tmp_path / "p.csv", rows)
    words = ["--predictions", path, "--calibrate"]
    shown = refused(capsys, *words, path)
    assert "bags that are scored too: b0, b1, b10 and 17 more; leave them out" in shown
    assert "patients that are scored too: bp0, bp1, bp2 and 7 more" in shown
    scored(tmp_path, *words, path, "--allow-overlap")
    other = [row | {"bag_id": f"v{n}"} for n, row in enumerate(rows)]
    shown = refused(capsys, *words, write(tmp_path / "v.csv", other))
    assert "patients that are scored too" in shown and "bags that" not in shown
    classes, *_ = grades(0, 20, "v")
    shown = refused(capsys, *words, write(tmp_path / "v.csv", classes))
    assert "v.csv: has the columns of multiclass, the scored bags are of binary" in shown
    assert "v.csv: no such file" in refused(capsys, *words, tmp_path / "none" / "v.csv")
    renamed = [{k.replace("score_", "score_x"): v for k, v in row.items()} for row in classes]
    shown = refused(capsys, "--predictions", write(path, grades(1, 20)[0]), "--calibrate",
                    write(tmp_path / "v.csv", renamed))  # fmt: skip
    assert "the classes are x0, x1, x2, those of the scored bags 0, 1, 2" in shown
    values = [{"bag_id": n, "target_a": n, "prediction_a": n} for n in range(5)]
    shown = refused(capsys, "--predictions", write(path, values), "--calibrate")
    assert "predicted values have none; leave it out" in shown
