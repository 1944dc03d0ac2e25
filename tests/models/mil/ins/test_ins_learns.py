"""INS by its recipe on digit bags: it scores bags, finds the target's instances, and may not."""

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from datamodules.mil.base import select_bags
from datamodules.mil.digit_bags import DigitBagsDataModule
from evaluation.mil.scores import evaluate_bags, witness_auroc
from tests.support.mil_recipes import module_of, settings

pytestmark = pytest.mark.slow


def trained(bags, seed, steps, **arguments):
    section = copy.deepcopy(settings("ins")["model"])
    section["init_args"]["model"]["init_args"]["queue_size"] = 1024  # for bags of ten instances
    torch.manual_seed(seed)
    module = module_of(section, 64, 2, "binary")
    for name, value in arguments.items():
        setattr(module.model, name, value)
    module.set_training_bags(*(np.asarray(c) for c in (bags.index, bags.labels, bags.sizes())))
    optimizer = module.build_optimizer()
    schedule = module.scheduler_factory(optimizer, steps)
    order = torch.cat([torch.randperm(len(bags)) for _ in range(8 * steps // len(bags) + 1)])
    module.train()
    for step in range(steps):
        module.progress = step / steps
        terms = module.training_terms(select_bags(bags, order[8 * step : 8 * step + 8]))
        optimizer.zero_grad()
        module.weighted_sum(terms).backward()
        optimizer.step()
        module.after_optimizer_step()
        schedule.step()
    return module.eval()


def test_bags_and_instances_of_digits():
    data = DigitBagsDataModule()
    bags, test = data.source("train"), data.source("test")
    module = trained(bags, seed=0, steps=600)
    with torch.no_grad():
        output = module.network(test)
    scores = evaluate_bags(test.labels, output.probabilities("binary"), "binary")
    assert scores["bag_auroc"] >= 0.90
    assert roc_auc_score(test.instance_labels, output.instance_logits[:, 0]) >= 0.95
    assert witness_auroc(output.attention, test.instance_labels, test.offsets) >= 0.90
    targets = module.memory.targets[:, 1]
    positive = bags.labels.repeat_interleave(bags.sizes()) == 1
    witness = bags.instance_labels == 1
    assert targets[witness].mean() > targets[positive & ~witness].mean() + 0.3


def test_without_sure_positives_the_targets_of_positive_bags_end_negative():
    """The failure that `least_positives` is against (A137)."""
    bags = DigitBagsDataModule().source("train")
    module = trained(bags, seed=0, steps=300, least_positives=0)
    assert module.memory.targets[bags.instance_labels == 1, 1].mean() < 0.2
