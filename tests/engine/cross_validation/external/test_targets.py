"""External sets of times, values and grades, and grids for them."""

import json

import numpy as np
import pytest
import yaml

import evaluate
from engine.deploy.bags import predict_bags
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.scores import score
from evaluation.targets.survival_scores import default_times
from evaluation.targets.tables import BinnedCurves, SurvivalReference
from tests.support.target_bags import NAMES, npz_recipe, write_npz

LR = "model.init_args.optimizer.init_args.lr"


def run(*words):
    return evaluate.main([str(word) for word in words])


def written(folder, task):
    """Write a recipe, its bags, other bags of other patients, and a grid."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(npz_recipe(task)))
    other = dict(np.load(write_npz(folder / "bags.npz", task)))
    random = np.random.default_rng(4)
    other["X"] = other["X"] + random.normal(size=other["X"].shape, scale=0.7)
    other["groups"] = np.char.add("q", other["groups"])
    np.savez(folder / "other.npz", **other)
    (folder / "G.yaml").write_text(yaml.safe_dump({LR: [1e-6, 0.03]}))
    base = ["mil-cv", "--config", folder / "recipe.yaml", "--data", folder / "bags.npz"]
    base += ["--folds", 2, "--repeats", 1, "--trainer.devices", 1, "--grid", folder / "G.yaml"]
    return [*base, "--inner-folds", 2, "--out", folder / "cv.json"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["cox", "discrete_time", "regression", "ordinal"])
def test_models_are_the_checkpoints_and_the_ensemble_is_their_mean(tmp_path, task):
    words, other = written(tmp_path, task), tmp_path / "other.npz"
    more = ["--save-checkpoints", tmp_path / "w", "--save-external", tmp_path / "sets"]
    assert run(*words, "--external", other, *more) == 0
    record = json.loads((tmp_path / "cv.json").read_text())
    assert [one["chosen"] for one in record["nested"]] == [{LR: 0.03}] * 2
    entry = record["external"][str(other)]
    alone = [predict_bags(tmp_path / f"w/repeat0_fold{k}.ckpt", other).target for k in (0, 1)]
    known = alone[0].known
    for number, one in enumerate(alone):
        own = score(one.rows(known).scorer()).metrics
        assert {n: s["folds"][number] for n, s in entry["metrics"].items()} == pytest.approx(own)
    mean = np.mean([one.predictions for one in alone], axis=0)
    labels, curves, reference = alone[0].labels, None, None
    if task in ("cox", "discrete_time"):
        times = default_times(labels[:, 0], labels[:, 1] == 1)
        curves = BinnedCurves(np.mean([one.curves.at(times) for one in alone], axis=0), times)
        bags = np.load(tmp_path / "bags.npz")
        reference = SurvivalReference(bags["time"], bags["event"] == 1)
    names = NAMES if task == "regression" else alone[0].names
    every = (task, alone[0].bag_ids, labels, mean, curves, names, alone[0].groups, reference)
    wanted = TargetPredictions(*every).rows(known).scorer()
    assert entry["ensemble"]["metrics"] == pytest.approx(score(wanted).metrics)
    assert entry["bags"] == known.sum() > 80
    low, high = entry["ensemble"]["intervals"][next(iter(entry["metrics"]))]
    assert low < next(iter(entry["ensemble"]["metrics"].values())) < high
    read = ["--task", "ordinal"] if task == "ordinal" else []
    table = tmp_path / "sets" / "other_bags.csv"
    assert run("mil", "--predictions", table, *read, "--out", tmp_path / "one.json") == 0
    of_table, first = json.loads((tmp_path / "one.json").read_text()), next(iter(entry["metrics"]))
    assert of_table["metrics"][first] == pytest.approx(entry["ensemble"]["metrics"][first])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "metric"),
    [("cox", "bag_ibs"), ("discrete_time", "bag_td_auc"), ("regression", "bag_mae")],
)
def test_a_choice_sees_no_target_of_the_test_fold(tmp_path, task, metric):
    """Neither edges, scaling, baselines nor the times at which the inner folds are scored."""
    words = [*written(tmp_path, task), "--grid-metric", metric]
    bags = dict(np.load(tmp_path / "bags.npz"))
    patient = np.unique(bags["groups"], return_inverse=True)[1]
    bags["cv_fold"] = (patient % 2)[None]
    np.savez(tmp_path / "bags.npz", **bags)
    assert run(*words) == 0
    first = json.loads((tmp_path / "cv.json").read_text())["nested"]
    test = bags["cv_fold"][0] == 0
    if task == "regression":
        bags["y"][test] = 1e4 * np.random.default_rng(0).normal(size=bags["y"][test].shape)
    else:
        bags["time"][test] *= 40
        bags["event"][test] = 1
    np.savez(tmp_path / "bags.npz", **bags)
    assert run(*words) == 0
    again = json.loads((tmp_path / "cv.json").read_text())["nested"]
    assert again[0] == first[0] and again[1] != first[1]
    means = [inner["mean"] for inner in first[0]["inner"]]
    best = np.argmax(means) if metric == "bag_td_auc" else np.argmin(means)
    assert first[0]["chosen"] == first[0]["inner"][best]["values"] and None not in means


def test_a_file_of_other_targets_is_refused(tmp_path, capsys):
    words, other = written(tmp_path, "cox"), tmp_path / "values.npz"
    write_npz(other, "regression")
    assert run(*words, "--external", other) == 2
    error = capsys.readouterr().err
    assert "values.npz: the bags have no time, event, so that they cannot be scored" in error
    assert not (tmp_path / "cv.json.folds").exists()
    (tmp_path / "G.yaml").write_text("data.init_args.batch_size: [1, 16]")
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert "refuses data.init_args.batch_size: 1 (the task cox compares the bags" in error
    assert run(*words, "--grid-metric", "bag_auroc") == 2
    assert "no metric of the task cox" in capsys.readouterr().err
