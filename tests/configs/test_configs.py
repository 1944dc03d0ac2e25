"""Every shipped recipe parses, builds at full size and runs one step on embedded data."""

import copy
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentParser

import train
from lightning_modules.rebuilding import LINKS, place
from tests.support.mil_recipes import class_paths

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
RECIPES = sorted(
    p.relative_to(ROOT)
    for p in CONFIGS.rglob("*.yaml")
    if not {"_base", "sweeps"} & set(p.relative_to(CONFIGS).parts)
    and not p.stem.startswith("extract_")  # test_slide_recipes.py
)
BASES = sorted(p.relative_to(ROOT) for p in (CONFIGS / "_base").rglob("*.yaml"))
TABLE = yaml.safe_load((ROOT / "tests/configs/recipes.yaml").read_text())
# What data give a model when a recipe is built without data: classes of COCO, or a binary task.
FACTS = {
    "seg": {"num_classes": 80},
    "open": {"num_classes": 1},  # class-agnostic
    "known": {"num_classes": 123},  # those that LVIS-OW knows
    "mil": {"in_features": 512, "num_classes": 2, "task": "binary"},
}
# Outputs of the recipes for times, values and grades.
OUTPUTS = {"cox": 1, "discrete_time": 4, "regression": 1, "ordinal": 4}


def kind(recipe):
    module = yaml.safe_load((ROOT / recipe).read_text())["model"]["class_path"].rpartition(".")[2]
    kinds = {"SegmentationModule": "seg", "LowLightModule": "seg", "OpenWorldModule": "open"}
    kinds["SegPromptModule"] = "known"
    return kinds.get(module, "mil")


def task_of(recipe):
    """The task that the data section of a recipe names, or None."""
    data = yaml.safe_load((ROOT / recipe).read_text())["data"]
    return None if isinstance(data, str) else data.get("init_args", {}).get("task")


def build_module(recipe):
    model = copy.deepcopy(yaml.safe_load((ROOT / recipe).read_text())["model"])
    target = task_of(recipe)
    known = {"task": target, "num_classes": OUTPUTS[target]} if target else {}
    for fact, value in (FACTS[kind(recipe)] | known).items():
        place(model, LINKS[fact], value)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(pl.LightningModule, "model")
    return parser.instantiate_classes(parser.parse_object({"model": model})).model


def sized(recipe):
    """Initial values of a large transformer take seconds."""
    slow = recipe.stem == "eomt_large"
    return pytest.param(recipe, id=str(recipe), marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("recipe", map(sized, RECIPES))
def test_full_size_network_and_optimizer(recipe):
    """Parameter count, optimizer and schedule equal a checked-in table."""
    module = build_module(recipe)
    names = ("w", "w_bias", "backbone")
    groups = [{"params": torch.nn.Parameter(torch.zeros(1)), "name": n} for n in names]
    optimizer = module.optimizer_factory(groups)
    group = optimizer.param_groups[0]
    scheduler = module.scheduler_factory(optimizer, 1000) if module.scheduler_factory else None
    found = {
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "optimizer": type(optimizer).__name__,
        "lr": max(group["lr"], getattr(scheduler, "base_lrs", [0.0])[0]),
        "weight_decay": group["weight_decay"],
        "schedule": type(scheduler).__name__,
        "lr_at": [round(scheduler.factor(s), 6) for s in (0, 500, 999)] if scheduler else None,
        "loss_weights": module.loss_weights,
    }
    expected = TABLE.get(str(recipe))
    if expected is None:
        pytest.skip(f"not in tests/configs/recipes.yaml, where it would be {found}")
    assert found == expected


def test_the_table_has_no_recipe_that_is_gone():
    assert set(TABLE) <= {str(r) for r in RECIPES}


SEEN = {}  # classes of module and network -> the first recipe that has them


def marked(recipe):
    """Large networks take seconds, and one recipe of the same classes is enough."""
    large = recipe.parent.name == "seg" and recipe.stem != "yolo_n"
    classes = class_paths(yaml.safe_load((ROOT / recipe).read_text())["model"])
    ours = tuple(c for c in classes if c.startswith(("models.", "lightning_modules.")))
    first = SEEN.setdefault(ours, recipe) == recipe
    slow = large or not first
    return pytest.param(recipe, id=str(recipe), marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("recipe", [marked(r) for r in RECIPES])
def test_one_fast_dev_step_on_embedded_data(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    overlays = {
        "seg": ("data/digit_scenes", "small_images"),
        "open": ("data/digit_open_world", "small_images"),
        "known": ("data/digit_open_world", "small_images"),
        "mil": ("data/digit_bags", "small_bags"),
    }
    arguments = ["fit", "--config", str(recipe)]
    for overlay in overlays[kind(recipe)]:
        arguments += ["--config", f"configs/_base/{overlay}.yaml"]
    arguments += ["--trainer.fast_dev_run", "true", "--runs_dir", str(tmp_path), "--debug"]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    # thousands of regions a batch and larger images cost time and show nothing more
    arguments += ["--data.batch_size", "1", "--data.eval_batch_size", "1"]
    task = task_of(recipe)
    if task == "cox":  # one bag has nothing to be compared with
        arguments[arguments.index("--data.batch_size") + 1] = "8"
    if kind(recipe) != "mil":
        arguments += ["--data.size", "64", "--data.train_scenes", "8"]
    if kind(recipe) == "known":
        arguments += ["--data.class_agnostic", "false"]
    assert train.main(arguments) == 0


def test_every_base_file_is_used_or_documented():
    text = "".join(p.read_text() for p in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    text += "".join(p.read_text() for p in ROOT.glob("*.py")) + Path(__file__).read_text()
    text += (ROOT / "engine/training/cli.py").read_text()
    assert [b for b in BASES if b.stem not in text] == []


def test_no_recipe_holds_an_empty_mapping():
    """A misspelt key with an empty mapping would parse silently."""

    def empty(node):
        if isinstance(node, dict):
            return not node or any(empty(v) for v in node.values())
        return isinstance(node, list) and any(empty(v) for v in node)

    for path in [*RECIPES, *BASES]:
        assert not empty(yaml.safe_load((ROOT / path).read_text())), path
