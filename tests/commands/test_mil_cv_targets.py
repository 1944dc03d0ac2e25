"""`mil-cv` on times, values and grades, as a user types it."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, r2_score, roc_auc_score
from sksurv.metrics import (
    brier_score,
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
)

import evaluate
from engine.cross_validation import workers
from tests.support.target_bags import NAMES, bags_of, npz_recipe, write_npz

TASKS = ["cox", "discrete_time", "regression", "ordinal"]
TIMES = TASKS[:2]
FOLDS = 3


def run(*words):
    return evaluate.main([str(word) for word in words])


def lines(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module", params=TASKS)
def done(request, tmp_path_factory):
    """Cross-validate a task once, with all that is written."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    recipe, out, table = folder / "r.yaml", folder / "cv.json", folder / "cv.csv"
    recipe.write_text(yaml.safe_dump(npz_recipe(task)))
    data = write_npz(folder / "bags.npz", task)
    words = ["mil-cv", "--config", recipe, "--data", data, "--folds", FOLDS, "--repeats", 1]
    words += ["--trainer.devices", 1]
    written = ["--out", out, "--save-predictions", table, "--save-checkpoints", folder / "weights"]
    assert run(*words, *written) == 0
    record, rows = json.loads(out.read_text()), lines(table)
    return SimpleNamespace(
        task=task, folder=folder, words=words, data=data, record=record, rows=rows, table=table
    )


def numbers(rows, prefix):
    names = [name for name in rows[0] if name.startswith(prefix)]
    return np.array([[float(row[name] or "nan") for name in names] for row in rows])


def of_fold(done, fold):
    """Return the rows of a fold, its bags and those it was trained on, by their number."""
    rows = [row for row in done.rows if row["fold"] == str(fold)]
    own = np.array([int(row["bag_id"].rpartition("_")[2]) for row in rows])
    rest = np.setdiff1d(np.arange(len(done.rows)), own)
    return rows, own, rest


def survival_array(labels):
    return np.array([(event == 1, time) for time, event in labels], dtype=[("e", "?"), ("t", "f8")])


def survival_by_hand(done, fold):
    rows, own, rest = of_fold(done, fold)
    labels = bags_of(done.task).labels.numpy()
    test, train = survival_array(labels[own]), survival_array(labels[rest])
    risk = numbers(rows, "risk")[:, 0]
    times = np.array([row["time"] for row in done.record["times"]])
    events = labels[labels[:, 1] == 1, 0]
    np.testing.assert_allclose(times, np.unique(np.quantile(events, np.arange(1, 10) / 10)))
    tau = np.quantile(labels[rest, 0], 0.9)
    assert done.record["tau"][fold] == pytest.approx(tau)
    harrell = concordance_index_censored(test["e"], test["t"], risk, tied_tol=0)[0]
    if labels[own, 0].max() > labels[rest, 0].max():  # which the library refuses
        return {"bag_c_index": harrell}
    inside = (times < labels[own, 0].max()) & (times >= labels[own, 0].min())
    _, brier = brier_score(train, test, numbers(rows, "survival_")[:, inside], times[inside])
    found = np.array([row["brier"]["folds"][fold] for row in done.record["times"]], dtype=float)
    np.testing.assert_allclose(found[inside], brier, rtol=0, atol=1e-9)
    auc, mean = cumulative_dynamic_auc(train, test, risk, times[inside])
    found = np.array([row["auc"]["folds"][fold] for row in done.record["times"]], dtype=float)
    np.testing.assert_allclose(found[inside], auc, rtol=0, atol=1e-9)
    wanted = {
        "bag_c_index": harrell,
        "bag_c_index_ipcw": concordance_index_ipcw(train, test, risk, tau, tied_tol=0)[0],
    }
    if inside.all():  # the library has no scores at other times
        wanted["bag_ibs"] = np.trapezoid(brier, times) / (times[-1] - times[0])
        wanted["bag_td_auc"] = mean
    return wanted


def values_by_hand(done, fold):
    rows, own, _ = of_fold(done, fold)
    truth, says = numbers(rows, "target_"), numbers(rows, "prediction_")
    np.testing.assert_array_equal(truth, bags_of(done.task).labels.numpy()[own])
    known = [np.isfinite(column) for column in truth.T]
    pairs = [(truth[k, n], says[k, n]) for n, k in enumerate(known)]
    return {
        "bag_r2": np.mean([r2_score(*pair) for pair in pairs]),
        "bag_mae": np.mean([mean_absolute_error(*pair) for pair in pairs]),
    }


