"""The recipes of configs/mil as modules on small bags, for tests of all models."""

import copy
import functools
import json
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


@functools.cache
def _parsed(text):
    """Return a ``model`` section, its types checked; facts of the data are placeholders.

    Checking them takes ten times as long as building the module does.
    """
    section = json.loads(text)
    for fact, value in {"in_features": 1, "num_classes": 2, "task": "binary"}.items():
        place(section, LINKS[fact], value)
    return _parser().parse_object({"model": section})


def module_of(section, in_features, num_classes, task):
    """Return the module of the ``model`` section of a recipe."""
    config = _parsed(json.dumps(section)).clone()
    facts = {"in_features": in_features, "num_classes": num_classes, "task": task}
    for fact, value in facts.items():
        config[f"model.{LINKS[fact]}"] = value
    return _parser().instantiate_classes(config).model


def merged(section, changes):
    """Return nested dictionaries with some values changed."""
    deep = {k: merged(section[k], v) for k, v in changes.items() if isinstance(v, dict)}
    return section | changes | deep


def section_of(name, arguments):
    """Return the ``model`` section of a recipe with other arguments of its model."""
    changes = {"init_args": {"model": {"init_args": arguments}}}
    return merged(settings(name)["model"], changes)


@functools.cache
def _built(name, in_features, num_classes, task, arguments):
    torch.manual_seed(0)
    return module_of(section_of(name, json.loads(arguments)), in_features, num_classes, task)


def build(name, task="binary", num_classes=2, in_features=WIDTH, **arguments):
    """Return a new module with the recipe's widths, or other arguments of its model.

    The weights are always the same.
    """
    known = json.dumps(arguments)
    return copy.deepcopy(_built(name, in_features, num_classes, task, known))


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
