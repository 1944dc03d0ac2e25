"""Resuming as a user types it: folders, changed recipes, refusals, kills."""

import csv
import json
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import evaluate
import train
from datamodules.seg.digit_scenes import DigitScenesDataModule
from engine.checkpoints.restore import restore

ROOT = Path(__file__).resolve().parents[3]
QUIET = [
    "--callbacks.curves", "false", "--callbacks.attention", "false",
    "--callbacks.progress", "false", "--trainer.log_every_n_steps", "1",
]  # fmt: skip
BAGS = [
    "fit", "--config", "configs/quickstart/abmil.yaml", "--data.train_bags", "20",
    "--data.val_bags", "20", "--data.eval_batch_size", "20", "--trainer.max_epochs", "2", *QUIET,
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
    assert "Traceback" not in shown
    return shown


def content(run_dir, name="last"):
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(run_dir):
    with (run_dir / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 2 epochs of 2 steps, with an average."""
    runs = tmp_path_factory.mktemp("runs")
    os.chdir(ROOT)
    average = ["--ema.decay", "0.5", "--ema.warmup_steps", "0"]
    timer = ["--trainer.callbacks+=Timer"]  # its default interval is no plain text
    run(*BAGS, *average, *timer, "--runs_dir", runs, "--debug")
    return runs / "abmil" / "version_0"


@pytest.fixture
def cut(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "runs" / "abmil" / "version_0")


@pytest.mark.slow
def test_the_run_goes_on_in_its_folder_with_its_own_recipe(cut, recwarn, capsys):
    before, recipe = rows(cut), (cut / "config.yaml").read_text()
    origin = (cut / "provenance.json").read_text()
    run("fit", "--ckpt_path", cut / "checkpoints/last.ckpt", "--trainer.max_epochs", "3", "--debug")
    assert [p.name for p in cut.parent.iterdir()] == ["version_0"]
    assert content(cut)["global_step"] == 6
    after = rows(cut)
    kept = [r for r in after if int(r["step"]) < 4]
    assert [{k: r[k] for k in before[0]} for r in kept] == before
    assert [int(r["step"]) for r in after if r["train/loss"]] == [0, 1, 2, 3, 4, 5]
    assert yaml.safe_load((cut / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    assert (cut / "config_0.yaml").read_text() == recipe
    assert (cut / "provenance_0.json").read_text() == origin
    assert "--ckpt_path" in json.loads((cut / "provenance.json").read_text())["command"]
    assert not [w for w in recwarn if "other values" in str(w.message)]
    assert "Epoch " not in capsys.readouterr().out  # callbacks.run.progress is false: no bar at all


@pytest.mark.slow
def test_a_name_or_another_parent_asks_for_a_new_folder(cut, tmp_path):
    last = ["fit", "--ckpt_path", cut / "checkpoints/last.ckpt", "--trainer.max_epochs", "3"]
    before = {p: p.read_bytes() for p in cut.rglob("*") if p.is_file()}
    run(*last, "--runs_dir", tmp_path / "other", "--name", "n")
    run(*last, "--name", "abmil", "--runs_dir", cut.parents[1])
    assert content(tmp_path / "other" / "n" / "version_0")["global_step"] == 6
    assert content(cut.with_name("version_1"))["global_step"] == 6
    assert {p: p.read_bytes() for p in cut.rglob("*") if p.is_file()} == before


def test_a_changed_recipe_wins_and_is_told(cut):
    last = ["fit", "--ckpt_path", cut / "checkpoints/last.ckpt", "--trainer.max_epochs", "3"]
    changed = ["--model.init_args.optimizer.init_args.lr", "0.5", "--data.batch_size", "4"]
    changed += ["--model.init_args.lr_scheduler.init_args.final", "1.0"]
    with pytest.warns(UserWarning, match="those of the configuration are used") as caught:
        run(*last, *changed, "--debug")
    (message,) = [
        str(w.message) for w in caught if "of the configuration are used" in str(w.message)
    ]
    for value in ("optimizer.init_args.lr: 0.001 -> 0.5", "data.init_args.batch_size: 8 -> 4"):
        assert value in message
    # final = 1 keeps the rate constant after warm-up
    assert float(rows(cut)[-1]["lr-AdamW/head"] or 0.5) == 0.5
    saved = content(cut)["optimizer_states"][0]["param_groups"]
    assert {(g["lr"], g["initial_lr"]) for g in saved} == {(0.5, 0.5)}
    assert content(cut)["segmil"]["blueprint"]["data"]["init_args"]["batch_size"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model.init_args.model.init_args.hidden_sizes", "[128, 32]"],
            "weights belong to another",
        ),
        (
            ["--model.init_args.optimizer", "torch.optim.SGD"],
            "trained by another optimizer",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_run_as_it_was(cut, capsys, arguments, message):
    last = ["fit", "--ckpt_path", cut / "checkpoints/last.ckpt", "--trainer.max_epochs", "3"]
    with (cut / "metrics.csv").open("a") as stream:  # a kill left a row newer than the checkpoint
        stream.write(",".join(["99"] * len(rows(cut)[0])) + "\n")
    before = {p: p.read_bytes() for p in cut.rglob("*") if p.is_file()}
    shown = refused(capsys, *last, *arguments)
    assert message in shown
    assert "init_from" in shown
    assert {p: p.read_bytes() for p in cut.rglob("*") if p.is_file()} == before


def test_data_of_another_kind_are_refused(cut, tmp_path, capsys):
    labels = np.arange(20) % 2
    np.savez(tmp_path / "b.npz", X=np.eye(20)[:, :3], bag_index=np.arange(20), y=labels)
    recipe = ["--config", "configs/mil/abmil.yaml", "--data.file", tmp_path / "b.npz"]
    shown = refused(capsys, "fit", *recipe, "--ckpt_path", cut / "checkpoints/last.ckpt")
    assert "was trained on data with {'num_classes': 2, 'in_features': 64" in shown
    assert "these data have {'num_classes': 2, 'in_features': 3" in shown


def test_only_files_are_taken(capsys, tmp_path):
    """Lightning would find no "last" in a new folder and begin anew."""
    shown = refused(capsys, *BAGS, "--ckpt_path", "last", "--runs_dir", tmp_path)
    assert "last: no such checkpoint" in shown
    assert list(tmp_path.iterdir()) == []


def test_without_the_average_training_goes_on_from_the_raw_weights(cut, caplog):
    saved = content(cut)
    assert not torch.equal(
        saved["state_dict"]["model.classifier.weight"],
        saved["current_model_state"]["model.classifier.weight"],
    )
    still = ["--model.init_args.optimizer.init_args.lr", "0.0", "--trainer.max_epochs", "3"]
    still += ["--ema", "null"]
    run("fit", "--ckpt_path", cut / "checkpoints/last.ckpt", *still, "--debug")
    after = content(cut)
    assert "current_model_state" not in after
    for name, value in saved["current_model_state"].items():
        assert torch.equal(after["state_dict"][name], value), name
    assert "continues from the raw weights" in caplog.text


def test_the_average_is_what_is_scored_and_rebuilt(finished, tmp_path):
    saved = content(finished, "best")
    restored = restore(finished / "checkpoints" / "best.ckpt").module
    for name, value in restored.state_dict().items():
        assert torch.equal(value, saved["state_dict"][name])
    logged = [r for r in rows(finished) if r["val/loss"]]
    best = next(r for r in logged if int(r["step"]) == saved["global_step"] - 1)
    run("validate", "--ckpt_path", finished / "checkpoints/best.ckpt", "--runs_dir", tmp_path)
    assert rows(tmp_path / "abmil" / "version_0")[-1]["val/loss"] == best["val/loss"]


class Spy:
    """Leaves a file behind when unpickled carelessly."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.slow
def test_a_checkpoint_with_code_is_refused_by_every_command_unexecuted(finished, tmp_path, capsys):
    marker, evil = tmp_path / "executed", tmp_path / "evil.ckpt"
    torch.save(content(finished) | {"extra": Spy(marker)}, evil)
    recipe = ["--config", finished / "config.yaml", "--runs_dir", tmp_path]
    commands = [
        ["fit", *recipe, "--ckpt_path", evil],
        ["fit", *recipe, "--ckpt_path", evil, "--weights_only", "false"],
        ["fit", "--ckpt_path", evil],
        ["validate", *recipe, "--ckpt_path", evil],
        ["predict", "--ckpt_path", evil],
        ["fit", *recipe, "--model.init_args.init_from", evil],
    ]
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"ckpt_path": str(evil), "weights_only": False}))
    commands.append(["fit", *recipe, "--config", overlay])
    for command in commands:
        assert "evil.ckpt: refused" in refused(capsys, *command), command
    images, truth = DigitScenesDataModule(test_scenes=1).write_split("test", tmp_path / "set")
    scored = ["--annotations", str(truth), "--images", str(images)]
    for command in (["mil", "--data", "x.npz"], ["coco", *scored], ["operating-point", *scored]):
        capsys.readouterr()
        assert evaluate.main([*command, "--ckpt", str(evil)]) == 2
        assert "evil.ckpt: refused" in capsys.readouterr().err
    assert not marker.exists()


