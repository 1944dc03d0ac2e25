"""Checkpoints that are not ours, and the small pieces of rebuilding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import Namespace

from engine.checkpoints.restore import read_record
from engine.config.sections import (
    instantiate_data,
    place,
    plain,
    read_data_section,
    without_sources,
)


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


@pytest.mark.parametrize(
    "kind", ["timm_fpn.TimmFPN", "timm_features.TimmFeatures", "dino_embedding.DinoEmbedding"]
)
def test_the_files_a_model_once_started_from_are_not_needed_again(kind):
    began = {"weights": "gone.pth", "pretrained": True}
    backbone = {"class_path": f"models.backbones.{kind}", "init_args": {"name": "x", **began}}
    network = {"class_path": "models.seg.mask_rcnn.MaskRCNN", "init_args": {"backbone": backbone}}
    config = {
        "class_path": "lightning_modules.segmentation.SegmentationModule",
        "init_args": {"init_from": "gone.pt", "model": network, "loss_weights": {"weights": 2.0}},
    }
    clean = without_sources(config)
    assert clean["init_args"]["init_from"] is None
    assert clean["init_args"]["loss_weights"] == {"weights": 2.0}
    cleaned = clean["init_args"]["model"]["init_args"]["backbone"]
    assert cleaned["init_args"] == {"name": "x", "weights": None, "pretrained": False}
    assert config["init_args"]["init_from"] == "gone.pt"
    assert backbone["init_args"]["weights"] == "gone.pth"


@pytest.mark.parametrize("path", [None, "nothere.Model", "torch.nn.Linear", "torch.relu"])
def test_a_class_that_declares_nothing_keeps_its_arguments(path):
    config = {"class_path": path, "init_args": {"weights": "w.pt", "sizes": [1, {"a": 2}]}}
    assert without_sources(config) == config


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
