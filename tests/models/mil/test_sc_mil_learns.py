"""SC-MIL and the baselines it is compared to on digit bags of which few are positive.

Run with ``-s`` to see the table: AUROC, macro F1 at 0.5 and balanced accuracy at 0.5.
"""

import functools
import itertools
import sys

import pytest
import torch

from datamodules.mil.base import select_bags
from datamodules.mil.digit_bags import DigitBagsDataModule
from evaluation.mil.scores import evaluate_bags
from lightning_modules.mil import MILModule
from lightning_modules.sc_mil import SCMILModule
from models.mil.abmil import ABMIL
from models.mil.imbalance import ClassWeightedMIL, FocalMIL, LogitAdjustedMIL
from models.mil.sc_mil import SCMIL

pytestmark = pytest.mark.slow

STEPS, BATCH = 500, 16
SHOWN = ("bag_auroc", "bag_f1", "bag_balanced_accuracy")


def learner(*facts):
    return ABMIL(*facts, hidden_sizes=(64,), attention_dim=32, gated=True)


def sc_mil(**options):
    return lambda *facts: SCMIL(*facts, learner=learner, view_instances=20, **options)


def around(wrapper):
    return lambda *facts: wrapper(*facts, learner=learner)


# How the bags of a step are drawn, and the stages: protocol, its options and the model of each.
METHODS = {
    "cross-entropy": ("shuffle", [(MILModule, {}, learner)]),
    "focal": ("shuffle", [(MILModule, {}, around(FocalMIL))]),
    "class-weighted": ("shuffle", [(MILModule, {}, around(ClassWeightedMIL))]),
    "logit adjustment": ("shuffle", [(MILModule, {}, around(LogitAdjustedMIL))]),
    "balanced batches": ("balanced_batches", [(MILModule, {}, learner)]),
    "SC-MIL": ("balanced_batches", [(SCMILModule, {}, sc_mil())]),
    "SC-MIL, stopped": ("balanced_batches", [(SCMILModule, {}, sc_mil(stop_gradient=True))]),
    "SC-MIL, two stages": (
        "balanced_batches",
        [
            (SCMILModule, {}, sc_mil(curriculum="contrastive")),
            (SCMILModule, {"two_stage": True}, sc_mil()),
        ],
    ),
}


@functools.cache
def digit_bags(share, sampler):
    return DigitBagsDataModule(
        train_bags=600, positive_fraction=share, batch_size=BATCH, sampler=sampler
    )


def steps(sampler):
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from sampler


def train(module, data):
    bags = data.source("train")
    module.set_training_bags(bags.index.numpy(), bags.labels.numpy(), bags.sizes().numpy())
    optimizer, module = module.build_optimizer(), module.train()
    for step, keys in enumerate(itertools.islice(steps(data.training_batches()), STEPS)):
        module.progress = step / STEPS
        batch = select_bags(bags, torch.tensor([key.index for key in keys]))
        optimizer.zero_grad()
        module.total_loss(module.training_terms(batch), ()).backward()
        optimizer.step()


def score(method, share):
    sampler, stages = METHODS[method]
    data, before = digit_bags(share, sampler), None
    torch.manual_seed(0)
    for protocol, options, model in stages:
        module = protocol(
            model(64, 2, "binary"),
            lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.01, fused=True),
            **options,
        )
        if before is not None:
            module.receive(before)
        train(module, data)
        before = module.model.state_dict()
    test = data.source("test")
    with torch.no_grad():
        chances = module.eval().network(test).probabilities("binary")
    return evaluate_bags(test.labels.numpy(), chances.double().numpy(), "binary", 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_few_positive_bags_are_learnt(method):
    """One bag in ten is positive. A model that calls all negative has a macro F1 of 0.47."""
    found = score(method, 0.1)
    sys.stdout.write(f"\n{method:20} " + "  ".join(f"{n} {found[n]:.3f}" for n in SHOWN))
    assert found["bag_auroc"] >= 0.9
    assert found["bag_f1"] >= 0.8
