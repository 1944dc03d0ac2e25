"""Times, values and grades: several processes have the gradients of one with all their bags.

In float64, with uneven numbers of bags, and one process without an event or a known target.
"""

import contextlib
import dataclasses
import functools
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from evaluation.targets.training_bags import TrainingBags
from lightning_modules.mil import MILModule
from lightning_modules.targets.after_training import pass_over
from models.mil.abmil import ABMIL
from models.mil.dtfd import DTFD
from models.mil.target_losses import BreslowCox
from structures import BagBatch
from structures.processes import mean_over_processes
from tests.models.mil.test_every_target import (
    FIRST,
    KINDS,
    TARGETS,
    TRAINED,
    module_for,
    target_bags,
)
from tests.models.mil.test_every_target import without_dropout as no_dropout
from tests.support.target_bags import WIDTH, TargetBags

# The widest by far: what it does with them is the same.
SMALLER = {"transmil": {"width": 64, "landmarks": 4}}
SHARES = {2: [[0, 2, 3, 4, 6], [1, 5]], 3: [[0, 2], [1], [3, 4, 5, 6]]}


def without_targets(bags, task, chosen):
    """Return the bags with some that have no event or no known target."""
    labels = bags.labels.clone()
    if task in ("cox", "discrete_time"):
        labels[chosen, 1] = 0
    else:
        labels[chosen] = -1 if task == "ordinal" else math.nan
    return dataclasses.replace(bags, labels=labels)


class Terms(torch.nn.Module):
    """Sums the terms inside ``forward``, where DDP prepares the averaging."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, bags):
        return torch.stack([*self.module.training_terms(bags).values()]).sum()


def steps(rank, world, task, names, shares):
    """Return losses and gradients of a step, and of one in which nobody has a target."""
    bags, found = target_bags(task), {}
    some = without_targets(bags, task, shares[1])
    for name in names:
        module = module_for(name, task, some, **SMALLER.get(name, {}))
        module = no_dropout(module.double().train())
        step = Terms(module)
        step = DistributedDataParallel(step) if world > 1 else step
        for number, batch in enumerate((some, without_targets(bags, task, slice(None)))):
            mine = batch
            if world > 1:
                mine = BagBatch.collate([batch.bag(i) for i in shares[rank]])
            module.zero_grad()
            torch.manual_seed(3)  # the same keys of masks and views everywhere
            loss = step(mine)
            loss.backward()
            gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.requires_grad}
            value = mean_over_processes(loss.detach()).item()
            found[name, number] = value, gradients
    return found


@pytest.mark.parametrize("task", TARGETS)
def test_gradients(processes, world, task):
    """On two processes for one model of each kind, on three for a recipe of each model."""
    names = [n for n, t in TRAINED if t == task and n in (FIRST if world == 3 else KINDS)]
    case = {"task": task, "names": names, "shares": SHARES[world]}
    alone, ranks = processes.beside_one(world, steps, seconds=300, **case)
    for one in ranks:
        for key, (wanted, reference) in alone.items():
            loss, gradients = one[key]
            assert loss == pytest.approx(wanted, rel=1e-6, abs=1e-9), key
            scale = max(float(g.abs().max()) for g in reference.values())
            for name, gradient in reference.items():
                error = float((gradients[name] - gradient).abs().max())
                assert error <= 1e-9 * scale, (key, name)


def abmil(in_features, num_classes, task):
    return ABMIL(in_features, num_classes, task, hidden_sizes=(4,), attention_dim=3)


def validation(rank, world, task, shares):
    """Return what a validation logs; the last process has no bag at all."""
    torch.manual_seed(0)
    found = []
    for learner in (DTFD, abmil, functools.partial(BreslowCox, learner=abmil)):
        if task != "cox" and isinstance(learner, functools.partial):
            continue
        bags = without_targets(target_bags(task, dtype=torch.float32), task, [2])
        model = learner(12, TARGETS[task], task)
        module = MILModule(model, torch.optim.SGD).eval()
        mine = [bags] if world == 1 else [bags.bag(i) for i in shares[rank]]
        found.append(module.validation_metrics(mine))
    return found


@pytest.mark.parametrize("task", TARGETS)
def test_validation_is_of_the_whole_split(processes, world, task):
    shares = [[0, 2, 3], [6, 1, 4, 5], []] if world == 3 else [[0, 1, 2, 3, 4, 5, 6], []]
    alone, ranks = processes.beside_one(world, validation, task=task, shares=shares)
    for one in ranks:
        assert one == ranks[0]
        for found, wanted in zip(one, alone, strict=True):
            assert found == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def passed(rank, world):
    """Return what the pass over the training bags finds, each process with its share of them."""
    torch.manual_seed(0)
    module, data = MILModule(abmil(WIDTH, 1, "cox"), torch.optim.SGD), TargetBags("cox")
    plain = SimpleNamespace(val_step_context=contextlib.nullcontext)
    trainer = SimpleNamespace(precision_plugin=plain)
    labels = TrainingBags.of(data.contents("train")[0])
    return pass_over(module, trainer, data, labels).plain()


def test_the_pass_over_the_training_bags_is_that_of_one_process(processes, world):
    alone, ranks = processes.beside_one(world, passed)
    assert len(alone["risk"]) == 40 and len(alone["baseline"]["times"]) > 5
    for one in ranks:
        assert one == alone
