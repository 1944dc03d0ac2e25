"""Nested cross-validation against loops written out, and what must not change a choice."""

import json

import numpy as np
import pytest
import yaml

import evaluate
from datamodules.mil.npz_file import read_bag_file
from engine.config.recipe import Recipe
from engine.cross_validation import workers
from engine.cross_validation.nested.inner import inner_tasks
from engine.cross_validation.run import cross_validate
from tests.engine.conftest import RECIPE

LR, STEPS = "model.init_args.optimizer.init_args.lr", "trainer.max_steps"
GRID = {LR: [1e-4, 0.03], STEPS: [3, 12]}
COUNT = 48


def write_bags(path, seed=0, **changes):
    """24 patients of two bags, whose two outer folds the file names."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(COUNT // 2), 2)
    sizes, labels = random.integers(1, 5, COUNT), patient % 2
    features = random.normal(size=(sizes.sum(), 3))
    features[:, 0] += np.repeat(1.5 * labels, sizes)
    arrays = {
        "X": features, "bag_index": np.repeat(np.arange(COUNT), sizes), "y": labels,
        "groups": np.char.add("p", patient.astype(str)), "cv_fold": (patient // 2 % 2)[None],
    }  # fmt: skip
    np.savez(path, **(arrays | changes))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nested")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "G.yaml").write_text(yaml.safe_dump(GRID))
    write_bags(folder / "bags.npz")
    return folder


def command(place, *more, data="bags.npz", grid="G.yaml"):
    words = ["mil-cv", "--config", place / "recipe.yaml", "--data", place / data]
    words += ["--grid", place / grid, "--repeats", 1, "--trainer.devices", 1, *more]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def found(place):
    """The record of a nested cross-validation with checkpoints."""
    more = ["--out", place / "cv.json", "--save-checkpoints", place / "weights"]
    assert evaluate.main(command(place, *more)) == 0
    return json.loads((place / "cv.json").read_text())


def sub_file(place, bags, folds):
    """Write the bags that take part, with their folds as published ones."""
    chosen = folds >= 0
    rows = np.repeat(chosen, bags.sizes)
    path = place / "part.npz"
    np.savez(
        path, X=bags.features[rows], y=bags.labels[chosen], cv_fold=folds[chosen][None],
        bag_index=np.repeat(np.arange(chosen.sum()), bags.sizes[chosen]),
        groups=np.array(bags.groups)[chosen],
    )  # fmt: skip
    return path


@pytest.mark.slow
def test_it_equals_the_loops_written_out(place, found):
    """Every combination is cross-validated on a file of the outer training bags alone."""
    bags = read_bag_file(place / "bags.npz")
    outer = bags.folds(2, 0, 0)
    assert [(n["repeat"], n["fold"]) for n in found["nested"]] == [(0, 0), (0, 1)]
    for fold, nested in enumerate(found["nested"]):
        means = []
        tasks = inner_tasks(bags, (outer, (0, 0, fold)), 3)
        path = sub_file(place, bags, tasks[0][0])
        for lr in GRID[LR]:
            for steps in GRID[STEPS]:
                words = ("--model.optimizer.lr", str(lr), "--trainer.max_steps", str(steps))
                recipe = Recipe((place / "recipe.yaml",), words)
                alone = cross_validate(recipe, path, seed=tasks[0][1][0], workers=1)
                means.append(alone.metrics["bag_auroc"]["mean"])
        assert [inner["mean"] for inner in nested["inner"]] == pytest.approx(means, abs=1e-9)
        values = [inner["values"] for inner in nested["inner"]]
        assert values == [{LR: lr, STEPS: steps} for lr in GRID[LR] for steps in GRID[STEPS]]
        assert nested["chosen"] == values[int(np.argmax(means))]
        chosen = [f"--{path}={value}" for path, value in nested["chosen"].items()]
        whole = Recipe((place / "recipe.yaml",), tuple(chosen))
        refit = cross_validate(whole, place / "bags.npz", repeats=1, workers=1)
        for name, summary in refit.metrics.items():
            assert found["metrics"][name]["folds"][fold] == pytest.approx(summary["folds"][fold])
    assert "chosen by bag_auroc on 3 inner folds" in found["protocol"]


def test_a_single_combination_is_the_recipe_with_its_values(place, tmp_path):
    (place / "single.yaml").write_text(yaml.safe_dump({STEPS: [3]}))
    out = tmp_path / "cv.json"
    more = ["--inner-folds", 2, "--out", out]
    assert evaluate.main(command(place, *more, grid="single.yaml")) == 0
    found = json.loads(out.read_text())
    recipe = Recipe((place / "recipe.yaml",), ("--trainer.max_steps", "3"))
    plain = cross_validate(recipe, place / "bags.npz", repeats=1, workers=1)
    assert found["metrics"] == json.loads(json.dumps(plain.metrics))
    assert [one["chosen"] for one in found["nested"]] == [{STEPS: 3}] * 2


@pytest.mark.slow
def test_checkpoints_are_those_of_the_refitted_folds(place, found, tmp_path):
    for fold in (0, 1):
        words = ["mil", "--ckpt", place / f"weights/repeat0_fold{fold}.ckpt", "--draws", 2]
        words += ["--data", place / "bags.npz", "--out", tmp_path / "one.json"]
        assert evaluate.main([str(word) for word in words]) == 0
        alone = json.loads((tmp_path / "one.json").read_text())["metrics"]
        assert alone == {n: s["folds"][fold] for n, s in found["metrics"].items()}


@pytest.mark.slow
def test_garbage_in_the_test_fold_moves_no_choice(place, found, tmp_path):
    bags = dict(np.load(place / "bags.npz"))
    test = bags["cv_fold"][0] == 0
    rows = test[bags["bag_index"]]
    bags["X"][rows] = 1e3 * np.random.default_rng(1).normal(size=(rows.sum(), 3))
    bags["y"][test] = 1 - bags["y"][test]
    np.savez(place / "garbage.npz", **bags)
    out = tmp_path / "cv.json"
    assert evaluate.main(command(place, "--out", out, data="garbage.npz")) == 0
    garbage = json.loads(out.read_text())
    assert garbage["nested"][0] == found["nested"][0]
    assert garbage["nested"][1] != found["nested"][1]  # it is trained on there
    assert garbage["metrics"]["bag_auroc"]["folds"] != found["metrics"]["bag_auroc"]["folds"]


def test_inner_folds_are_by_patient_and_stratified(tmp_path):
    bags = read_bag_file(write_bags(tmp_path / "b.npz"))
    outer = bags.folds(2, 0, 0)
    for fold in (0, 1):
        tasks = inner_tasks(bags, (outer, (5, 0, fold)), 3)
        (folds, _), *_ = tasks
        assert {key for _, key in tasks} == {(tasks[0][1][0], 0, k) for k in range(3)}
        assert ((folds < 0) == (outer == fold)).all()
        held = [{bags.groups[b] for b in np.flatnonzero(folds == k)} for k in range(3)]
        assert sum(map(len, held)) == len(set.union(*held)) == 12
        assert [bags.labels[folds == k].mean() for k in range(3)] == [0.5] * 3
    with pytest.raises(ValueError, match="--inner-folds 13 in the training bags of repeat 0, fold"):
        inner_tasks(bags, (outer, (5, 0, 1)), 13)


class Killed(BaseException):
    """Not an Exception, so that nothing handles it."""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_inner_and_outer_folds(place, tmp_path, monkeypatch):
    out, trained, run_fold = tmp_path / "cv.json", [], workers.run_fold
    (place / "two.yaml").write_text(yaml.safe_dump({STEPS: [3, 12]}))
    words = command(place, "--one-by-one", "--inner-folds", 2, grid="two.yaml")
    assert evaluate.main([*words, "--out", str(tmp_path / "whole.json")]) == 0

    def run(*arguments):
        if len(trained) in (3, 10):  # inside the grid, and before the last refit
            trained.append(None)
            raise Killed
        trained.append(arguments[3])
        return run_fold(*arguments)

    monkeypatch.setattr(workers, "run_fold", run)
    for _ in range(2):
        with pytest.raises(Killed):
            evaluate.main([*words, "--out", str(out)])
    kept = [file.name for file in (tmp_path / "cv.json.folds").iterdir()]
    assert len([name for name in kept if name.startswith("grid")]) == 2 * 2 * 2
    assert evaluate.main([*words, "--out", str(out)]) == 0
    assert len([key for key in trained if key]) == 2 * (2 * 2 + 1)  # each once
    again, whole = (json.loads(p.read_text()) for p in (out, tmp_path / "whole.json"))
    assert again["nested"] == whole["nested"] and again["metrics"] == whole["metrics"]
    assert not (tmp_path / "cv.json.folds").exists()


def test_other_grids_do_not_go_on(place, tmp_path, monkeypatch, capsys):
    out = tmp_path / "cv.json"

    def run(*arguments):
        raise Killed

    (tmp_path / "cv.json.folds").mkdir()
    monkeypatch.setattr(workers, "run_folds", run)
    (place / "one.yaml").write_text(yaml.safe_dump({STEPS: [3]}))
    words = command(place, "--out", out, grid="one.yaml")
    with pytest.raises(Killed):
        evaluate.main(words)
    (tmp_path / "cv.json.folds" / "grid0_7_fold0.json").write_text("{}")
    assert evaluate.main([*words, "--grid-metric", "bag_f1"]) == 2
    assert "grid_metric: bag_auroc -> bag_f1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--trainer.devices", 2], ["--one-by-one"]])
def test_a_combination_that_diverges_is_not_chosen(place, tmp_path, more):
    """After one step with a huge rate predictions are not finite, after more neither is a loss."""
    grid = {STEPS: [1, 3], LR: [1e30, 0.03]}
    (place / "huge.yaml").write_text(yaml.safe_dump(grid))
    out = tmp_path / "cv.json"
    with pytest.warns(UserWarning, match="not finite in inner folds of repeat 0, fold 0; repeat 0"):
        words = command(place, "--inner-folds", 2, "--out", out, *more, grid="huge.yaml")
        assert evaluate.main(words) == 0
    for nested in json.loads(out.read_text())["nested"]:
        assert nested["chosen"][LR] == 0.03
        diverged = [one["values"][LR] for one in nested["inner"] if one["mean"] is None]
        assert diverged == [1e30, 1e30]
        assert len(nested["inner"]) == 4


@pytest.mark.filterwarnings("ignore:optimizer.lr")
def test_nothing_can_be_chosen_where_all_combinations_diverge(place, tmp_path, capsys):
    (place / "all.yaml").write_text(yaml.safe_dump({STEPS: [3], LR: [1e30]}))
    words = command(place, "--inner-folds", 2, "--out", tmp_path / "cv.json", grid="all.yaml")
    assert evaluate.main(words) == 2
    assert "or, where the loss is not finite, lower learning rates" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("grid", "more", "said"),
    [
        ({"model.init_args.optimizer.init_args.lrr": [1]}, [], "optimizer.init_args.lrr: 1"),
        ({STEPS: [3, -2]}, [], "refuses trainer.max_steps: -2 ("),
        ({"trainer.max_stepz": [3]}, [], "refuses trainer.max_stepz: 3"),
        ({"model.init_args.model.init_args.dropout": [7]}, [], "dropout: 7 (dropout probability"),
        ({"model.init_args.model.class_path": ["models.mil.dsmil.DSMIL"]}, [], "cannot be laid"),
        ({"checkpoint.monitor": ["val/bag_f1"]}, [], "no effect with --select last"),
        ({STEPS: [3]}, ["--grid-metric", "bag_auc"], "did you mean bag_auroc"),
        ({STEPS: [3]}, ["--grid-metric", "bag_c_index"], "no metric of the task binary"),
        ({STEPS: [3]}, ["--inner-folds", "20"], "--inner-folds 20 in the training bags of repeat"),
        ({STEPS: [3]}, ["--inner-folds", "1"], "must be at least 2"),
        ({STEPS: [3]}, ["--inner-folds", "12"], "bag_auroc is undefined in all inner folds"),
    ],
)
def test_what_is_refused_before_training(place, tmp_path, monkeypatch, capsys, grid, more, said):
    monkeypatch.setattr(workers, "run_folds", lambda *_: pytest.fail("something was trained"))
    (place / "wrong.yaml").write_text(yaml.safe_dump(grid))
    out = ["--out", tmp_path / "cv.json"]
    assert evaluate.main(command(place, *more, *out, grid="wrong.yaml")) == 2
    error = capsys.readouterr().err
    assert said in error and (error.count("\n") == 1 or "usage" in error)
    assert not list(tmp_path.iterdir())


def test_options_without_a_grid(place, capsys):
    words = command(place)
    del words[words.index("--grid") : words.index("--grid") + 2]
    assert evaluate.main([*words, "--inner-folds", "3"]) == 2
    assert "--inner-folds has an effect with --grid alone" in capsys.readouterr().err
