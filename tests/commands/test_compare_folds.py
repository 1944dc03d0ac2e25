"""`evaluate.py compare` of two cross-validations, as a user types it."""

import json

import numpy as np
import pytest

import evaluate
from evaluation.mil.cross_validation import summarise_folds
from evaluation.statistics.resampled_t import corrected_resampled_t_test

LABELS = np.arange(30) % 2
FOLDS = np.stack([np.arange(30) // 6, np.random.default_rng(3).permutation(30) % 5])


def run(*arguments):
    return evaluate.main([str(a) for a in arguments])


def compared(tmp_path, *arguments):
    out = tmp_path / "out.json"
    assert run("compare", *arguments, "--out", out) == 0
    return json.loads(out.read_text())


@pytest.fixture
def results(tmp_path):
    """Write JSON and table of two methods on 30 bags in 2 x 5 folds; return their metrics."""
    random = np.random.default_rng(0)
    found = []
    for name, skill in (("a", 0.5), ("b", 0.1)):
        scores = np.clip(random.random((2, 30)) * (1 - skill) + LABELS * skill, 0, 1)
        thresholds = {(r, f): 0.25 + 0.1 * f for r in range(2) for f in range(5)}
        metrics = summarise_folds(LABELS, scores, FOLDS, "binary", thresholds)
        record = {"files": {f"{name}.yaml": name, "bags.npz": "hash"}, "seed": 0, "repeats": 2}
        (tmp_path / f"{name}.json").write_text(json.dumps(record | {"metrics": metrics}))
        lines = ["repeat,fold,bag_id,label,score,prediction,threshold"]
        for (repeat, fold), threshold in sorted(thresholds.items()):
            for bag in np.flatnonzero(FOLDS[repeat] == fold):
                score = float(scores[repeat, bag])
                decided = int(score >= threshold)
                lines.append(f"{repeat},{fold},{bag},{LABELS[bag]},{score!r},{decided},{threshold}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
        found.append(metrics)
    return found


def test_json_and_tables_give_the_same_paired_test(results, tmp_path, capsys):
    one, two = ({name: summary["folds"] for name, summary in r.items()} for r in results)
    expected = {name: corrected_resampled_t_test(one[name], two[name], 1 / 4) for name in one}
    for kind in ("json", "csv"):
        files = [tmp_path / f"{name}.{kind}" for name in "ab"]
        found = compared(tmp_path, "--predictions", *files)
        assert "10 folds, corrected resampled t-test" in capsys.readouterr().out
        assert set(found["difference"]) == set(expected)
        for name, test in expected.items():
            for key in ("first", "second", "value", "low", "high", "p", "folds"):
                assert found["difference"][name][key] == pytest.approx(getattr(test, key))
        mean = found["metrics"][str(files[0])]["bag_auroc"]
        assert mean == pytest.approx(results[0]["bag_auroc"]["mean"])
        assert found["test_to_train"] == pytest.approx(0.25)
    assert found["bags"] == 30


def test_tables_of_one_division_need_no_repeat(results, tmp_path):
    for name in "ab":
        lines = (tmp_path / f"{name}.csv").read_text().splitlines()
        rows = [line.split(",", 1) for line in lines]
        kept = [row[1] for row in rows if row[0] in ("repeat", "0")]
        (tmp_path / f"{name}.csv").write_text("\n".join(kept) + "\n")
    found = compared(tmp_path, "--predictions", tmp_path / "a.csv", tmp_path / "b.csv")
    assert found["folds"] == 5
    first = results[0]["bag_auroc"]["folds"][:5]
    assert found["difference"]["bag_auroc"]["first"] == pytest.approx(np.mean(first))


def test_few_bags_and_folds_without_a_value_are_told(results, tmp_path, capsys):
    for name in "ab":
        lines = (tmp_path / f"{name}.csv").read_text().splitlines()
        kept = [line for line in lines if line.split(",")[2] not in map(str, range(1, 16, 2))]
        (tmp_path / f"{name}.csv").write_text("\n".join(kept) + "\n")
    found = compared(tmp_path, "--predictions", tmp_path / "a.csv", tmp_path / "b.csv")
    assert found["notes"][0].startswith("class 1 has 7 bags: intervals and p-values are withheld")
    assert found["difference"]["bag_accuracy"]["p"] is None
    assert found["notes"][1].startswith("left out are folds in which a metric is not defined: bag_")
    assert "note: class 1 has 7 bags" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ({}, ["a.json", "plain.csv"], "a.json is a cross-validation and "),
        ({}, ["plain.csv", "a.csv"], "a.csv is a cross-validation and "),
        ({}, ["a.json", "b.csv"], "the JSON of both cross-validations or the tables of both"),
        ({"seed": 1}, ["a.json", "b.json"], "has another seed); run mil-cv for both"),
        ({"repeats": 1}, ["a.json", "b.json"], "has other repeats); run mil-cv for both"),
        ({"files": {"x.npz": "other"}}, ["a.json", "b.json"], "has other data); run mil-cv"),
        ({"repeats": None}, ["a.json", "b.json"], "does not say how often"),
        ({}, ["a.csv", "moved.csv"], "fold 1 of repeat 1 has other bags or labels in"),
        ({}, ["a.csv", "short.csv"], "the same folds (fold "),
        ({}, ["a.csv", "nofold.csv"], "6 x fold is missing, for example bag 0, line 2"),
        ({}, ["a.csv", "limit.csv"], "line 2: threshold is no probability"),
        ({}, ["one.csv", "one.csv"], "one.csv: all bags are in one fold"),
        ({}, ["a.csv", "twice.csv"], "bag 0 occurs more than once"),
        ({}, ["a.csv", "b.csv", "--threshold", "0.4"], "--threshold has no effect on a cross-val"),
        ({}, ["a.json", "b.json", "--out", "a.json"], "would replace it"),
    ],
)
def test_what_cannot_be_paired_is_refused(
    results, tmp_path, capsys, monkeypatch, change, words, message
):
    monkeypatch.chdir(tmp_path)
    record = json.loads((tmp_path / "b.json").read_text())
    (tmp_path / "b.json").write_text(json.dumps(record | change))
    table = (tmp_path / "b.csv").read_text()
    head, *lines = table.splitlines()
    plain = [",".join(line.split(",")[2:5]) for line in [head, *lines[:30]]]
    (tmp_path / "plain.csv").write_text("\n".join(plain) + "\n")
    two = next(line for line in lines if line.startswith("1,2,"))
    (tmp_path / "moved.csv").write_text(table.replace(two, "1,1," + two[4:]))
    (tmp_path / "short.csv").write_text("\n".join([head, *lines[:-6]]) + "\n")
    (tmp_path / "nofold.csv").write_text(table.replace("\n0,0,", "\n0,,"))
    (tmp_path / "limit.csv").write_text(table.replace(",0.25\n", ",high\n", 1))
    (tmp_path / "one.csv").write_text("\n".join([head, *lines[:6]]) + "\n")
    (tmp_path / "twice.csv").write_text(table + lines[0] + "\n")
    assert run("compare", "--predictions", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