@pytest.fixture
def start():
    """Return a function that runs `train.py` in a process of its own.

    The processes are copies of one that has imported the libraries, and nothing of ours.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pytorch_lightning", "timm", "sklearn.datasets"])

    def started(*arguments):
        process = context.Process(target=train.main, args=([str(a) for a in arguments],))
        process.start()
        return process

    return started


@pytest.mark.slow
def test_kills_lose_at_most_one_interval_and_nothing_of_the_result(start, tmp_path):
    """Killed at random moments until it is done, a run leaves what the undisturbed one leaves."""
    length = ["--trainer.max_epochs", "20", "--checkpoint.last_seconds", "0"]
    length += ["--data.train_bags", "44", "--ema.decay", "0.9"]
    run(*BAGS, *length, "--runs_dir", tmp_path / "a", "--debug")
    straight, killed = (tmp_path / n / "abmil" / "version_0" for n in "ab")
    last, table = killed / "checkpoints" / "last.ckpt", killed / "metrics.csv"
    kills, reached, rng = 0, 0, random.Random(0)
    for attempt in range(4):
        resume = ["--ckpt_path", last] if last.is_file() else []
        before = last.stat().st_mtime_ns if resume else 0
        process = start(*BAGS, *length, "--runs_dir", tmp_path / "b", *resume)
        while process.is_alive() and not (last.is_file() and last.stat().st_mtime_ns > before):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2))
        if attempt < 3 and process.is_alive():
            process.kill()
            kills += 1
        process.join(300)
        for path in last.parent.glob("*.ckpt"):
            torch.load(path, weights_only=True)
        steps = torch.load(last, weights_only=True)["global_step"]
        seen = max(int(r["step"]) for r in rows(killed) if r["step"]) + 1 if table.is_file() else 0
        assert steps > reached  # every start came further
        assert seen - steps <= 2 * 5  # an interval, and the epoch whose end was not reached
        reached = steps
    assert kills >= 2
    first, second = content(straight), content(killed)
    for name in ("state_dict", "current_model_state"):
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), key
    assert not list(last.parent.glob(".*"))
    losses = [[r["train/loss"] for r in rows(d) if r["train/loss"]] for d in (straight, killed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 100
