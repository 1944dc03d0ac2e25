"""Every recipe's model finds the target digit of digit bags, and nothing where labels are drawn.

Each is trained by its own protocol, both stages where there are two, with an optimizer and a length
that suit digits; widths (but for transformers'), terms and their weights are the recipe's. Every
model is found by its recipe; the tables below are for those that cannot express the usual bags,
or not in a few seconds.
"""

import dataclasses
import functools

import pytest
import torch

from datamodules.mil.base import select_bags
from datamodules.mil.digit_bags import DigitBagsDataModule
from evaluation.mil.scores import evaluate_bags
from lightning_modules.staged import StagedMILModule
from tests.support.mil_recipes import NAMES, module_of, prepare, section_of, settings

pytestmark = pytest.mark.slow

BATCH, EPOCHS, RATE = 20, 12, 2e-3
# Of drawn labels, a share of these epochs: right ones tell in as many, but for the models below,
# which get all of them.
DRAWN_SHARE = 0.4
DRAWN_AS_LONG = {"dsmil", "mhim_v2", "min_max_lattice", "monotone_max", "noisy_or_instance"}
# Options of the digit bags for models that cannot express that one instance decides: the mean
# of all instances, or of more than a bag's few targets, needs more of them.
BAGS = {
    "mean_instance": {"witness_rate": 0.5},
    "mean_embedding": {"witness_rate": 0.5},
    "top_k_instance": {"witness_rate": 0.5},
}
# Of a bag of ten it masks the most telling one in every step (ceil(.03 x 10) = 1), as a rule the
# only target.
BAGS["mhim_v2"] = {"witness_rate": 0.3}
# Arguments of the model that only cost time where bags have ten instances, and the width for
# features of slides where the recipe follows the features: half of 64 is too little here.
ARGUMENTS = {
    "aem_mha": {"learner": {"init_args": {"hidden_size": 512}}},
    "ins": {"queue_size": 1024},
    "transmil": {"width": 128, "landmarks": 8},
    "mhim_transmil": {"learner": {"init_args": {"width": 128, "landmarks": 8}}},
}
# Models that need the optimizer and schedule of their recipe, and other lengths of training.
OWN_OPTIMIZER = {"ins"}
EPOCHS_OF = dict.fromkeys(
    ("acmil", "dsmil", "dsmil_classic", "monotone_max", "noisy_or_instance", "self_vit_mil"), 24
)
EPOCHS_OF |= {"min_max_lattice": 40, "ins": 50, "transmil": 5, "mhim_transmil": 5}


@functools.cache
def digit_bags(**options):
    data = DigitBagsDataModule(**options)
    return data.source("train"), data.source("test")


def bags_for(name):
    """Return training and test bags; a recipe whose own data are digit bags says which."""
    data = settings(name)["data"]
    own = data["init_args"] if data["class_path"].endswith("DigitBagsDataModule") else {}
    return digit_bags(
        **{n: v for n, v in own.items() if "batch_size" not in n}, **BAGS.get(name, {})
    )


def train(module, bags, name, epochs):
    """Run a module's training terms on batches of bags, with all that a step of it holds."""
    steps, done = epochs * (len(bags) // BATCH), 0
    module = prepare(module, bags, progress=0.0).train()
    if name in OWN_OPTIMIZER:
        optimizer = module.build_optimizer()
        schedule = module.scheduler_factory(optimizer, steps)
    else:
        optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(epochs):
        for positions in torch.randperm(len(bags)).split(BATCH):
            module.progress = done / steps
            batch = select_bags(bags, positions)
            optimizer.zero_grad()
            module.weighted_sum(module.training_terms(batch)).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
            module.after_optimizer_step()
            schedule.step()
            done += 1
    return module


def auroc(name, bags, test, seed, drawn=False):
    """Train a recipe's model, after its first stage if it has one, and score it on test bags.

    With ``drawn`` labels the training of most is shorter.
    """
    epochs = EPOCHS_OF.get(name, EPOCHS)
    if drawn and name not in DRAWN_AS_LONG:
        epochs = int(DRAWN_SHARE * epochs)
    torch.manual_seed(seed)
    section = section_of(name, ARGUMENTS.get(name, {}))
    facts = (bags.features.shape[1], 2, "binary")
    module = module_of(section, *facts)
    if isinstance(module, StagedMILModule):
        first = type(module).first_stage(section)
        if first is not None:
            trained = train(module_of(first, *facts), bags, name, epochs)
            module.receive(trained.model.state_dict())
    train(module, bags, name, epochs)
    with torch.no_grad():
        scores = module.eval().network(test).probabilities("binary")
    return evaluate_bags(test.labels, scores, "binary")["bag_auroc"]


def drawn_labels(bags, swapped):
    """Return the bags with labels that are right for half of either class.

    What chance makes of such labels is undone by ``swapped`` ones, which are right for the others.
    """
    generator = torch.Generator().manual_seed(0)
    labels = bags.labels.clone()
    for value in (0, 1):
        of_class = torch.nonzero(bags.labels == value)[:, 0]
        order = torch.randperm(len(of_class), generator=generator)
        labels[of_class[order]] = (torch.arange(len(of_class)) + swapped) % 2
    return dataclasses.replace(bags, labels=labels)


@pytest.mark.parametrize("name", NAMES)
def test_digit_bags_are_learned(name):
    bags, test = bags_for(name)
    assert auroc(name, bags, test, seed=0) >= 0.90


@pytest.mark.parametrize("name", NAMES)
def test_drawn_labels_teach_nothing(name):
    bags, test = bags_for(name) if name in DRAWN_AS_LONG else digit_bags()
    scores = [auroc(name, drawn_labels(bags, s), test, seed=0, drawn=True) for s in (0, 1)]
    assert sum(scores) / 2 == pytest.approx(0.5, abs=0.2)
