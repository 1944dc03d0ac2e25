"""Checkpoints of a model that takes the mean of each feature as the logit of a class."""

from typing import ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from torch import nn

from lightning_modules.mil import MILModule
from lightning_modules.rebuilding import FORMAT, LINKS, place
from models.losses.bag_loss import bag_terms
from models.mil.protocol import num_logits
from structures import MILOutput
from tests.support.tiny_encoder import TinyEncoder

WIDTH = 4


class MeanFeatures(nn.Module):
    """The logits are the means of the first features over a bag; nothing is trained."""

    predicted: ClassVar[list] = []  # ids of all bags that any instance has predicted

    def __init__(self, in_features: int, num_classes: int, task: str = "binary", factor: float = 1):
        super().__init__()
        self.num_classes, self.task, self.factor = num_classes, task, factor
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, bags):
        self.predicted.extend(bags.bag_ids)
        count = num_logits(self.num_classes, self.task)
        means = [bag.features[:, :count].mean(dim=0) for bag in bags.bags()]
        return MILOutput(logits=self.factor * self.weight * torch.stack(means))

    def losses(self, output, bags, reduction="mean"):
        return bag_terms(output, bags.labels, self.task, reduction=reduction)


def write_mean(path, task="binary", num_classes=2, factor=1.0, preprocessing=None, **facts):
    """Write a checkpoint in the format of `train.py`, which says that it was trained on an npz."""
    model = {"class_path": "tests.support.mean_bags.MeanFeatures", "init_args": {"factor": factor}}
    section = {
        "class_path": "lightning_modules.mil.MILModule",
        "init_args": {
            "model": model,
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
        },
    }
    links = {"in_features": WIDTH, "num_classes": num_classes, "task": task}
    full = {"model": {**section, "init_args": {**section["init_args"], "model": dict(model)}}}
    full["model"]["init_args"]["model"]["init_args"] = dict(model["init_args"])
    for fact, value in links.items():
        place(full["model"], LINKS[fact], value)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MILModule, "model")
    module = parser.instantiate_classes(parser.parse_object(full)).model
    prepared = {"eval_batch_size": 3, "standardise": False} | (preprocessing or {})
    known = {
        "class_names": [f"c{n}" for n in range(num_classes)],
        "threshold": 0.5,
        "preprocessing": prepared,
    }
    data = {"class_path": "datamodules.mil.npz.TabularBagsDataModule", "init_args": {}}
    blueprint = {"model": section, "links": links, "data": data}
    record = {"format": FORMAT, "facts": known | facts, "precision": "32-true"}
    lightning = {"pytorch-lightning_version": pl.__version__, "epoch": 0, "global_step": 0}
    record["blueprint"] = blueprint
    torch.save({"state_dict": module.state_dict(), "segmil": record, **lightning}, path)
    return path


def write_bags(path, labels=None, count=40, seed=0):
    """Write an npz of bags of 1 to 12 instances; the first features of a class are larger."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2 if labels is None else labels
    sizes = rng.integers(1, 13, len(labels))
    features = rng.normal(size=(sizes.sum(), WIDTH)) * [1, 2, 3, 1] + [0, 0, 0, 5]
    at = np.repeat(np.arange(len(labels)), sizes)
    evidence = labels if labels.ndim == 2 else np.eye(3)[labels][:, [1, 0, 2]]
    features[:, : evidence.shape[1]] += 0.8 * evidence[at] - 0.3
    np.savez(path, X=features.astype(np.float32), bag_index=at, y=labels)
    return path


def small_encoder():
    """Return an encoder of patches of 16 pixels, as wide as the model's features."""
    return TinyEncoder(width=WIDTH, input_size=16, seed=4, factor=3.0)


def write_patches(root, count=8, side=16):
    """Write a table of slides with features, and patches of each; return table and folder."""
    rng = np.random.default_rng(0)
    (root / "features").mkdir(parents=True)
    lines = ["slide_id,patient_id,label"]
    for number in range(count):
        bag, patches = f"s{number}", 1 + number % 3
        np.save(root / "features" / f"{bag}.npy", rng.normal(size=(5, WIDTH)).astype(np.float32))
        (root / "patches" / bag).mkdir(parents=True)
        for patch in range(patches):
            pixels = rng.integers(0, 256, (side // 4, side // 4, 3)).repeat(4, 0).repeat(4, 1)
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(root / "patches" / bag / f"{patch}.png")
        lines.append(f"{bag},p{number},{number % 2}")
    table = root / "slides.csv"
    table.write_text("\n".join(lines) + "\n")
    return table, root / "patches"
