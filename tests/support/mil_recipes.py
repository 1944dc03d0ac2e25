"""The recipes of configs/mil as modules on small bags, for tests of all models."""

import copy
import functools
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_modules.rebuilding import LINKS, place
from structures import BagBatch

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs/mil").glob("*.yaml"))
ALL_NAMES = [path.stem for path in RECIPES]
WIDTH = 12  # number of features of an instance


@functools.cache
def settings(name):
    """Return the content of the recipe's file."""
    return yaml.safe_load((ROOT / f"configs/mil/{name}.yaml").read_text())


def target_of(name):
    """Return the task of a recipe for times, values or grades, else None."""
    return settings(name)["data"]["init_args"].get("task")


# Those for classes: what the tests of all models build under every task.
NAMES = [name for name in ALL_NAMES if target_of(name) is None]


def class_paths(node):
    """Return all class paths in a section of a recipe."""
    if isinstance(node, dict):
        own = [node["class_path"]] if "class_path" in node else []
        return own + [path for value in node.values() for path in class_paths(value)]
    return [path for value in node for path in class_paths(value)] if isinstance(node, list) else []


@functools.cache
def _parser():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "model")
    return parser


def module_of(section, in_features, num_classes, task):
    """Return the module of the ``model`` section of a recipe."""
    section = copy.deepcopy(section)
    facts = {"in_features": in_features, "num_classes": num_classes, "task": task}
    for fact, value in facts.items():
        place(section, LINKS[fact], value)
    return _parser().instantiate_classes(_parser().parse_object({"model": section})).model


@functools.cache
def _built(name, in_features, num_classes, task):
    torch.manual_seed(0)
    return module_of(settings(name)["model"], in_features, num_classes, task)


def build(name, task="binary", num_classes=2, in_features=WIDTH):
    """Return a new module with the recipe's widths; the weights are always the same."""
    return copy.deepcopy(_built(name, in_features, num_classes, task))


def random_bags(sizes, task="binary", num_classes=2, seed=0, dtype=torch.float32, width=WIDTH):
    """Return bags of noise; labels alternate, and bag numbers have gaps and do not start at 0."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.arange(len(sizes))
    labels = numbers % num_classes
    if task == "multilabel":
        labels = (numbers[:, None] + torch.arange(num_classes)) % 2
    return BagBatch(
        features=torch.randn(sum(sizes), width, generator=generator).to(dtype),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=labels,
        index=5 + 3 * numbers,
    )


def prepare(module, bags, progress=0.5):
    """Set the training bags of a module and its progress."""
    module.set_training_bags(*(np.asarray(c) for c in (bags.index, bags.labels, bags.sizes())))
    module.progress = progress
    return module


def without_dropout(module):
    """Set all dropout probabilities to 0."""
    for part in module.modules():
        if isinstance(part, torch.nn.modules.dropout._DropoutNd):
            part.p = 0.0
        for name, value in vars(part).items():
            if "dropout" in name and isinstance(value, float):
                setattr(part, name, 0.0)
    return module
