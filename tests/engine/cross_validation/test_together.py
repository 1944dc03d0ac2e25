"""Folds trained together are folds trained one by one: the same numbers, dropout included."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.mil.npz_file import BagFile
from datamodules.mil.samplers import BatchPlan
from engine.config.recipe import Recipe
from engine.config.sections import module_builder
from engine.cross_validation import together
from engine.cross_validation.folds import FoldRecipe, run_fold
from engine.cross_validation.together import run_folds
from lightning_modules.mil import MILModule
from models.mil.abmil import ABMIL
from models.mil.dsmil import DSMIL
from models.mil.mi_net import InstanceMINet, MINet, MINetDS
from optim.optimizers import LookaheadRAdam
from optim.schedules import Cosine
from tests.support.apart_models import (
    Counting,
    Following,
    Functional,
    Growing,
    GrowingJoint,
    Hooked,
    Late,
    Leaking,
    Noisy,
    Normalising,
    Normed,
    ReadingBias,
    Remembering,
    Rooted,
    Second,
    Silent,
    Small,
    Tied,
    Weighing,
)
from tests.support.layers import FOLDERS
from tests.support.mil_recipes import NAMES, ROOT

BAGS, WIDTH = 23, 5
FOLDS = np.arange(BAGS) % 3  # 8, 8 and 7 test bags: two folds train on 15 bags, one on 16
TASKS = [(FOLDS, (4, 0, fold)) for fold in range(3)]


def bags_of(seed=0, largest=6):
    """Return bags of which a third is positive, so that folds differ in their share of classes."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, largest, BAGS)
    features = random.normal(size=(sizes.sum(), WIDTH)).astype(np.float32)
    labels = (random.random(BAGS) < 0.35).astype(np.int64)
    labels[:2] = 1
    features[(np.cumsum(sizes) - sizes)[labels == 1], 0] += 2
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return BagFile(Path("made.npz"), features, offsets, labels, None, ())


def recipe_of(learner, optimizer=None, *, steps=12, batch=1, module=MILModule, **changes):
    """Return a recipe that makes ``learner(in_features, num_classes, task)``."""
    optimizer = optimizer or (lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1))
    options = changes.pop("options", {})

    def build(num_classes, in_features, task):
        return module(learner(in_features, num_classes, task), optimizer, Cosine, **options)

    return FoldRecipe(build, BatchPlan(batch), max_steps=steps, **changes)


def mi_net(*facts):
    return InstanceMINet(*facts, hidden_sizes=[8, 4], dropout=0.5)


def compare(recipe, bags=None, tasks=TASKS):
    """Run tasks both ways, ask for equal results and return why they were run one by one, if so."""
    bags, reasons = bags or bags_of(), []
    found = run_folds(bags, tasks, recipe, reasons.append)
    for (folds, key), result in zip(tasks, found, strict=True):
        alone = run_fold(bags, folds, recipe, key)
        assert np.array_equal(result.test, alone.test) and result.threshold == alone.threshold
        np.testing.assert_allclose(result.probabilities, alone.probabilities, rtol=0, atol=2e-6)
    return reasons


LEARNERS = {
    "mi-Net": mi_net,
    "MI-Net": lambda *f: MINet(*f, hidden_sizes=[8, 4], dropout=0.5),
    "MI-Net DS": lambda *f: MINetDS(*f, hidden_sizes=[8, 4], dropout=0.5),
    "ABMIL": lambda *f: ABMIL(*f, hidden_sizes=[8], dropout=0.5, input_dropout=0.2, gated=True),
    "branches": lambda *f: ABMIL(*f, hidden_sizes=[8], branches=3, attention_dim=4),
    "DSMIL": lambda *f: DSMIL(*f, attention_dim=4, balance=True, value_dropout=0.3),
}


@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
@pytest.mark.parametrize("batch", [1, 4])
def test_together_is_one_by_one(learner, batch):
    assert compare(recipe_of(learner, batch=batch)) == []


