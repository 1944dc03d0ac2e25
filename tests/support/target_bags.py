"""Small bags with planted times, values or grades, for tests of whole commands.

The first feature of an instance carries what is planted: a bag's hazard, value or grade is that of
its mean. A third of the times is censored; a quarter of the values is unknown.
"""

import functools

import numpy as np
import torch

from datamodules.mil.base import MILDataModule
from structures import BagBatch

WIDTH = 6
SIZES = {"train": 40, "val": 24, "test": 30}
NAMES = ("weight", "square")
COUNT = {"cox": 1, "discrete_time": 4, "regression": 2, "ordinal": 3}


@functools.cache
def bags_of(task, seed=0):
    """Return all bags packed, their patients two bags each."""
    random = np.random.default_rng(seed)
    total = sum(SIZES.values())
    sizes = random.integers(1, 7, total)
    level = random.normal(size=total)
    features = random.normal(size=(sizes.sum(), WIDTH)).astype(np.float32)
    features[:, 0] = np.repeat(level, sizes) + 0.1 * features[:, 0]
    patients = [f"p{number // 2}" for number in range(total)]
    if task in ("cox", "discrete_time"):
        level = np.repeat(level[::2], 2)
        features[:, 0] = np.repeat(level, sizes)
        time = np.repeat(np.ceil(random.exponential(10 * np.exp(-1.5 * level[::2]))), 2)
        event = np.repeat(random.random(total // 2) < 0.67, 2)
        labels = torch.from_numpy(np.stack([time, event], axis=1).astype(np.float64))
    elif task == "regression":
        values = np.stack([100 + 20 * level, level**2], axis=1)
        values[random.random((total, 2)) < 0.25] = np.nan
        labels = torch.from_numpy(values)
    else:
        labels = torch.from_numpy(np.searchsorted([-0.5, 0.5], level))
    return BagBatch(
        features=torch.from_numpy(features),
        offsets=torch.from_numpy(np.concatenate(([0], sizes.cumsum()))),
        labels=labels,
        index=torch.arange(total),
        bag_ids=tuple(f"b{number}" for number in range(total)),
        groups=tuple(patients),
    )


class Source:
    """The bags by number."""

    def __init__(self, bags):
        self.bags = bags

    def __len__(self):
        return len(self.bags)

    def bag(self, position):
        return self.bags.bag(position)


class TargetBags(MILDataModule):
    """40 bags to train on, 24 to validate on, 30 to test."""

    in_features = WIDTH

    def __init__(
        self,
        task: str = "cox",
        batch_size: int = 10,
        eval_batch_size: int = 8,
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed,
            num_workers=num_workers,
        )  # fmt: skip
        self.task, self.num_classes = task, COUNT[task]
        self.class_names = ["low", "middle", "high"] if task == "ordinal" else []
        self.target_names = NAMES if task == "regression" else ()

    def source(self, split):
        return Source(bags_of(self.task))

    def numbers(self, split):
        start, numbers = 0, {}
        for name, count in SIZES.items():
            numbers[name] = range(start, start + count)
            start += count
        return numbers["test" if split == "predict" else split]

    def contents(self, split):
        chosen, bags = list(self.numbers(split)), bags_of(self.task)
        patients = tuple(bags.groups[n] for n in chosen)
        return bags.labels[chosen].numpy(), bags.sizes()[chosen].numpy(), patients

    def evaluation_arguments(self):
        return {"eval_batch_size": self.eval_batch_size}

    def summary(self):
        return {}

    def describe(self, split):
        return f"{len(self.numbers(split))} bags"

    def _split_rows(self):
        return iter(())


def recipe(task, **changes):
    """Return a whole recipe of a short training."""
    monitor = {"regression": "bag_r2", "ordinal": "bag_quadratic_kappa"}.get(task, "bag_c_index")
    model = {"hidden_sizes": [8], "dropout": 0.0, "attention_dim": 4}
    quiet = dict.fromkeys(("progress", "throughput"), False)
    return {
        "model": {
            "class_path": "lightning_modules.mil.MILModule",
            "init_args": {
                "model": {"class_path": "models.mil.abmil.ABMIL", "init_args": model},
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.02}},
            },
        },
        "data": {
            "class_path": "tests.support.target_bags.TargetBags",
            "init_args": {"task": task},
        },
        "trainer": {"max_epochs": 3, "accelerator": "cpu", "log_every_n_steps": 1},
        "callbacks": quiet,
        "checkpoint": {"monitor": f"val/{monitor}"},
        **changes,
    }


def write_npz(path, task):
    """Write the bags of a task in the npz layout, with their patients; return the path."""
    bags, named = bags_of(task), {}
    labels = bags.labels.numpy()
    if task in ("cox", "discrete_time"):
        named = {"time": labels[:, 0], "event": labels[:, 1].astype(int)}
    else:
        named = {"y": labels} | ({"target_names": NAMES} if task == "regression" else {})
    numbers = np.repeat(np.arange(len(bags)), bags.sizes().numpy())
    np.savez(
        path, X=bags.features.numpy(), bag_index=numbers, groups=np.array(bags.groups), **named
    )
    return path


def npz_recipe(task, **changes):
    """Return a recipe of a short training on such a file, for all commands."""
    data = {
        "class_path": "datamodules.mil.npz.TabularBagsDataModule",
        "init_args": {"task": task, "batch_size": 16, "eval_batch_size": 64},
    }
    content = recipe(task, data=data, trainer={"max_steps": 12, "accelerator": "cpu"})
    del content["callbacks"]
    return content | changes