def grades_by_hand(done, fold):
    rows, own, _ = of_fold(done, fold)
    truth, scores = bags_of(done.task).labels.numpy()[own], numbers(rows, "score_")
    said = scores.argmax(axis=1)
    assert [int(row["prediction"]) for row in rows] == said.tolist()
    kappa = cohen_kappa_score(truth, said, weights="quadratic", labels=range(3))
    each = [roc_auc_score(truth == grade, scores[:, grade]) for grade in range(3)]
    mae = np.abs(said - truth).mean()
    return {"bag_quadratic_kappa": kappa, "bag_mae": mae, "bag_auroc": np.mean(each)}


def test_the_table_gives_the_scores_of_a_fold(done):
    by_hand = {"regression": values_by_hand, "ordinal": grades_by_hand}
    compared = set()
    for fold in range(FOLDS):
        wanted = by_hand.get(done.task, survival_by_hand)(done, fold)
        compared |= set(wanted)
        for name, value in wanted.items():
            found = done.record["metrics"][name]["folds"][fold]
            assert found == pytest.approx(value, abs=1e-9), name
    assert done.task not in TIMES or compared == set(done.record["metrics"])
    for summary in done.record["metrics"].values():
        assert summary["mean"] == pytest.approx(np.mean(summary["folds"]))
    assert done.record["undefined"] == {}
    columns = list(done.rows[0])
    assert columns[:3] == ["repeat", "fold", "bag_id"]
    if done.task == "regression":
        named = [f"{kind}_{name}" for kind in ("target", "prediction") for name in NAMES]
        assert columns[3:] == [*named, "patient_id"]
    elif done.task == "ordinal":
        scores = [f"score_{grade}" for grade in range(3)]
        assert columns[3:] == ["label", *scores, "patient_id", "prediction", "threshold"]
    else:
        assert columns[3:6] == ["time", "event", "risk"] and columns[-1] == "patient_id"
        assert len(columns) == 3 + 3 + len(done.record["times"]) + 1
        labels = bags_of(done.task).labels.numpy()
        own = of_fold(done, 1)[1]
        np.testing.assert_array_equal(numbers(of_fold(done, 1)[0], "time")[:, 0], labels[own, 0])


def test_checkpoint_table_and_fold_have_equal_numbers(done, tmp_path):
    out, wanted = tmp_path / "one.json", done.record["metrics"]
    given = []
    if done.task in TIMES:
        given = ["--times", *(row["time"] for row in done.record["times"])]
    mil = ["mil", "--draws", 2, "--out", out]
    checkpoint = done.folder / "weights/repeat0_fold1.ckpt"
    assert run(*mil, "--ckpt", checkpoint, "--data", done.data, *given) == 0
    alone = json.loads(out.read_text())
    for name, value in alone["metrics"].items():
        assert value == pytest.approx(wanted[name]["folds"][1], abs=1e-6), name
    if done.task in TIMES:
        assert alone["tau"] == done.record["tau"][1]
        assert alone["log_rank"] == pytest.approx(done.record["log_rank"][1], abs=1e-6)
        assert alone["risk_groups"]["cuts"] == pytest.approx(
            done.record["risk_groups"][1]["cuts"], abs=1e-5
        )
    text = done.table.read_text().splitlines(keepends=True)
    one = tmp_path / "one.csv"
    one.write_text(text[0] + "".join(line for line in text[1:] if line.startswith("0,1,")))
    given += ["--task", "ordinal"] if done.task == "ordinal" else []
    assert run(*mil, "--predictions", one, *given) == 0
    bare = json.loads(out.read_text())["metrics"]
    same = ["bag_c_index"] if done.task in TIMES else list(bare)
    for name in same:
        assert bare[name] == pytest.approx(wanted[name]["folds"][1], abs=1e-12), name


@pytest.mark.slow
def test_runs_of_folds_give_the_same(done, tmp_path):
    runs = [tmp_path / f"fold{fold}" for fold in range(FOLDS)]
    for fold, folder in enumerate(runs):
        (folder / "checkpoints").mkdir(parents=True)
        weights = done.folder / f"weights/repeat0_fold{fold}.ckpt"
        shutil.copy(weights, folder / "checkpoints/last.ckpt")
    out, table = tmp_path / "runs.json", tmp_path / "runs.csv"
    assert run("mil-cv", "--runs", *runs, "--out", out, "--save-predictions", table) == 0
    found = json.loads(out.read_text())
    assert set(found) == set(done.record)
    for name, summary in done.record["metrics"].items():
        np.testing.assert_allclose(found["metrics"][name]["folds"], summary["folds"], atol=1e-6)
    for ours, theirs in zip(lines(table), done.rows, strict=True):
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            is_number = name.partition("_")[0] in ("risk", "survival", "prediction", "score")
            same = pytest.approx(float(value), abs=1e-5) if is_number and value else value
            assert (float(ours[name]) if is_number and value else ours[name]) == same


