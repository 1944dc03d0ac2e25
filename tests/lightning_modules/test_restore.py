"""Checkpoints that are not ours, and the small pieces of rebuilding."""

from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from lightning_modules.restore import data_at, instantiate_data, place, plain, read_record


def test_plain_turns_everything_into_containers_and_scalars():
    config = Namespace(a=Namespace(b=(1, 2)), path=Path("x/y"), none=None, flag=True)
    expected = {"a": {"b": [1, 2]}, "path": "x/y", "none": None, "flag": True}
    assert plain(config) == expected


def test_place_sets_a_nested_value():
    config = {"init_args": {"model": {"init_args": {"num_classes": None}}}}
    place(config, "init_args.model.init_args.num_classes", 7)
    assert config["init_args"]["model"]["init_args"]["num_classes"] == 7


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


def test_other_data_get_the_checkpoints_preprocessing():
    pictures = {"category_map": {"ids": [1], "names": ["a"]}, "preprocessing": {"scale": 2.0}}
    seg = data_at(Path("folder"), {"facts": pictures})
    assert seg["class_path"] == "datamodules.PictureFolderDataModule"
    assert seg["init_args"]["scale"] == 2.0
    assert seg["init_args"]["category_map"] == {"ids": [1], "names": ["a"]}
    mil = data_at(Path("bags.npz"), {"facts": {"preprocessing": {"mean": [1.0], "std": [2.0]}}})
    assert mil["class_path"] == "datamodules.TabularBagsDataModule"
    assert mil["init_args"] == {"mean": [1.0], "std": [2.0], "file": "bags.npz"}


def test_a_recipe_without_usable_data_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("model: {}\n")
    with pytest.raises(ValueError, match="r.yaml: the recipe has no `data`"):
        instantiate_data(path)
    path.write_text(
        "data: {class_path: datamodules.DigitBagsDataModule, init_args: {targett: 3}}\n"
    )
    with pytest.raises(ValueError, match="targett"):
        instantiate_data(path)
