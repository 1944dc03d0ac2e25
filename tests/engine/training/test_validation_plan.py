"""When a training validates, compared with what Lightning does, and what `fit` says before it."""

import csv
import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import train
from engine.training.validation_plan import plan_of

ROOT = Path(__file__).resolve().parents[3]
BAGS = [
    "fit", "--config", "configs/quickstart/abmil.yaml", "--data.train_bags", "40",
    "--data.val_bags", "30", "--trainer.max_epochs", "1",
    *(f"--callbacks.{name}=false" for name in ("curves", "confusion", "attention", "progress")),
]  # fmt: skip


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.validated = []

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_end(self):
        self.validated.append(self.global_step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 3},
        {"max_epochs": 3, "check_val_every_n_epoch": 2},
        {"max_epochs": 3, "check_val_every_n_epoch": 4},
        {"max_steps": 17, "max_epochs": -1},
        {"max_steps": 3},
        {"max_steps": 12, "check_val_every_n_epoch": 2},
        {"max_steps": 20, "max_epochs": 2},
        {"max_epochs": 2, "val_check_interval": 0.4},
        {"max_epochs": 2, "val_check_interval": 3},
        {"max_steps": 6, "val_check_interval": 3, "check_val_every_n_epoch": 2},
        {"max_steps": 10, "val_check_interval": 3, "check_val_every_n_epoch": 2},
        {"max_steps": 17, "val_check_interval": 8, "check_val_every_n_epoch": None},
        {"max_steps": 17, "val_check_interval": 18, "check_val_every_n_epoch": None},
        {"max_epochs": 2, "val_check_interval": 4, "check_val_every_n_epoch": None},
        {"max_steps": 5, "accumulate_grad_batches": 2},
        {"max_epochs": 2, "accumulate_grad_batches": 2},
        {"max_epochs": 3, "limit_train_batches": 2},
        {"max_epochs": 3, "limit_train_batches": 0.5, "val_check_interval": 2},
    ],
)
def test_the_plan_is_what_lightning_does(options):
    module, loader = Module(), DataLoader(TensorDataset(torch.ones(7, 1)))
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    plan = plan_of(trainer, 7)
    trainer.fit(module, loader, DataLoader(TensorDataset(torch.ones(1, 1))))
    assert plan.steps == trainer.global_step
    assert plan.last == (module.validated or [0])[-1]
    if module.validated:
        assert plan.first == module.validated[0]
    else:
        assert plan.first > plan.steps


def test_a_training_without_end_and_one_by_the_clock():
    endless = pl.Trainer(accelerator="cpu", max_epochs=-1, logger=False)
    assert plan_of(endless, 7).steps == plan_of(endless, 7).last == math.inf
    by_time = pl.Trainer(accelerator="cpu", val_check_interval="00:00:10:00", logger=False)
    assert plan_of(by_time, 7) is None


@pytest.fixture
def told(monkeypatch, tmp_path, recwarn):
    """Return a function that trains and returns the warnings about the choice of best.ckpt."""
    monkeypatch.chdir(ROOT)

    def run(*words):
        recwarn.clear()
        assert train.main([*BAGS, *words, "--runs_dir", str(tmp_path)]) == 0
        return [str(w.message) for w in recwarn if "ckpt" in str(w.message)]

    return run


@pytest.mark.slow
def test_few_samples_are_told(told):
    assert told() == []
    (message,) = told("--data.val_bags", "29")
    assert message.startswith("29 validation bags choose best.ckpt by val/bag_auroc")
    assert "python evaluate.py mil-cv" in message
    assert told("--data.val_bags", "29", "--checkpoint.save_top_k", "0") == []


def test_of_equal_scores_the_lowest_loss_is_best(told, tmp_path):
    """With six bags the AUROC is the same after most epochs; the first was the best."""
    told("--data.val_bags", "6", "--trainer.max_epochs", "6")
    run = tmp_path / "abmil" / "version_0"
    with (run / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["val/loss"]]
    scores = [(float(row["val/bag_auroc"]), -float(row["val/loss"])) for row in rows]
    best = max(scores)
    first = next(k for k, (score, _) in enumerate(scores) if score == best[0])
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert saved["epoch"] == scores.index(best) > first


def test_steps_after_the_last_validation_are_told(told):
    (message,) = told("--trainer.max_epochs", "3", "--trainer.max_steps", "12")
    assert "its last validation is after step 10, so 2 steps are in last.ckpt alone" in message
    assert "An epoch has 5 steps; set trainer.max_steps 10" in message
    assert told("--trainer.max_epochs", "3", "--trainer.max_steps", "10") == []


def test_no_validation_on_purpose(told):
    first, second = told("--trainer.limit_val_batches", "0")
    assert "limit_val_batches is 0" in first
    assert "never logged" in second
    assert told("--checkpoint.save_top_k", "0", "--trainer.max_steps", "2") == []