@pytest.mark.parametrize("done", TIMES, indirect=True)
def test_risks_of_several_models_are_never_pooled(done, capsys):
    assert run("mil", "--predictions", done.table) == 2
    shown = capsys.readouterr().err
    assert "has the folds 0, 1, 2 of a cross-validation" in shown and "one fold" in shown


class Killed(BaseException):
    """Not an Exception, so that nothing handles it."""


@pytest.mark.slow
@pytest.mark.parametrize("done", ["cox", "discrete_time", "regression"], indirect=True)
def test_a_killed_run_gives_the_same(done, tmp_path, monkeypatch):
    trained, run_fold = [], workers.run_fold

    def run_some(*arguments):
        if len(trained) == 2:
            raise Killed
        trained.append(arguments[3])
        return run_fold(*arguments)

    tables = tmp_path / "whole.csv", tmp_path / "again.csv"
    outs = tmp_path / "whole.json", tmp_path / "again.json"
    words = [*done.words, "--one-by-one"]
    assert run(*words, "--out", outs[0], "--save-predictions", tables[0]) == 0
    command = [*words, "--out", outs[1], "--save-predictions", tables[1]]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(workers, "run_fold", run_some)
        run(*command)
    assert run(*command) == 0
    whole, again = (json.loads(out.read_text()) for out in outs)
    differing = ("seconds", "command")
    assert {k: v for k, v in whole.items() if k not in differing} == {
        k: v for k, v in again.items() if k not in differing
    }
    assert tables[0].read_bytes() == tables[1].read_bytes()
    for one, other in zip(lines(tables[0]), done.rows, strict=True):  # trained together there
        for name in (n for n in one if n.startswith(("risk", "prediction_"))):
            assert float(one[name]) == pytest.approx(float(other[name]), abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("done", ["cox", "ordinal"], indirect=True)
def test_two_processes_give_the_same_and_wandb_gets_every_fold(done, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(
        "loggers.wandb_folds.log_cross_validation",
        lambda options, name, folds, metrics, *rest: logged.append((folds, metrics)) or "logged",
    )
    out = tmp_path / "two.json"
    assert run(*done.words[:-1], 2, "--out", out, "--wandb", "p") == 0
    found = json.loads(out.read_text())["metrics"]
    for name, summary in done.record["metrics"].items():
        np.testing.assert_allclose(found[name]["folds"], summary["folds"], atol=1e-6)
    ((folds, metrics),) = logged
    assert folds == [(0, 0), (0, 1), (0, 2)]
    assert metrics == {name: summary["folds"] for name, summary in found.items()}


@pytest.mark.parametrize("done", ["cox"], indirect=True)
def test_options_of_times(done, tmp_path):
    out, table = tmp_path / "cv.json", tmp_path / "cv.csv"
    written = ["--out", out, "--save-predictions", table]
    given = ["--times", 9, 0, 4, "--tau", 20, "--groups", 3]
    assert run(*done.words, *given, *written) == 0
    found = json.loads(out.read_text())
    assert [row["time"] for row in found["times"]] == [0, 4, 9]
    assert found["tau"] == [20] * FOLDS and found["censoring"] == "training bags"
    assert [len(one["groups"]) for one in found["risk_groups"]] == [3] * FOLDS
    assert found["times"][0]["auc"]["mean"] is None  # no event up to 0
    names = [name for name in lines(table)[0] if name.startswith("survival")]
    assert names == ["survival_4", "survival_9"]


@pytest.mark.parametrize("done", ["cox", "regression"], indirect=True)
def test_wrong_options_are_refused_before_work(done, tmp_path, capsys):
    def refused(*more):
        capsys.readouterr()
        assert run(*done.words, "--out", tmp_path / "cv.json", *more) == 2
        shown = capsys.readouterr().err
        assert "Traceback" not in shown and "folds" not in shown.partition("error")[0]
        return shown

    if done.task == "regression":
        assert "--tau, --groups: have an effect on times alone, not on regression" in refused(
            "--groups", 3, "--tau", 2
        )
        return
    assert "times must be numbers of at least 0" in refused("--times", 3, -1)
    assert "tau must be a time above 0" in refused("--tau", 0)
    assert "at least 2 risk groups" in refused("--groups", 1)
    best = ["--select", "best", "--checkpoint.monitor"]
    assert "val/bag_r2 is no metric of the task cox" in refused(*best, "val/bag_r2")
    assert "Raise data.batch_size" in refused("--data.batch_size", 1)
