"""The sweeps of `configs/sweeps`: what W&B and the command line take."""

import random
from pathlib import Path

import pytest
import yaml

import train

ROOT = Path(__file__).resolve().parents[3]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def choices(sweep):
    """Return the values, or the ends of the range, of each parameter."""
    return {
        name: given["values"] if "values" in given else [given["min"], given["max"]]
        for name, given in sweep["parameters"].items()
    }


def started(sweep, values):
    """Return the words of the command for drawn values, without the program."""
    return [*sweep["command"][3:-1], *(f"--{name}={value}" for name, value in values.items())]


def test_there_is_a_sweep_for_each_kind_of_model():
    names = [path.stem for path in SWEEPS]
    assert names == ["abmil_digits", "mask_rcnn_digits", "mhim_digits", "yolo_digits"]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_sweeps_are_what_wandb_takes(path):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"]["goal"] in ("maximize", "minimize")
    assert sweep["metric"]["name"].startswith("best/val/")
    assert set(sweep) <= {
        "program", "project", "name", "method", "metric", "early_terminate", "parameters", "command"
    }  # fmt: skip
    assert (ROOT / sweep["program"]).is_file()
    for given in sweep["parameters"].values():
        if "values" not in given:
            assert given["distribution"] in ("uniform", "log_uniform_values")
            assert 0 < given["min"] < given["max"]
    command = sweep["command"]
    assert command[:3] == ["${env}", "${interpreter}", "${program}"]
    assert command[-1] == "${args}"


@pytest.mark.parametrize("end", [0, -1])
@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_the_ends_of_a_sweep_are_recipes(path, end):
    sweep = yaml.safe_load(path.read_text())
    values = {name: given[end] for name, given in choices(sweep).items()}
    assert train.main([*started(sweep, values), "--print_config"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_a_drawn_command_takes_a_step(path, tmp_path):
    sweep, draw = yaml.safe_load(path.read_text()), random.Random(path.stem)
    values = {
        name: draw.choice(given["values"])
        if "values" in given
        else draw.uniform(given["min"], given["max"])
        for name, given in sweep["parameters"].items()
    }
    quick = ["--trainer.fast_dev_run", "true", "--runs_dir", str(tmp_path)]
    assert train.main([*started(sweep, values), *quick, "--trainer.accelerator", "cpu"]) == 0
