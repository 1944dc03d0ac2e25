"""`freeze` as a user types it: segmentation, bags, two stages."""

from pathlib import Path

import pytest
import torch
from torch import nn

import train
from engine.checkpoints.restore import restore
from engine.training.command_line import run as command

ROOT = Path(__file__).resolve().parents[3]
QUIET = [
    f"--callbacks.{name}=false"
    for name in ("curves", "confusion", "gallery", "attention", "progress")
]
SCENES = [
    "fit", "--config", "configs/quickstart/yolo.yaml", "--data.val_scenes", "2",
    "--data.batch_size", "2", "--data.size", "64", "--data.digit_size", "[24, 40]",
    "--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1", *QUIET,
]  # fmt: skip
BAGS = [
    "fit", "--config", "configs/_base/data/digit_bags.yaml",
    "--config", "configs/_base/small_bags.yaml", "--data.train_bags", "16",
    "--data.val_bags", "16", "--trainer.max_epochs", "1", "--trainer.max_steps", "2", *QUIET,
]  # fmt: skip
FREEZE = "--model.init_args.freeze"


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(folder, *arguments):
    words = [*map(str, arguments), "--runs_dir", str(folder), "--name", "run", "--debug"]
    assert train.main(words) == 0
    return folder / "run" / "version_0"


def refused(capsys, *arguments):
    capsys.readouterr()
    assert train.main([str(a) for a in arguments]) == 2
    return capsys.readouterr().err


def content(run_dir):
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)


def changed(before, after):
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


@pytest.mark.slow
def test_a_frozen_backbone_is_frozen(tmp_path, capsys, caplog, recwarn):
    first = run(tmp_path / "first", *SCENES)
    start = ["--model.init_args.init_from", first / "checkpoints/last.ckpt"]
    second = run(tmp_path / "second", *SCENES, *start, FREEZE, '["backbone.*"]')
    assert "of them frozen" in caplog.text
    assert not [w for w in recwarn if "eval mode" in str(w.message)]  # it is meant
    before, after = content(first), content(second)
    for state in (after["state_dict"], after["current_model_state"]):  # the average is as frozen
        moved = changed(before["state_dict"], state)
        assert moved
        assert not any(name.startswith("model.backbone.") for name in moved)
    names = {group["name"] for group in after["optimizer_states"][0]["param_groups"]}
    assert names == {"head", "head_no_decay"}
    module = restore(second / "checkpoints/last.ckpt").module
    assert {p.requires_grad for p in module.model.backbone.parameters()} == {False}
    last = ["--ckpt_path", second / "checkpoints/last.ckpt"]
    goes_on = ["fit", *last, "--trainer.max_epochs", "2", "--debug"]
    assert train.main([str(word) for word in goes_on]) == 0
    resumed = content(second)
    assert resumed["global_step"] == 4
    moved = changed(before["state_dict"], resumed["current_model_state"])
    assert not any(name.startswith("model.backbone.") for name in moved)
    error = refused(capsys, "fit", *last, "--trainer.max_epochs", "3", FREEZE, "null")
    assert "other parameters are trained now" in error


@pytest.mark.slow
def test_bags_and_their_students_follow_it(tmp_path):
    abmil = ["--config", "configs/quickstart/abmil.yaml"]
    one = run(tmp_path / "one", "fit", *abmil, *BAGS[1:], FREEZE, '["embed.*"]')
    two = run(tmp_path / "two", "fit", *abmil, *BAGS[1:], FREEZE, '["classifier.*"]')
    moved = changed(content(one)["state_dict"], content(two)["state_dict"])
    assert "model.embed.1.weight" in moved  # trained in the second alone
    mhim = ["--config", "configs/mil/mhim.yaml"]
    student = run(tmp_path / "mhim", "fit", *mhim, *BAGS[1:], FREEZE, '["student.embed.*"]')
    teacher, state = content(student / "first_stage")["state_dict"], content(student)["state_dict"]
    embedding = [name for name in state if name.startswith("model.student.embed.")]
    assert embedding
    for name in embedding:  # of the teacher, which the first stage has trained
        assert torch.equal(state[name], teacher[name.replace("student.", "")]), name


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ('["backbon.*"]', "freeze: no parameter of YOLOSeg matches backbon.*; did you mean"),
        ('["*"]', "freeze: * leave no parameter of YOLOSeg to train"),
        ("backbone.*", "freeze"),
    ],
)
def test_wrong_patterns_end_the_command(tmp_path, capsys, patterns, message):
    error = refused(capsys, *SCENES, FREEZE, patterns, "--runs_dir", tmp_path)
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_stages_that_are_not_trained_keep_their_statistics(recwarn):
    """`trainable_stages: 0` moved running means; of a trial, because the stages are untrained."""
    scenes = ["--data.train_scenes", "4", "--data.val_scenes", "2", "--data.size", "64"]
    scenes += ["--data.digit_size", "[24, 40]", "--trainer.fast_dev_run", "2"]
    stages = "--model.init_args.model.init_args.backbone.init_args.trainable_stages"
    cli = command(["fit", "--config", "configs/quickstart/mask_rcnn.yaml", *scenes, stages, "0"])
    norms = [m for m in cli.model.model.backbone.body.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert not norm.running_mean.any()
        assert (norm.running_var == 1).all()
    assert not [w for w in recwarn if "eval mode" in str(w.message)]  # it is meant
