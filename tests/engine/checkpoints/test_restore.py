"""Checkpoints that are not ours, and the small pieces of rebuilding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import Namespace

from engine.checkpoints.restore import read_record
from engine.config.sections import (
    instantiate_data,
    plain,
    read_data_section,
)


def test_plain_turns_everything_into_containers_and_scalars():
    config = Namespace(a=Namespace(b=(1, 2)), path=Path("x/y"), none=None, flag=True)
    expected = {"a": {"b": [1, 2]}, "path": "x/y", "none": None, "flag": True}
    assert plain(config) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "not a segmil checkpoint"),
        ({"segmil": {"format": 1, "blueprint": None}}, "not a segmil checkpoint"),
        ({"segmil": {"format": 99, "blueprint": {}}}, "checkpoint format 99"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "c.ckpt")
    with pytest.raises(ValueError, match=f"c.ckpt: {message}"):
        read_record(tmp_path / "c.ckpt")


def test_a_recipe_without_usable_data_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    with pytest.raises(ValueError, match="r.yaml: No such file"):
        read_data_section(path)
    path.write_text("model: {}\n")
    with pytest.raises(ValueError, match="r.yaml: the recipe has no `data`"):
        read_data_section(path)
    path.write_text("data: [\n")
    with pytest.raises(ValueError, match="r.yaml: is not valid YAML"):
        read_data_section(path)
    wrong = {
        "class_path": "datamodules.mil.digit_bags.DigitBagsDataModule",
        "init_args": {"targett": 3},
    }
    with pytest.raises(ValueError, match="targett"):
        instantiate_data(wrong, {})


def test_preprocessing_of_the_checkpoint_wins_over_the_recipe(tmp_path):
    path = tmp_path / "bags.npz"
    np.savez(path, X=np.arange(20.0).reshape(10, 2), bag_index=np.arange(10), y=np.arange(10) % 2)
    section = {
        "class_path": "datamodules.mil.npz.TabularBagsDataModule",
        "init_args": {"file": str(path)},
    }
    statistics = {"mean": [1.0, 2.0], "std": [3.0, 4.0], "clip": None, "eval_batch_size": 5}
    data = instantiate_data(section, statistics)
    assert data.evaluation_arguments() == statistics
