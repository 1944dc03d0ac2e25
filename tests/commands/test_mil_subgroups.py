"""`evaluate.py mil --by` as a user types it, against a second call on the filtered table."""

import csv
import json

import numpy as np
import pytest

import evaluate


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


def scored(tmp_path, *arguments):
    out = tmp_path / "out.json"
    assert run("mil", "--draws", 30, *arguments, "--out", out) == 0
    return json.loads(out.read_text())


def refused(capsys, *arguments):
    capsys.readouterr()
    assert run("mil", *arguments) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown


def write(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def predictions(task, count=90):
    """Return lines of predictions; column site is Aachen, Berlin or empty, patients have two."""
    random = np.random.default_rng(2)
    label = random.integers(0, 3, count)
    chance = random.dirichlet(np.ones(3), count)
    columns = {
        "binary": {"label": label % 2, "score": chance[:, 0]},
        "multiclass": {"label": label, **{f"score_{k}": chance[:, k] for k in range(3)}},
        "multilabel": {
            **{f"label_{k}": label == k for k in range(3)},
            **{f"score_{k}": chance[:, k] for k in range(3)},
        },
        "ordinal": {"label": label, **{f"score_{k}": chance[:, k] for k in range(3)}},
        "regression": {"target_a": label + 0.5, "prediction_a": chance[:, 0] * 4},
        "times": {
            "time": random.integers(1, 20, count), "event": label > 0, "risk": chance[:, 0],
            "survival_5": 1 - chance[:, 0] / 2, "survival_25": 1 - chance[:, 0],
        },
    }[task]  # fmt: skip
    columns = {k: (v * 1).tolist() for k, v in columns.items()}
    sites = ["Aachen", "Berlin", "Berlin", ""]
    return [
        {"bag_id": f"b{n}", **{k: v[n] for k, v in columns.items()}, "site": sites[n % 4]}
        for n in range(count)
    ]


@pytest.mark.parametrize(
    "task", ["binary", "multiclass", "multilabel", "ordinal", "regression", "times"]
)
def test_subgroups_equal_a_filtered_table(task, tmp_path, capsys):
    rows = predictions(task)
    path, part = write(tmp_path / "p.csv", rows), tmp_path / "part.csv"
    words = ["--task", "ordinal"] if task == "ordinal" else []
    words += ["--threshold", 0.4] if task in ("binary", "multilabel") else []
    fixed = ["--times", 4, 8, "--tau", 15] if task == "times" else []
    found = scored(tmp_path, "--predictions", path, *words, *fixed, "--by", "site")
    shown = capsys.readouterr().out
    assert "by site: bags, metrics with 95 % intervals" in shown and "largest gaps by site" in shown
    assert list(found["subgroups"]["site"]) == ["Aachen", "Berlin", "(no value)"]
    for name, one in found["subgroups"]["site"].items():
        own = [row for row in rows if row["site"] == name.removeprefix("(no value)")]
        assert one["bags"] == len(own)
        alone = scored(tmp_path, "--predictions", write(part, own), *words, *fixed)
        for metric, value in alone["metrics"].items():
            if metric not in ("bag_c_index_ipcw", "bag_ibs", "bag_td_auc"):  # censoring is of all
                assert one["metrics"][metric] == value, metric
    values = {n: found["subgroups"]["site"][n]["metrics"] for n in ("Aachen", "Berlin")}
    for metric, entry in found["gaps"]["site"].items():
        assert entry["gap"] == abs(values["Aachen"][metric] - values["Berlin"][metric])
        assert values[entry["largest"]][metric] - values[entry["smallest"]][metric] == entry["gap"]


def test_columns_of_a_table_and_of_the_predictions(tmp_path, capsys):
    rows = predictions("binary")
    path = write(tmp_path / "p.csv", rows)
    table = [{"slide_id": r["bag_id"], "scanner": "AB"[n % 2]} for n, r in enumerate(rows[:80])]
    words = ["--predictions", path, "--table", write(tmp_path / "t.csv", table)]
    found = scored(tmp_path, *words, "--by", "scanner", "site", "site")
    assert list(found["subgroups"]) == list(found["gaps"]) == ["scanner", "site"]
    counts = {name: one["bags"] for name, one in found["subgroups"]["scanner"].items()}
    assert counts == {"A": 40, "B": 40, "(no value)": 10}
    assert len(found["files"]) == 2
    shown = capsys.readouterr().out
    assert "10 bags are not in " in shown and "found by slide_id" in shown
    shown = refused(capsys, *words, "--by", "scaner")
    assert "has slide_id, scanner;" in shown and "did you mean 'scanner'?" in shown
    assert "--table has an effect with --by" in refused(capsys, *words)


def test_patients_are_scored_by_their_own_value(tmp_path, capsys):
    rows = [
        row | {"patient_id": f"p{n // 2}", "label": n // 2 % 2, "site": "XY"[n // 40], "eye": n % 2}
        for n, row in enumerate(predictions("binary", 80))
    ]
    path = write(tmp_path / "p.csv", rows)
    words = ["--predictions", path, "--unit", "patient"]
    found = scored(tmp_path, *words, "--by", "site")
    assert [one["bags"] for one in found["subgroups"]["site"].values()] == [20, 20]
    alone = scored(tmp_path, *words[:1], write(tmp_path / "x.csv", rows[:40]), *words[2:])
    assert found["subgroups"]["site"]["X"]["metrics"] == alone["metrics"]
    shown = refused(capsys, *words, "--by", "eye")
    assert "bags with the values 0 (b4), 1 (b5) of eye); score bags" in shown
    by_patient = [{"patient_id": f"p{n}", "sex": "fm"[n % 2]} for n in range(40)]
    table = write(tmp_path / "t.csv", by_patient)
    for unit, count in (("patient", 20), ("bag", 40)):
        words[-1] = unit
        found = scored(tmp_path, *words, "--by", "sex", "--table", table)
        assert [one["bags"] for one in found["subgroups"]["sex"].values()] == [count, count]


@pytest.mark.slow
def test_a_checkpoint_takes_columns_of_its_table_of_slides(write_slides, tmp_path, capsys):
    sites = ["X" if n < 40 else "Y" for n in range(64)]
    table, folds = write_slides(64, site=sites), tmp_path / "folds"
    recipe = ["--config", "configs/mil/abmil_features.yaml", "--trainer.max_epochs", 1]
    data = ["--data", table, "--data.num_workers", 0, "--data.bag", "patient"]
    data += ["--folds", 2, "--repeats", 1]
    assert run("mil-cv", *recipe, *data, "--save-checkpoints", folds) == 0
    other = write_slides(48, name="other", site=sites[:48])
    model = [
        "--ckpt",
        folds / "repeat0_fold0.ckpt",
        "--allow-overlap",
    ]  # with patients of the folds
    words = [*model, "--data", other, "--by", "site"]
    found = scored(tmp_path, *words, "--calibrate")
    assert "slides.csv, found by patient_id" in capsys.readouterr().out
    assert [one["bags"] for one in found["subgroups"]["site"].values()] == [20, 4]
    assert found["calibration"]["temperature"] is None and len(found["calibration"]["bins"]) == 15
    recipe = tmp_path / "r.yaml"
    section = {
        "class_path": "datamodules.mil.features.FeatureBagsDataModule",
        "init_args": {"table": str(other), "features": str(other.with_name("features")),
                      "num_workers": 0, "test_fraction": 0.5},
    }  # fmt: skip
    recipe.write_text(json.dumps({"data": section}))
    words = [*model, "--data", recipe, "--by"]
    found = scored(tmp_path, *words, "site")
    named = {row["bag_id"] for row in found["bags"]}
    patients = {f"p{n // 4}_{n % 2}": sites[n] for n in range(48)}
    counts = {name: one["bags"] for name, one in found["subgroups"]["site"].items()}
    assert counts == {s: sum(patients[p] == s for p in named) for s in "XY"}
    assert "no such column" in refused(capsys, *words, "unknown")
