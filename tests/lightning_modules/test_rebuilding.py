"""A checkpoint alone gives the trained module, and nothing in the file is executed."""

import pytest
import torch

from engine.checkpoints.restore import restore
from lightning_modules.base import TrainedModule
from lightning_modules.mil import MILModule
from lightning_modules.rebuilding import place, without_sources
from lightning_modules.segmentation import SegmentationModule
from tests.support.tiny_checkpoints import YOLO, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("c") / "a.ckpt", YOLO, liven=1.0)


@pytest.mark.parametrize("kind", [SegmentationModule, TrainedModule])
def test_a_file_alone_gives_what_restore_gives(checkpoint, kind):
    module, expected = kind.load_from_checkpoint(checkpoint), restore(checkpoint).module
    assert type(module) is SegmentationModule
    assert not module.training
    assert module.category_map == expected.category_map
    assert module.blueprint == expected.blueprint
    assert module.hparams == expected.hparams
    torch.testing.assert_close(module.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_another_class_and_further_arguments_are_refused(checkpoint):
    with pytest.raises(ValueError, match="a.ckpt: holds a SegmentationModule, .*no MILModule; use"):
        MILModule.load_from_checkpoint(checkpoint)
    options = {"strict": False, "weights_only": False, "model": torch.nn.Identity()}
    with pytest.raises(ValueError, match="takes no strict=False, model: .*by init_from"):
        SegmentationModule.load_from_checkpoint(checkpoint, **options)


class Executes:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_the_file_is_not_executed(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"hyper_parameters": Executes()}, tmp_path / "b.ckpt")
    for options in ({}, {"weights_only": False}):
        with pytest.raises(ValueError, match="b.ckpt: refused, because it holds more than tensors"):
            SegmentationModule.load_from_checkpoint(tmp_path / "b.ckpt", **options)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class_path", "lightning_modules.segmentation.Gone", "its model cannot be built"),
        ("class_path", "builtins.print", "its model cannot be built"),
        ("init_args", {}, "its model cannot be built"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(checkpoint, tmp_path, key, value, message):
    content = torch.load(checkpoint, weights_only=True)
    content["segmil"]["blueprint"]["model"][key] = value
    torch.save(content, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=f"b.ckpt: {message}"):
        SegmentationModule.load_from_checkpoint(tmp_path / "b.ckpt")


def test_place_sets_a_nested_value():
    config = {"init_args": {"model": {"init_args": {"num_classes": None}}}}
    place(config, "init_args.model.init_args.num_classes", 7)
    assert config["init_args"]["model"]["init_args"]["num_classes"] == 7


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
