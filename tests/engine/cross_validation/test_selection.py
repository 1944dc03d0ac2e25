"""When a fold validates, which weights it keeps and when it ends, beside Lightning's callbacks."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping

from engine.cross_validation.selection import Interval, Selection, Selector, Stopping


def due(interval, batches, length, step=1):
    """Return the numbers of batches after which a training of steps of ``step`` validates."""
    ends = range(step, batches + 1, step)
    return [end for end in ends if interval.is_due(end - step, end, length)]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(), [5, 10, 15, 20]),
        (Interval(1.0, 2), [10, 20]),
        (Interval(0.5), [2, 4, 7, 9, 12, 14, 17, 19]),  # int(5 x 0.5) = 2, counted in each epoch
        (Interval(0.1), list(range(1, 21))),
        (Interval(3), [3, 8, 13, 18]),
        (Interval(3, None), [3, 6, 9, 12, 15, 18]),  # over all epochs
        (Interval(7, None), [7, 14]),
    ],
)
def test_validations_come_when_the_trainer_has_them(interval, expected):
    assert due(interval, 20, 5) == expected


def test_a_validation_inside_a_step_waits_for_its_end():
    assert due(Interval(3, None), 20, 5, step=2) == [4, 6, 10, 12, 16, 18]
    with pytest.raises(ValueError, match=r"val_check_interval 7 is more than the 5 batches"):
        due(Interval(7), 20, 5)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "delta"), [(1, 0.0), (3, 0.0), (2, 0.1)])
def test_trainings_end_where_those_of_lightning_end(mode, patience, delta):
    random = np.random.default_rng(3)
    for _ in range(20):
        values = random.integers(0, 8, 12) / 8 if delta == 0 else random.uniform(size=12)
        rule = Stopping("val/x", mode, patience, delta)
        ours = Selector(Selection("val/x", mode, 0.2, stopping=(rule,)))
        theirs = EarlyStopping("val/x", delta, patience, mode=mode)
        module = SimpleNamespace(state_dict=dict, threshold=0.5, progress=0.0)
        for step, value in enumerate(values.tolist()):
            ends, _ = theirs._evaluate_stopping_criteria(torch.tensor(value, dtype=torch.float64))
            assert ours.update(module, {"val/x": value}, step, 0) == ends
            if ends:
                break


def select(values, mode="max"):
    """Return what is selected among the validations of a made-up training, and its weight."""
    weights = {"w": torch.zeros(1)}
    module = SimpleNamespace(state_dict=lambda: weights, threshold=0.5, progress=0.0)
    module.load_state_dict = weights.update
    selector = Selector(Selection("val/x", mode, 0.2))
    for step, value in enumerate(values, 1):
        weights["w"] = weights["w"] + 1
        module.threshold, module.progress = step / 10, step / 100
        selector.update(module, {"val/x": value}, step, step // 2)
    return selector.select(module, len(values), stopped=False), weights["w"].item(), module


def test_the_first_of_the_best_validations_is_taken():
    found, weight, module = select([0.2, 0.7, 0.5, 0.7])
    assert (found.step, found.epoch, found.value, found.steps, weight) == (2, 1, 0.7, 4, 2)
    assert (module.threshold, module.progress) == (0.2, 0.02)
    assert select([0.2, 0.7, 0.1], "min")[0].step == 3
    assert select([math.nan, 0.3, math.nan])[0].step == 2
    with pytest.raises(ValueError, match="not a number in any validation of 2 steps"):
        select([math.nan, math.nan])
    with pytest.raises(ValueError, match="has no val/y, by which .* it has val/x"):
        Selector(Selection("val/y", "max", 0.2)).update(SimpleNamespace(), {"val/x": 1.0}, 1, 0)


def test_bags_of_one_class_are_selected_on_by_the_loss():
    auroc = Stopping("val/bag_auroc", "max", 3, 0.01)
    rule = Selection("val/bag_auroc", "max", 0.2, stopping=(auroc,))
    assert rule.for_labels(np.array([0, 1, 1]), "binary") == rule
    lone = rule.for_labels(np.array([1, 1]), "binary")
    assert (lone.monitor, lone.mode) == ("val/loss", "min")
    assert lone.stopping == (Stopping("val/loss", "min", 3, 0.01),)
    accuracy = Selection("val/bag_accuracy", "max", 0.2)
    assert accuracy.for_labels(np.array([1, 1]), "binary") == accuracy
