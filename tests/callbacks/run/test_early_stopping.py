"""Early stopping that follows the metric of best.ckpt."""

import csv
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import evaluate
import train
from callbacks.run.early_stopping import EarlyStoppingOptions, StopEarly

ROOT = Path(__file__).resolve().parents[3]
OVERLAY = ["--config", "configs/_base/early_stopping.yaml"]
QUIET = [
    f"--callbacks.{name}=false"
    for name in ("curves", "confusion", "gallery", "attention", "progress")
]
# a rate of 0 changes nothing, so no validation is better than the first
BAGS = [
    "fit", "--config", "configs/quickstart/abmil.yaml", *OVERLAY, "--data.train_bags", "8",
    "--data.val_bags", "16", "--model.init_args.optimizer.init_args.lr", "0.0", *QUIET,
]  # fmt: skip
SCENES = [
    "fit", "--config", "configs/quickstart/yolo.yaml", *OVERLAY, "--data.size", "64",
    "--data.digit_size", "[24, 40]", "--data.val_scenes", "2", "--data.batch_size", "2",
    "--model.init_args.optimizer.init_args.lr", "0.0", "--trainer.limit_train_batches", "1",
    "--trainer.max_epochs", "30", "--model.init_args.log_val_loss", "true", *QUIET,
]  # fmt: skip


class Net(pl.LightningModule):
    """Logs the next of the given values at every validation."""

    metric_names = ("val/score", "val/loss")
    lower_is_better = ("val/loss",)

    def __init__(self, name, values):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.name, self.values, self.done = name, values, 0

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log(self.name, torch.tensor(self.values[self.done]))
        self.done += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def validations(name, values, monitor=None, mode=None, **options):
    """Return how many validations a training makes before it ends."""
    module = Net(name, values)
    callback = StopEarly(EarlyStoppingOptions(**options), monitor or name, mode)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=len(values),
        num_sanity_val_steps=0,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, [torch.zeros(1)], [torch.zeros(1)])
    return module.done


@pytest.mark.parametrize(
    ("name", "values", "options", "expected"),
    [
        ("val/score", [0.1, 0.3, 0.2, 0.3, 0.5, 0.6], {"patience": 2}, 4),
        ("val/score", [0.1, 0.3, 0.2, 0.4, 0.3, 0.5], {"patience": 2}, 6),
        ("val/score", [0.1, 0.15, 0.19, 0.3], {"patience": 2, "min_delta": 0.1}, 3),
        ("val/loss", [3.0, 2.0, 1.0, 1.5, 1.2, 0.5], {"patience": 2}, 5),
        ("val/loss", [3.0, 2.95, 2.91, 1.0], {"patience": 2, "min_delta": 0.1}, 3),
        ("val/loss", [1.0, 2.0, 3.0, 3.0, 4.0], {"patience": 1, "mode": "max"}, 4),
        ("val/score", [0.5, float("nan"), 0.6], {"patience": 5}, 2),
    ],
)
def test_the_direction_is_that_of_the_metric(name, values, options, expected):
    assert validations(name, values, **options) == expected


@pytest.mark.parametrize("mode", [None, "max"])
def test_the_loss_is_followed_where_the_metric_is_not_defined(monkeypatch, mode):
    monkeypatch.setattr(Net, "loss_metric", "val/loss", raising=False)
    monkeypatch.setattr(Net, "undefined", lambda _, metric: "one class", raising=False)
    values = [3.0, 2.0, 1.0, 1.5, 1.2, 0.5]
    assert validations("val/loss", values, monitor="val/score", mode=mode, patience=2) == 5


def test_a_metric_that_is_not_logged_is_an_error():
    with pytest.raises(ValueError, match="did not log val/loss"):
        validations("val/score", [0.1, 0.2], monitor="val/loss")


@pytest.mark.parametrize(
    ("options", "monitor", "message"),
    [
        ({"patience": 0}, "val/loss", "patience must be at least 1, got 0"),
        ({"min_delta": -0.1}, "val/loss", "min_delta"),
        ({"min_delta": float("nan")}, "val/loss", "min_delta"),
        ({}, None, "names no metric"),
    ],
)
def test_what_cannot_be_meant(options, monitor, message):
    with pytest.raises(ValueError, match=message):
        StopEarly(EarlyStoppingOptions(**options), monitor, None)


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def fit(words, folder):
    arguments = [*words, "--runs_dir", str(folder), "--name", "run", "--debug"]
    assert train.main(arguments) == 0
    return folder / "run" / "version_0"


def scored(run, name):
    with (run / "metrics.csv").open() as stream:
        return [row[name] for row in csv.DictReader(stream) if row.get(name)]


@pytest.mark.slow
def test_a_run_on_bags_stops_and_a_resumed_one_counts_on(in_root, tmp_path, caplog):
    run = fit([*BAGS, "--early_stopping.patience", "3"], tmp_path)
    assert len(scored(run, "val/bag_auroc")) == 4  # of 25
    assert "early stopping: val/bag_auroc was not better than 0." in caplog.text
    assert "in 3 validations in a row" in caplog.text
    last = run / "checkpoints" / "last.ckpt"
    goes_on = ["fit", "--ckpt_path", str(last), "--early_stopping.patience", "6", "--debug"]
    assert train.main(goes_on) == 0
    assert len(scored(run, "val/bag_auroc")) == 7
    assert (run / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.slow
def test_a_run_on_images_stops_by_a_loss(in_root, tmp_path, caplog):
    words = ["--early_stopping.patience", "2", "--checkpoint.monitor", "val/loss"]
    words += ["--model.init_args.model.init_args.norm", "gn", "--ema", "null"]
    run = fit([*SCENES, *words], tmp_path)
    assert len(scored(run, "val/loss")) == 3  # of 30
    assert "early stopping: val/loss was not better" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--early_stopping.patience", "0"], "early_stopping.patience must be at least 1"),
        (["--early_stopping.patients", "3"], "patience"),
        (["--checkpoint.monitor", "null", "--checkpoint.save_top_k", "0"], "names no metric"),
    ],
)
def test_mistakes_end_the_command(in_root, tmp_path, capsys, words, message):
    assert train.main([*BAGS, *words, "--runs_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_cross_validation_refuses_it(in_root, tmp_path, capsys):
    words = ["mil-cv", "--config", "configs/quickstart/abmil.yaml", *OVERLAY]
    assert evaluate.main([*words, "--data", str(tmp_path / "bags.npz")]) == 2
    assert "early_stopping" in capsys.readouterr().err
