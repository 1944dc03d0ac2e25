"""Training of INS as a protocol: what it keeps is made, saved, restored and used in time."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import train
from callbacks.run.checkpoints import RunCheckpoint
from datamodules.mil.digit_bags import DigitBagsDataModule
from datamodules.mil.npz_file import BagFile
from datamodules.mil.samplers import BatchPlan
from engine.checkpoints.restore import restore
from engine.cross_validation.folds import FoldRecipe, run_fold
from lightning_modules.ins import INSModule
from models.mil.abmil import ABMIL
from models.mil.ins import INS

ROOT = Path(__file__).resolve().parents[2]
RUN = [
    "fit",
    "--config",
    "configs/mil/ins.yaml",
    "--config",
    "configs/_base/data/digit_bags.yaml",
    "--config",
    "configs/_base/small_bags.yaml",
    "--model.init_args.model.init_args.hidden_sizes",
    "[8]",
    "--model.init_args.model.init_args.queue_size",
    "300",
    "--data.train_bags",
    "26",
    "--data.val_bags",
    "8",
    "--trainer.max_epochs",
    "4",
    "--trainer.log_every_n_steps",
    "1",
    "--checkpoint.last_seconds",
    "0",
    "--callbacks.curves",
    "false",
    "--callbacks.attention",
    "false",
    "--callbacks.progress",
    "false",
    "--debug",
]  # fmt: skip  (26 bags in batches of 8: 3 steps an epoch)


def module(**arguments):
    torch.manual_seed(0)
    model = INS(64, 2, "binary", hidden_sizes=(8,), projection_dim=4, queue_size=50, **arguments)
    return INSModule(model, lambda p: torch.optim.SGD(p, lr=0.05), threshold=0.5)


def trainer(tmp_path, **options):
    return pl.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, **options,
    )  # fmt: skip


def test_other_models_are_refused():
    with pytest.raises(TypeError, match=r"trains models\.mil\.ins\.INS, not ABMIL"):
        INSModule(ABMIL(3, 2, "binary"), lambda p: torch.optim.SGD(p, lr=0.1))


def test_only_a_training_step_weighs_terms_by_the_warm_up():
    found = module(warmup=0.25).train()
    for progress, share in ((0.0, 1.0), (0.2499, 1.0), (0.25, 0.0), (1.0, 0.0)):
        found.progress = progress
        assert found.loss_factors() == {"bag": 0.0, "pooled": share}
    assert found.eval().loss_factors() == {}


def test_a_run_fills_what_it_keeps_and_evaluates_it_on_other_bags(tmp_path):
    data = DigitBagsDataModule(train_bags=20, val_bags=8, test_bags=9, batch_size=8)
    course = trainer(tmp_path, max_epochs=2, limit_val_batches=0, enable_checkpointing=False)
    found = module(warmup=0.5, max_anchors=6)
    start = {n: v.clone() for n, v in found.model.state_dict().items()}
    course.fit(found, datamodule=data)
    bags, memory = data.source("train"), found.memory
    assert memory.targets.shape == (bags.features.shape[0], 2)
    assert memory.starts.tolist() == bags.offsets[:-1].tolist()
    # 4 steps of 8 bags with at most 6 instances each went through a queue of 50, 2 in the warm-up
    assert (memory.queue_labels >= 0).all()
    positive = bags.labels.repeat_interleave(bags.sizes()) == 1
    assert memory.targets[~positive].unique(dim=0).tolist() == [[1.0, 0.0]]
    # progress was 1/2 and 3/4 in the two steps after the warm-up: phi .875 and .8375, each for
    # the bags of its step; a bag left out of the epoch keeps one half
    moved = (memory.targets[positive][:, 1] - 0.5).abs().unsqueeze(1)
    distance, step = (moved - torch.tensor([0.0, 0.125 / 2, 0.1625 / 2])).abs().min(dim=1)
    assert distance.max() < 1e-6
    assert set(step.tolist()) == {0, 1, 2}
    key = "key_embed.0.weight"
    moved = found.model.state_dict()[key] - start[key]
    assert 0 < moved.norm() < 0.01 * (found.model.embed[0].weight - start[key]).norm()
    course.save_checkpoint(tmp_path / "last.ckpt")
    other = DigitBagsDataModule(train_bags=5, val_bags=8, test_bags=9)
    fresh = module()
    trainer(tmp_path).test(fresh, datamodule=other, ckpt_path=tmp_path / "last.ckpt", verbose=False)
    for name, value in found.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    with pytest.raises(ValueError, match=r"memory\.targets: .* in the checkpoint"):
        trainer(tmp_path, max_epochs=3).fit(
            module(), datamodule=other, ckpt_path=tmp_path / "last.ckpt"
        )


AVERAGE = ["--ema.decay", "0.9", "--ema.warmup_steps", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("average", [pytest.param([], marks=pytest.mark.slow, id="plain"), AVERAGE])
def test_a_run_that_is_cut_and_resumed_ends_as_the_whole_one(tmp_path, monkeypatch, average):
    """Queue, prototypes and targets after the second and after the whole of four epochs."""
    monkeypatch.chdir(ROOT)
    write, kept = RunCheckpoint._write, []

    def write_and_keep(self, found):
        write(self, found)
        folder = tmp_path / f"cut_{len(kept)}" / "version_0"
        kept.append(folder)
        shutil.copytree(self.last_path.parents[1], folder)

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoint, "_write", write_and_keep)
        assert train.main([*RUN, *average, "--runs_dir", str(tmp_path / "whole")]) == 0
    wanted = torch.load(kept[-1] / "checkpoints/last.ckpt", weights_only=True)
    states = [torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in kept]
    cut = next(f for f, s in zip(kept, states, strict=True) if s["global_step"] == 8)
    before = states[kept.index(cut)]["state_dict"]
    assert wanted["global_step"] == 16
    for name in ("prototypes", "queue", "targets", "queue_next"):
        assert not torch.equal(before[f"memory.{name}"], wanted["state_dict"][f"memory.{name}"])
    last = cut / "checkpoints/last.ckpt"
    assert train.main(["fit", "--ckpt_path", str(last), "--debug"]) == 0
    found = torch.load(last, weights_only=True)
    for part in ("state_dict", *(["current_model_state"] if average else [])):
        assert found[part].keys() == wanted[part].keys()
        for name, value in wanted[part].items():
            assert torch.equal(found[part][name], value), name
    module_of_file = restore(last).module
    assert torch.equal(module_of_file.memory.targets, wanted["state_dict"]["memory.targets"])


def test_cross_validation_trains_it_alike(monkeypatch, tmp_path):
    """The table is of the fold's training bags, and the second network follows each step."""
    seen = []
    follow = INSModule.after_optimizer_step

    def noted(self):
        seen.append((self.progress, self.memory.starts.clone(), self.memory.targets.shape[0]))
        follow(self)

    monkeypatch.setattr(INSModule, "after_optimizer_step", noted)
    data = DigitBagsDataModule(train_bags=12)
    bags = data.source("train")
    arrays = (t.numpy() for t in (bags.features, bags.offsets, bags.labels))
    file = BagFile(tmp_path / "bags.npz", *arrays, published_folds=None, groups=())
    recipe = FoldRecipe(lambda *_: module(warmup=0.5), BatchPlan(4), max_steps=4)
    folds = np.arange(12) % 3
    result = run_fold(file, folds, recipe, (0, 0, 1))
    assert [progress for progress, *_ in seen] == [0.0, 0.25, 0.5, 0.75]
    total = int(bags.sizes()[torch.from_numpy(folds != 1)].sum())
    assert all(rows == total for *_, rows in seen)
    left_out = (seen[0][1] == total).nonzero()[:, 0].tolist()
    assert left_out == [1, 4, 7, 10]
    assert np.isfinite(result.probabilities).all()
