"""Trainings that start from a file, what is refused, and checkpoints that need the file no more."""

import csv
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.ops import FrozenBatchNorm2d

import train
from engine.checkpoints.restore import restore
from engine.training.command_line import run as run_command
from engine.training.initial_weights import frozen_random_parts
from models.backbones.timm_fpn import TimmFPN
from models.seg.mask_rcnn import MaskRCNN, RPNOptions
from tests.support.published_weights import old_name

ROOT = Path(__file__).resolve().parents[3]
BACKBONE = "--model.init_args.model.init_args.backbone.init_args"
INIT_FROM = "--model.init_args.init_from"
TRAINING = [
    "fit", "--config", "configs/quickstart/mask_rcnn.yaml", f"{BACKBONE}.name", "resnet18",
    f"{BACKBONE}.norm", "frozen_bn", f"{BACKBONE}.trainable_stages", "1",
    "--data.train_scenes", "4", "--data.val_scenes", "2", "--data.test_scenes", "2",
    "--data.size", "64", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu",
    "--trainer.log_every_n_steps", "1", "--callbacks.curves", "false",
    "--callbacks.confusion", "false", "--callbacks.progress", "false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(*arguments):
    assert train.main([str(a) for a in arguments]) == 0


def refused(capsys, *arguments):
    capsys.readouterr()
    assert train.main([str(a) for a in arguments]) == 2
    shown = capsys.readouterr().err
    assert shown.count("error: ") == 1
    assert "Traceback" not in shown
    return shown


def small_detector():
    torch.manual_seed(0)
    backbone = TimmFPN("resnet18", 48, (4, 8), norm="frozen_bn")
    detector = MaskRCNN(10, backbone, rpn=RPNOptions(anchor_sizes=(24, 40, 56)))
    for module in detector.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.fill_(1e-4)  # so that the eps makes a difference
            module.weight.fill_(1e-2)
    return detector


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file with the names of torchvision before 0.13, whose frozen norms had eps 0."""
    path = tmp_path_factory.mktemp("weights") / "old.pth"
    torch.save({old_name(k): v for k, v in small_detector().state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def finished(file, tmp_path_factory):
    """A run that started from the file."""
    runs = tmp_path_factory.mktemp("runs")
    os.chdir(ROOT)
    scaled = ["--model.init_args.lr_per_images", "8", "--data.batch_size", "2"]
    run(*TRAINING, *scaled, "--trainer.accumulate_grad_batches", "2", INIT_FROM, file,
        "--runs_dir", runs, "--debug")  # fmt: skip
    return runs / "mask_rcnn" / "version_0"


@pytest.fixture
def moved(finished, tmp_path, monkeypatch):
    """A copy of the run in which every file of initial weights is gone, and there is no network."""
    copied = shutil.copytree(finished, tmp_path / "runs" / "mask_rcnn" / "version_0")
    recipe = copied / "config.yaml"
    content = yaml.safe_load(recipe.read_text())
    arguments = content["model"]["init_args"]
    assert arguments["init_from"].endswith("old.pth")
    arguments["init_from"] = "gone.pth"
    arguments["model"]["init_args"]["backbone"]["init_args"]["pretrained"] = True
    recipe.write_text(yaml.safe_dump(content))

    def unread(*_, **__):
        raise AssertionError("initial weights were read")

    monkeypatch.setattr("lightning_modules.base.load_weights", unread)
    monkeypatch.setattr("models.backbones.download._check_reachable", unread)
    return copied


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_needs_nothing_else(command, moved, tmp_path):
    longer = ["--trainer.max_epochs", "2"] if command == "fit" else ["--runs_dir", tmp_path / "o"]
    last = moved / "checkpoints" / "last.ckpt"
    run(command, "--ckpt_path", last, *longer, "--debug")
    if command == "fit":
        content = torch.load(last, weights_only=True)
        assert content["global_step"] == 2
        written = yaml.safe_load((moved / "config.yaml").read_text())["model"]["init_args"]
        for model in (content["segmil"]["blueprint"]["model"]["init_args"], written):
            assert model["init_from"] == "gone.pth"  # what the training once started from


@pytest.mark.slow
def test_a_checkpoint_with_a_recipe_reads_no_weights_either(moved, tmp_path):
    recipe = ["--config", moved / "config.yaml", "--runs_dir", tmp_path / "o"]
    run("test", *recipe, "--ckpt_path", moved / "checkpoints" / "last.ckpt", "--debug")


def eps(model):
    return {m.eps for m in model.modules() if isinstance(m, FrozenBatchNorm2d)}


@pytest.mark.slow
def test_the_eps_is_in_the_checkpoint(finished, tmp_path, monkeypatch):
    last = finished / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["segmil"]["facts"]["norm_eps"] == 0
    restored = restore(last).module.model
    assert eps(restored) == {0.0}
    seen = []
    monkeypatch.setattr(
        "lightning_modules.segmentation.predict",
        lambda network, batch, _: (
            seen.append((eps(network), batch, network.predict(batch))) or seen[-1][2]
        ),
    )
    run("test", "--ckpt_path", last, "--runs_dir", tmp_path, "--debug")
    for found, batch, detections in seen:
        assert found == {0.0}
        for one, other in zip(detections, restored.predict(batch), strict=True):
            assert torch.equal(one.boxes, other.boxes)
            assert torch.equal(one.scores, other.scores)


@pytest.mark.slow
def test_a_next_training_takes_the_eps_from_the_checkpoint(finished, tmp_path):
    arguments = [*TRAINING, INIT_FROM, finished / "checkpoints" / "last.ckpt"]
    arguments += ["--trainer.fast_dev_run", "true", "--runs_dir", tmp_path]
    module = run_command([str(a) for a in arguments]).model
    assert (module.norm_eps, eps(module.model)) == (0.0, {0.0})


def test_the_rate_follows_the_images_of_a_step(finished):
    """2 images in a batch, 2 batches accumulated, for a rate that is given for 8."""
    with (finished / "metrics.csv").open() as stream:
        rates = [row["lr-AdamW/head"] for row in csv.DictReader(stream)]
    assert float(next(filter(None, rates))) == pytest.approx(1.5e-3 * 4 / 8)


@pytest.mark.slow
def test_frozen_random_parts_are_refused(tmp_path, capsys):
    arguments = [*TRAINING, "--runs_dir", tmp_path]
    shown = refused(capsys, *arguments)
    assert "the backbone's norms and parameters are frozen at random values" in shown
    assert "--model.init_args.init_from FILE" in shown
    assert f"({BACKBONE}.norm gn {BACKBONE}.trainable_stages 3)" in shown
    assert not list(tmp_path.rglob("*"))
    only_norms = refused(capsys, *arguments, f"{BACKBONE}.trainable_stages", "3")
    assert "the backbone's norms are frozen" in only_norms
    with pytest.warns(UserWarning, match="frozen at random values"):
        run(*arguments, "--trainer.fast_dev_run", "true")
    run("validate", *arguments[1:])


def test_the_recipe_with_a_resnet_50_names_its_flags(tmp_path, capsys):
    recipe = ["fit", "--config", "configs/seg/mask_rcnn.yaml", "--runs_dir", tmp_path]
    shown = refused(capsys, *recipe, "--config", "configs/_base/data/digit_scenes.yaml")
    model = "--model.init_args.model.init_args"
    assert f"{model}.norm gn {model}.trainable_stages 5" in shown


def test_norms_that_carry_values_were_loaded_somehow():
    section = {"class_path": "some.Module", "init_args": {}}
    assert frozen_random_parts(small_detector(), section) is None
    assert frozen_random_parts(torch.nn.Linear(2, 2), section) is None
    untouched = MaskRCNN(3, TimmFPN("resnet18", 16, norm="frozen_bn"))
    assert "norms are frozen" in frozen_random_parts(untouched, section)


def test_a_file_of_another_network_ends_before_training(tmp_path, capsys, file):
    arguments = [*TRAINING, f"{BACKBONE}.name", "resnet10t", "--runs_dir", tmp_path]
    shown = refused(capsys, *arguments, INIT_FROM, file)
    assert "old.pth does not fit the model: only " in shown
    assert "docs/weights.md" in shown


def test_no_network_ends_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    shown = refused(capsys, *TRAINING, f"{BACKBONE}.pretrained", "true", "--runs_dir", tmp_path)
    assert "pretrained: true: the weights of resnet18 are not in the cache" in shown
    assert "127.0.0.1:9 cannot be reached" in shown
    assert "--model.init_args.init_from FILE" in shown
    assert "set pretrained: false" in shown