OPTIMIZERS = {
    "nesterov": lambda p: torch.optim.SGD(
        p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.5, foreach=True
    ),
    "Adam": lambda p: torch.optim.Adam(p, 0.02, betas=(0.5, 0.9), weight_decay=0.3),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.02, weight_decay=3.0, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_decay_weights_but_not_biases(optimizer):
    """Stacked biases have two axes, but no weight decay all the same."""
    assert compare(recipe_of(mi_net, optimizer, steps=25)) == []


def test_gradients_are_clipped_fold_by_fold():
    plain, clipped = (recipe_of(mi_net, clip_norm=norm) for norm in (None, 0.05))
    assert compare(clipped) == []
    assert compare(recipe_of(mi_net, clip_norm=2.0)) == []  # some gradients are smaller
    first, second = (run_folds(bags_of(), TASKS, r)[0].probabilities for r in (plain, clipped))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("epochs", [1, 3])
def test_folds_of_unequal_length_train_apart(epochs):
    """15 and 16 training bags: 15 and 16 steps an epoch, or 5 and 6 of three batches."""
    recipe = recipe_of(mi_net, max_epochs=epochs, steps=None)
    assert compare(recipe) == []
    assert compare(dataclasses.replace(recipe, accumulate=3)) == []


def test_accumulation_with_limits_of_steps():
    """Epochs of 15 and 16 batches end with one batch and with two where steps take seven."""
    assert compare(recipe_of(mi_net, steps=5, accumulate=7)) == []


def test_thresholds_are_chosen_fold_by_fold():
    recipe = recipe_of(mi_net, options={"threshold": "youden"}, val_fraction=0.4)
    found = run_folds(bags_of(), TASKS, recipe)
    assert compare(recipe) == [] and len({result.threshold for result in found}) > 1


def test_patients_held_out_leave_unequal_rests():
    """Folds of equally many bags train on unequal numbers of them where patients stay together."""
    bags = bags_of()._replace(groups=tuple(f"p{b // 2 if b > 6 else 0}" for b in range(BAGS)))
    for changes in ({"steps": None, "max_epochs": 2}, {"batch": 50}, {"accumulate": 4}):
        options = {"threshold": "youden"}
        recipe = recipe_of(mi_net, options=options, val_fraction=0.4, **changes)
        assert compare(recipe, bags) == []


class Annealed(InstanceMINet):
    """Has a loss whose weight depends on the progress of training."""

    def loss_factors(self, progress):
        return {"bag": 1.0 - progress}


def test_scheduled_losses_follow_the_progress():
    assert compare(recipe_of(lambda *f: Annealed(*f, hidden_sizes=[4]), steps=10)) == []


def test_features_are_standardised_by_each_folds_own_bags():
    bags = bags_of()
    bags.features[bags.rows_of(FOLDS == 1)] += 50.0
    assert compare(recipe_of(mi_net, clip=2.0), bags) == []
    assert compare(recipe_of(mi_net, standardise=False), bags_of()) == []


def test_bags_of_one_instance_and_a_large_one():
    assert compare(recipe_of(mi_net, batch=2), bags_of(largest=2)) == []
    bags = bags_of()
    rows = np.concatenate([np.zeros(300, dtype=np.int64), np.arange(len(bags.features))])
    large = bags._replace(features=bags.features[rows], offsets=bags.offsets + 300)
    large.offsets[0] = 0
    assert compare(recipe_of(LEARNERS["ABMIL"]), large) == []


def test_results_do_not_depend_on_the_group(monkeypatch):
    bags, recipe = bags_of(), recipe_of(mi_net)
    at_once = run_folds(bags, TASKS, recipe)
    turned = run_folds(bags, TASKS[::-1], recipe)[::-1]
    monkeypatch.setattr(together, "MOST_FOLDS", 1)
    for first, *others in zip(at_once, turned, run_folds(bags, TASKS, recipe), strict=True):
        for other in others:
            np.testing.assert_allclose(first.probabilities, other.probabilities, rtol=0, atol=2e-6)


def test_more_than_two_classes_and_frozen_layers():
    bags = bags_of()
    bags = bags._replace(labels=np.arange(BAGS) % 3, classes=3)

    def frozen(*facts):
        model = MINet(*facts, hidden_sizes=[8, 4])
        model.embed.requires_grad_(False)
        return model

    assert compare(recipe_of(frozen, steps=5), bags) == []


APART = {
    "state": (Counting, "state of the network", {}),
    "all bags": (Normalising, "other folds", {}),
    "gradient": (Leaking, "other folds", {}),
    "buffers": (Weighing, "does not fit bags of several folds", {}),
    "random": (Noisy, "random numbers", {}),
    "functional dropout": (Functional, "random numbers", {}),
    "later random": (Late, "random numbers", {}),
    "later bags": (Silent, "other folds", {}),
    "memory": (Remembering, "other folds", {}),
    "growing term": (Growing, "other folds", {"batch": 4}),
    "growing joint term": (GrowingJoint, "other folds", {"batch": 4}),
    "bias": (ReadingBias, "weights of a layer directly", {}),
    "hook": (Hooked, "weights outside its linear layers", {}),
    "sum": (mi_net, "Rooted has a training protocol", {"module": Rooted}),
    "tied": (Tied, "share their weights", {}),
    "layer norm": (Normed, "LayerNorm", {}),
    "protocol": (mi_net, "Following has a training protocol", {"module": Following}),
    "optimizer": (mi_net, "LookaheadRAdam", {"optimizer": lambda p: LookaheadRAdam(p, 0.01)}),
}


@pytest.mark.parametrize(("learner", "reason", "options"), APART.values(), ids=APART)
def test_what_cannot_go_together_goes_one_by_one(learner, reason, options):
    (told,) = compare(recipe_of(learner, steps=6, **options))
    assert reason in told


def test_without_a_fold_to_train_it_says_which_way_it_would_be():
    reasons = []
    for learner in (mi_net, Normed):
        assert run_folds(bags_of(), [], recipe_of(learner), reasons.append) == []
    assert reasons == ["the network has a LayerNorm"]


def test_one_module_knows_of_grouped_networks():
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    knowing = {path.stem for path in sources if ".grouped_" in path.read_text()}
    assert knowing == {"together", "grouped_network"}


def test_a_second_stage_has_its_first():
    """It would otherwise train from scratch, since nothing else of its protocol is its own."""
    first = recipe_of(Small, lambda p: torch.optim.SGD(p, 0.5)).build
    recipe = recipe_of(Small, module=Second, first=first)
    assert compare(recipe) == ["Second is the second of two stages"]


class ShiftedAttention(ABMIL):
    """Scores have a bias, whose gradient is nothing but rounding."""

    def __init__(self, *facts):
        super().__init__(*facts, hidden_sizes=[8], attention_dim=4)
        self.attention_score = nn.Linear(4, 1)


class InPlace(Small):
    def __init__(self, *facts):
        super().__init__(*facts)
        first, second = nn.Linear(facts[0], 4), nn.Linear(4, 4)
        dropout = nn.Dropout(0.5, inplace=True)
        self.embed = nn.Sequential(first, nn.ReLU(inplace=True), second, dropout)


class Sharing(Small):
    """Uses one layer twice, under two names."""

    def __init__(self, *facts):
        super().__init__(*facts)
        layer = nn.Linear(4, 4)
        self.embed = nn.Sequential(self.embed, layer, nn.ReLU(), layer)


@pytest.mark.parametrize("learner", [ShiftedAttention, InPlace, Sharing])
@pytest.mark.parametrize("batch", [1, 4])
def test_what_looks_unlike_goes_together(learner, batch):
    assert compare(recipe_of(learner, batch=batch)) == []


def test_files_of_which_copies_fill_the_memory_go_one_by_one(monkeypatch):
    bags = bags_of()
    monkeypatch.setattr(together, "_MOST_VALUES", 2 * bags.features.size - 1)
    (told,) = compare(recipe_of(mi_net, steps=2), bags)
    assert "too much memory" in told


def test_batches_of_a_token_budget_go_one_by_one():
    recipe = recipe_of(mi_net, steps=4)
    recipe = dataclasses.replace(recipe, plan=BatchPlan(4, token_budget=9))
    assert compare(recipe) == ["with token_budget batches differ in their number of bags"]


def test_a_loss_that_is_not_finite_is_told_as_by_a_fold_alone():
    """The fold is named, and the bag by its number in a file of which bags were left out."""
    bags = bags_of()
    bags = bags._replace(kept=np.arange(BAGS) + 100)
    bags.features[bags.offsets[1]] = np.inf  # of bag 1, on which fold 1 tests
    recipe = recipe_of(mi_net, steps=30, standardise=False)
    for tasks, first in ((TASKS, 0), (TASKS[1:], 2)):
        message = rf"^repeat 0, fold {first}: loss is not finite: .*samples \[101\]"
        with pytest.raises(ValueError, match=message):
            run_folds(bags, tasks, recipe)
        with pytest.raises(ValueError, match=message):
            run_fold(bags, FOLDS, recipe, (4, 0, first))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_gives_what_it_gives_one_by_one(name):
    build = module_builder(Recipe.of(ROOT / f"configs/mil/{name}.yaml").section("model"))
    recipe = FoldRecipe(build, BatchPlan(2), max_steps=3)
    if not hasattr(build(2, WIDTH, "binary"), "receive"):  # stages have tests of their own
        reasons = compare(recipe, tasks=TASKS[1:])  # on 15 bags and on 16
        assert not reasons or name not in ("mi_net", "abmil", "dsmil", "aem", "top_k_instance")
