"""Predictions of times, values and grades: files that do not fit, units and names from Python."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.deploy.bags import check_targets
from engine.deploy.single import class_probabilities
from lightning_modules.mil import MILModule
from models.mil.abmil import ABMIL
from structures import MILOutput
from structures.tasks import CLASS_TASKS
from tests.support.target_bags import COUNT


def some(task, names=()):
    return SimpleNamespace(task=task, target_names=names)


@pytest.mark.parametrize("task", COUNT)
@pytest.mark.parametrize("other", [*COUNT, "binary"])
def test_targets_of_another_task_are_refused(task, other):
    if task == other:
        check_targets(some(other), Path("a.csv"), some(task))
        return
    message = f"a.csv: the targets are those of {other}, the checkpoint was trained on {task}"
    with pytest.raises(ValueError, match=message):
        check_targets(some(other), Path("a.csv"), some(task))


def test_values_of_other_names_or_in_another_order_are_refused():
    trained = some("regression", ("tmb", "her2"))
    check_targets(some("regression", ("tmb", "her2")), Path("a.csv"), trained)
    for names in (("her2", "tmb"), ("tmb",), ()):
        with pytest.raises(ValueError, match="checkpoint predicts tmb, her2"):
            check_targets(some("regression", names), Path("a.csv"), trained)


def test_classes_are_checked_by_their_number_alone():
    for task in CLASS_TASKS:
        check_targets(some(task), Path("a.csv"), some("binary"))


def restored(task, labels, names=()):
    model = ABMIL(3, COUNT[task], task, hidden_sizes=(2,), attention_dim=2)
    module = MILModule(model, torch.optim.SGD)
    module.fit_targets(np.asarray(labels), COUNT[task], names)
    return SimpleNamespace(module=module)


def test_values_in_their_unit_by_their_names():
    of = restored("regression", [[100.0, np.nan], [140.0, 1.0], [np.nan, 2.0]], ("tmb", "her2"))
    found = class_probabilities(MILOutput(torch.tensor([[1.0, -2.0]])), of)
    assert found == pytest.approx({"tmb": 140.0, "her2": 0.5})  # means 120, 1.5; deviations 20, .5


def test_survival_at_the_edges_and_the_risk():
    of = restored("discrete_time", [[4.0, 1], [8, 1], [12, 1], [16, 1], [20, 1], [30, 0]])
    logits = torch.tensor([[0.0, -1.0, 2.0, 0.5]])
    found = class_probabilities(MILOutput(logits), of)
    survival = np.cumprod([1 - 1 / (1 + np.exp(-x)) for x in logits[0].tolist()])
    assert list(found) == ["risk", "survival_8", "survival_12", "survival_16", "survival_30"]
    assert found["risk"] == pytest.approx(-survival.sum(), abs=1e-6)
    assert list(found.values())[1:] == pytest.approx(survival.tolist(), abs=1e-6)


def test_a_cox_model_has_a_risk_alone():
    of = restored("cox", [[1.0, 1], [2.0, 0]])
    assert class_probabilities(MILOutput(torch.tensor([[0.25]])), of) == {"risk": 0.25}


def test_grades_by_their_names():
    of = restored("ordinal", [0, 1, 2])
    of.module.class_names = ("low", "middle", "high")
    found = class_probabilities(MILOutput(torch.tensor([[0.0, np.log(3.0)]])), of)
    assert found == pytest.approx({"low": 0.5, "middle": 0.125, "high": 0.375})
