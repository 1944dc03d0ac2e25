"""Folds whose weights are selected on a validation part of their training bags."""

import dataclasses

import numpy as np
import pytest

from datamodules.mil.npz import TabularBagsDataModule
from datamodules.mil.npz_file import read_bag_file
from engine.config.recipe import Recipe
from engine.cross_validation import folds
from engine.cross_validation.fold import FoldHooks
from engine.cross_validation.folds import prepare_fold, run_fold
from engine.cross_validation.recipe import Choice, read_recipe
from engine.cross_validation.run import cross_validate
from engine.cross_validation.selection import Stopping
from evaluation.mil.scores import youden_threshold
from lightning_modules.mhim import MHIMModule
from tests.support.mil_recipes import ROOT

BEST = Choice("best", 0.3)
KEY = (7, 1, 2)
WORDS = ("--trainer.max_epochs", "2", "--model.model.learner.hidden_sizes", "[8]")


@pytest.fixture
def recipe(config):
    """Return a function that reads the recipe of the tests; its rate does not depend on its end."""

    def read(*changes, monitor="val/loss"):
        constant = ("model.init_args.lr_scheduler", None)
        saving = ("checkpoint", {"monitor": monitor})
        return read_recipe(config(constant, saving, *changes), BEST)

    return read


def test_validation_bags_are_those_of_a_fit_of_the_fold(recipe, bag_file):
    content = dict(np.load(bag_file))
    np.savez(bag_file, **content, groups=np.arange(30) // 2)
    bags = read_bag_file(bag_file)
    division = bags.folds(3, 1, seed=7)
    fold = prepare_fold(bags, division, recipe(), KEY)
    data = TabularBagsDataModule(
        bag_file, fold=2, repeat=1, num_folds=3, split_seed=7, val_fraction=0.3
    )
    assert np.flatnonzero(fold.test).tolist() == data.numbers("test")
    assert np.flatnonzero(fold.val).tolist() == data.numbers("val")
    assert fold.numbers == data.numbers("train")
    assert not {bags.groups[b] for b in fold.numbers} & {
        bags.groups[b] for b in np.flatnonzero(fold.val)
    }


def test_the_selected_weights_are_those_of_a_training_that_ends_there(recipe, bag_file):
    bags, rising = read_bag_file(bag_file), ("model.init_args.optimizer.init_args.lr", 0.3)
    division = bags.folds(3, 1, seed=7)
    found = run_fold(bags, division, recipe(rising), KEY)
    step = found.selected.step
    assert 0 < step < 30 == found.selected.steps  # otherwise this shows nothing
    until = dataclasses.replace(recipe(rising), max_steps=step)
    again = run_fold(bags, division, until, KEY)
    assert again.selected == found.selected._replace(steps=step)
    np.testing.assert_array_equal(again.probabilities, found.probabilities)


def test_early_stopping_ends_a_fold(recipe, bag_file):
    bags = read_bag_file(bag_file)
    division, plain = (
        bags.folds(3, 1, seed=7),
        recipe(("model.init_args.optimizer.init_args.lr", 0.3)),
    )
    rule = Stopping("val/loss", "min", 2)
    stops = dataclasses.replace(plain.selection, stopping=(rule,))
    found = run_fold(bags, division, dataclasses.replace(plain, selection=stops), KEY).selected
    assert found.stopped and found.steps < 30
    epoch = 3  # batches: 14 of 20 training bags in batches of four
    assert found.steps == found.step + 2 * epoch


def test_the_threshold_is_that_of_the_best_validation(recipe, bag_file):
    bags = read_bag_file(bag_file)
    chosen = recipe(("model.init_args.threshold", "youden"))
    division = bags.folds(3, 1, seed=7)
    seen = {}

    def keep(key, fold, result):
        scores = fold.module.network(next(fold.whole_bags(fold.val, chosen))).probabilities(
            "binary"
        )
        seen["threshold"] = youden_threshold(bags.labels[fold.val], scores.detach().numpy())

    result = run_fold(bags, division, chosen, KEY, FoldHooks(finished=keep))
    assert result.threshold == seen["threshold"]


def test_a_run_says_how_it_selected(config, bag_file):
    sections = ("checkpoint", {"monitor": "val/bag_auroc"}), ("early_stopping", {"patience": 2})
    found = cross_validate(config(*sections), bag_file, 3, 1, workers=2, choice=Choice("best", 0.1))
    assert found.training == "folds trained one by one: each fold selects its own weights"
    assert found.protocol.endswith(
        "30 steps each, best val/bag_auroc on 0.1 of the training bags, "
        "ended after 2 validations without a better val/bag_auroc"
    )
    assert [(s["repeat"], s["fold"]) for s in found.selected] == [(0, 0), (0, 1), (0, 2)]
    assert found.notes == (
        "val_fraction of the recipe is for train.py: 0.1 is held out (--val-fraction)",
    )
    with pytest.raises(ValueError, match=r"repeat 0, fold 0: --val-fraction 0.01 of 20 training"):
        cross_validate(config(*sections), bag_file, 3, 1, workers=1, choice=Choice("best", 0.01))


def test_folds_with_validation_bags_of_one_class_are_noted(config, bag_file):
    content = dict(np.load(bag_file))
    content["y"][:] = 0
    content["y"][:4] = 1
    np.savez(bag_file, **content, groups=np.where(np.arange(30) < 4, 0, np.arange(30)))
    path = config(("checkpoint", {"monitor": "val/bag_auroc"}))
    found = cross_validate(path, bag_file, 3, 1, workers=1, choice=Choice("best", 0.2))
    assert {s["monitor"] for s in found.selected} == {"val/loss"}
    assert found.notes[1].startswith("repeat 0, fold 0: val/bag_auroc is not defined on its valid")


def test_both_stages_select(bag_file, monkeypatch):
    """The first stage of MHIM passes its best weights on, as in `train.py fit`."""
    recipe = read_recipe(Recipe((ROOT / "configs/mil/mhim.yaml",), WORDS), BEST)
    bags, selectors = read_bag_file(bag_file), []

    class Told(folds.Selector):
        def __init__(self, selection):
            super().__init__(selection)
            selectors.append(selection)

    monkeypatch.setattr(folds, "Selector", Told)
    run_fold(bags, bags.folds(3, 0, 0), recipe, (0, 0, 0))
    assert [selection.monitor for selection in selectors] == ["val/bag_auroc"] * 2
    monkeypatch.setattr(MHIMModule, "first_stage_weights", "last")
    run_fold(bags, bags.folds(3, 0, 0), recipe, (0, 0, 0))
    assert len(selectors) == 3
