"""What a fold of times keeps of its training bags."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.cross_validation.fold import Fold
from engine.cross_validation.folds import finish_fold
from evaluation.targets.censoring import breslow
from lightning_modules.mil import MILModule
from models.mil.abmil import ABMIL
from structures import BagBatch
from tests.support.target_bags import COUNT, WIDTH, bags_of


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
