"""A job of two processes that is cut and resumed ends, bit for bit, where the whole one ends."""

import csv
import os
import shutil
from pathlib import Path

import pytest
import torch

import train
from callbacks.run.checkpoints import RunCheckpoint

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {
    "mask_rcnn": [  # batch norm, whose statistics the processes measure apart
        "--data.train_scenes", "12", "--data.size", "64", "--data.digits", "[1,3]",
        "--data.val_scenes", "3", "--data.eval_batch_size", "2",
        "--trainer.limit_train_batches", "1.0", "--trainer.val_check_interval", "2",
    ],
    "abmil": [  # dropout
        "--config", "configs/_base/wandb.yaml", "--data.train_bags", "60", "--data.val_bags", "21",
        "--data.eval_batch_size", "6", "--trainer.val_check_interval", "2",
    ],
}  # fmt: skip
COMMON = [
    "--config", "configs/_base/ddp.yaml", "--config", "configs/_base/ema.yaml",
    "--ema.decay", "0.9", "--ema.warmup_steps", "3", "--callbacks.curves", "false",
    "--callbacks.confusion", "false", "--callbacks.attention", "false",
    "--callbacks.gallery", "false", "--callbacks.progress", "false",
    "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1",
    "--checkpoint.last_seconds", "0",
]  # fmt: skip


def whole_and_cut(rank, world, recipe, runs):
    """Train, and copy the run folder as a kill after each writing of last.ckpt would leave it."""
    os.chdir(ROOT)
    write, copies = RunCheckpoint._write, []

    def write_and_copy(self, trainer):
        before = self._last_step
        write(self, trainer)
        if self._last_step != before and rank == 0:
            copies.append(Path(runs) / f"cut_{self._last_step}" / recipe / "version_0")
            shutil.copytree(self.last_path.parents[1], copies[-1], symlinks=True)
        torch.distributed.barrier()

    RunCheckpoint._write = write_and_copy
    try:
        words = ["fit", "--config", f"configs/quickstart/{recipe}.yaml", *RECIPES[recipe], *COMMON]
        assert train.main([*words, "--runs_dir", runs, "--debug"]) == 0
    finally:
        RunCheckpoint._write = write
    return copies


def resumed(rank, world, folder):
    os.chdir(ROOT)
    assert train.main(["fit", "--ckpt_path", str(folder / "checkpoints/last.ckpt"), "--debug"]) == 0


def content(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def rows(folder):
    with (folder / "metrics.csv").open() as stream:
        return [
            {k: v for k, v in row.items() if v and not k.startswith(("time/", "memory/"))}
            for row in csv.DictReader(stream)
        ]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_resuming_on_two(processes, tmp_path, recipe, offline_wandb):
    copies = processes(2, whole_and_cut, recipe=recipe, runs=str(tmp_path))[0]
    whole = tmp_path / recipe / "version_0"
    expected = content(whole)
    assert len(copies) >= 3
    cut = copies[1]  # the second validation, inside the first epoch or at its end
    assert content(cut)["global_step"] < expected["global_step"]
    processes(2, resumed, folder=cut)
    found = content(cut)
    assert found["global_step"] == expected["global_step"]
    for part in ("state_dict", "current_model_state"):
        assert set(found[part]) == set(expected[part])
        for name, value in expected[part].items():
            assert torch.equal(found[part][name], value), name
    for mine, wanted in zip(found["optimizer_states"], expected["optimizer_states"], strict=True):
        assert mine["param_groups"] == wanted["param_groups"]
        for number, state in wanted["state"].items():
            assert all(torch.equal(mine["state"][number][k], v) for k, v in state.items())
    assert rows(cut) == rows(whole)
