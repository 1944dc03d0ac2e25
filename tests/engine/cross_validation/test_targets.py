"""Folds of times, values and grades: what they keep, and what their test bags cannot change."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from datamodules.mil.npz_file import read_bag_file
from datamodules.mil.targets.options import TargetOptions
from engine.cross_validation.finished import FinishedFolds
from engine.cross_validation.fold import Fold, FoldHooks, FoldResult
from engine.cross_validation.folds import finish_fold, run_fold
from engine.cross_validation.recipe import Choice, read_recipe
from engine.cross_validation.run import cross_validate
from engine.cross_validation.selection import Selection
from engine.cross_validation.together import run_folds
from evaluation.targets.censoring import breslow
from evaluation.targets.training_bags import TrainingBags
from lightning_modules.mil import MILModule
from models.mil.abmil import ABMIL
from structures import BagBatch, TargetCoding
from tests.support.target_bags import COUNT, NAMES, WIDTH, bags_of, npz_recipe, write_npz

TASKS = ["cox", "discrete_time", "regression", "ordinal"]


@pytest.mark.parametrize("task", ["cox", "regression"])
def test_a_fold_keeps_the_baseline_of_its_own_training_bags(task):
    bags = bags_of(task)
    torch.manual_seed(0)
    model = ABMIL(WIDTH, COUNT[task], task, hidden_sizes=(5,), attention_dim=3)
    module = MILModule(model, torch.optim.SGD)
    test, val = np.arange(len(bags)) < 30, (np.arange(len(bags)) // 10) == 3
    numbers = np.flatnonzero(~test & ~val).tolist()
    labels = bags.labels.numpy()[numbers]
    module.fit_targets(labels, COUNT[task])

    def read(chosen, epoch):
        return BagBatch.collate([bags.bag(number) for number in chosen])

    fold = Fold(module, test, np.zeros_like(test), numbers, read, 0)
    recipe = SimpleNamespace(device=torch.device("cpu"), num_workers=0)
    result = finish_fold(fold, None, recipe, (0, 0, 0))
    with torch.no_grad():
        output = module.network(bags)
    wanted = module.predicted(output).double().numpy()  # values in the user's unit
    np.testing.assert_allclose(result.probabilities, wanted[test], rtol=0, atol=1e-5)
    if task == "regression":
        assert module.training_bags is None and "training_bags" not in module.target_facts()
        return
    kept = module.target_facts()["training_bags"]
    reference = breslow(labels[:, 0], labels[:, 1] == 1, wanted[numbers])
    np.testing.assert_allclose(kept["risk"], np.sort(wanted[numbers]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        kept["baseline"]["log_hazard"], reference.log_hazard, rtol=0, atol=1e-6
    )


def fold_of(task, path, recipe, corrupt=None, key=(0, 0, 0)):
    """Train a fold of patients; return its result and the weights of its model."""
    file = write_npz(path / f"{task}.npz", task)
    targets = TargetOptions(task=task, target_columns=NAMES if task == "regression" else None)
    bags = read_bag_file(file, task=task, targets=targets)
    if corrupt is not None:
        bags = corrupt(bags)
    folds = np.arange(len(bags.labels)) // 2 % 3  # patients have two bags
    kept = []
    hooks = FoldHooks(finished=lambda key, fold, result: kept.append(fold.module.state_dict()))
    result = run_fold(bags, folds, recipe, key, hooks)
    return bags, folds, result, kept[0]


def garbage(bags):
    """Put wild labels and features into the test bags of fold 0, as they come from a file."""
    random, task = np.random.default_rng(5), bags.task
    test = np.arange(len(bags.labels)) // 2 % 3 == 0
    labels = bags.labels.copy()
    if task in ("cox", "discrete_time"):
        labels[test, 0] = 1e6 * random.random(test.sum())
        labels[test, 1] = 1 - labels[test, 1]
    elif task == "regression":
        labels[test] = 1e9 * random.normal(size=labels[test].shape)
    else:
        labels[test] = (labels[test] + 1) % 3
    features = bags.features.copy()
    features[bags.rows_of(test)] = 1e4
    return bags._replace(labels=labels, features=features)


@pytest.mark.parametrize("task", TASKS)
def test_garbage_in_a_test_fold_moves_no_choice_edge_or_cut(task, tmp_path):
    file = tmp_path / "r.yaml"
    trainer = {"max_steps": 12, "val_check_interval": 2, "accelerator": "cpu"}
    file.write_text(yaml.safe_dump(npz_recipe(task, trainer=trainer)))
    recipe = read_recipe(file, Choice("best", 0.3))
    kept = [fold_of(task, tmp_path, recipe, change) for change in (None, garbage)]
    (bags, folds, clean, weights), (_, _, dirty, others) = kept
    assert dirty.selected == clean.selected and clean.selected.steps == 12
    assert clean.selected.monitor == recipe.selection.monitor
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert dirty.coding == clean.coding
    assert not np.array_equal(dirty.probabilities, clean.probabilities)
    if task in ("cox", "discrete_time"):
        one, other = clean.training_bags, dirty.training_bags
        assert one.plain() == other.plain()  # times, events, risks and baseline
        train = np.isin(bags.labels[:, 0], one.time) & (folds != 0)
        assert one.reference.tau == other.reference.tau <= bags.labels[train, 0].max()
        assert len(one.time) < (folds != 0).sum()  # bags to validate on are no training bags


@pytest.mark.parametrize("task", ["discrete_time", "regression", "ordinal"])
def test_folds_together_are_those_one_by_one(task, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(npz_recipe(task)))
    recipe = read_recipe(file)
    bags, folds, alone, _ = fold_of(task, tmp_path, recipe, fully_known)
    reasons = []
    together = run_folds(bags, [(folds, (0, 0, n)) for n in range(3)], recipe, reasons.append)
    assert not reasons
    assert together[0].coding == alone.coding != together[1].coding or task == "ordinal"
    for number, one in enumerate((alone, run_fold(bags, folds, recipe, (0, 0, 1)))):
        assert together[number].coding == one.coding
        scale = np.abs(one.probabilities).max()
        found = together[number].probabilities
        np.testing.assert_allclose(found, one.probabilities, atol=4e-6 * scale)


def fully_known(bags):
    return bags._replace(labels=np.nan_to_num(bags.labels, nan=90.0))


def test_reasons_why_folds_are_trained_one_by_one(tmp_path):
    for task, reason in (
        ("cox", "the loss of cox compares the bags of a batch"),
        ("regression", "bags without a known value"),
    ):
        file = tmp_path / "r.yaml"
        file.write_text(yaml.safe_dump(npz_recipe(task)))
        targets = TargetOptions(task=task, target_columns=NAMES if task == "regression" else None)
        bags = read_bag_file(write_npz(tmp_path / "b.npz", task), task=task, targets=targets)
        reasons = []
        run_folds(bags, [], read_recipe(file), reasons.append)
        assert reasons[0].startswith(reason)


@pytest.mark.parametrize("task", TASKS)
def test_a_finished_fold_is_read_as_it_was_written(task, tmp_path):
    coding = None if task == "ordinal" else TargetCoding(task, (0.0, 0.1 + 0.2, 1e9 / 3), (1 / 3,))
    kept = TrainingBags.of([[0.1 + 0.2, 1], [1e9 / 3, 0], [7, 1]]).with_risks(
        [1 / 3, -1e-9, 9], task
    )
    bags = kept if task in ("cox", "discrete_time") else None
    folds = np.array([0, 1, 0])
    scores = np.array([[1 / 3, 2e-17], [0.1, 0.7]])
    result = FoldResult(folds == 0, scores, 0.5, None, coding, bags)
    finished = FinishedFolds(tmp_path / "folds")
    finished.save((0, 0, 0), result)
    found = finished.load(folds, (0, 0, 0))
    assert found.coding == coding
    np.testing.assert_array_equal(found.probabilities, scores)
    if bags is None:
        assert found.training_bags is None
        return
    assert found.training_bags.plain() == bags.plain()
    assert (found.training_bags.baseline is None) == (task == "discrete_time")


def test_bags_on_which_a_metric_is_undefined_are_selected_on_by_the_loss():
    censored, mixed = np.array([[3.0, 0], [5.0, 0]]), np.array([[3.0, 1], [5.0, 0]])
    rule = Selection("val/bag_c_index", "max", 0.2)
    assert rule.for_labels(mixed, "cox", 1) == rule
    assert rule.for_labels(censored, "cox", 1).monitor == "val/loss"
    brier = Selection("val/bag_ibs", "min", 0.2)  # needs the baseline of the trained model
    assert brier.for_labels(mixed, "cox", 1).monitor == "val/loss"
    r2 = Selection("val/bag_r2", "max", 0.2)
    assert r2.for_labels(np.array([[1.0], [2.0]]), "regression", 1) == r2
    assert r2.for_labels(np.array([[1.0], [1.0]]), "regression", 1).monitor == "val/loss"
    kappa = Selection("val/bag_quadratic_kappa", "max", 0.2)
    assert kappa.for_labels(np.array([1, 2]), "ordinal", 3) == kappa


def test_metrics_of_another_task_select_nothing():
    for monitor, task in (("bag_auroc", "cox"), ("bag_c_index", "binary"), ("bag_r2", "ordinal")):
        rule = Selection(f"val/{monitor}", "max", 0.2)
        with pytest.raises(ValueError, match=f"val/{monitor} is no metric of the task {task}"):
            rule.check_task(task)
    Selection("val/loss", "min", 0.2).check_task("cox")
    Selection("val/bag_auroc", "max", 0.2).check_task("ordinal")


def test_folds_without_events_to_train_on_are_refused_before_work(tmp_path):
    file = write_npz(tmp_path / "b.npz", "cox")
    arrays = dict(np.load(file))
    arrays["event"] = np.zeros_like(arrays["event"])
    arrays["event"][:2] = 1  # one patient
    np.savez(file, **arrays)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump(npz_recipe("cox")))
    with pytest.raises(ValueError, match=r"b.npz: training bags of repeat 0, fold \d: none of the"):
        cross_validate(recipe, file, num_folds=3, repeats=1, workers=1)
