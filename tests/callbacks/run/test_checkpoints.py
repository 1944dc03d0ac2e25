"""When last.ckpt is written, and what a resumed run remembers."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.run.checkpoints import RunCheckpoint


class Module(pl.LightningModule):
    """Logs a score that rises and falls."""

    def __init__(self, scores):
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.scores = iter(scores)

    def training_step(self, batch, batch_idx):
        return self.model(batch[0]).mean()

    def validation_step(self, batch, batch_idx):
        return None

    def on_validation_epoch_end(self):
        self.log("score", next(self.scores))

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.1)


class Recorded(RunCheckpoint):
    def __init__(self, **arguments):
        super().__init__(monitor="score", mode="max", filename="best", **arguments)
        self.steps = []

    def _write(self, trainer):
        before = self._last_step
        super()._write(trainer)
        if before != self._last_step:
            self.steps.append(self._last_step)


def fit(folder, scores=(1.0,) * 99, resume=None, **options):
    files = options.pop("files", {})
    callback = Recorded(dirpath=folder, enable_version_counter=False, **files)
    trainer = pl.Trainer(
        callbacks=[callback], logger=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(torch.ones(5, 1)), batch_size=1)
    trainer.fit(Module(scores), loader, loader, ckpt_path=resume)
    return callback


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 3}, [5, 10, 15]),
        ({"max_epochs": 3, "files": {"save_last": False}}, []),
        ({"max_epochs": 5, "check_val_every_n_epoch": 2}, [10, 20, 25]),
        (
            {"max_epochs": 5, "check_val_every_n_epoch": 2, "files": {"last_seconds": 0}},
            [5, 10, 15, 20, 25],
        ),
        ({"max_epochs": 2, "val_check_interval": 2}, [2, 4, 7, 9, 10]),
        (
            {"max_steps": 12, "val_check_interval": 4, "check_val_every_n_epoch": None},
            [4, 8, 12],
        ),
        ({"max_steps": 7, "limit_val_batches": 0}, [7]),
        ({"max_epochs": 2, "fast_dev_run": True}, []),
    ],
)
def test_when_last_is_written(tmp_path, options, steps):
    callback = fit(tmp_path, **options)
    assert callback.steps == steps
    if steps:
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert saved["global_step"] == steps[-1]


def test_leftovers_of_a_killed_run_are_removed_and_nothing_else(tmp_path):
    for name in (".last.ckpt.123", ".best.ckpt.9", "other.txt", ".keep"):
        (tmp_path / name).write_text("half")
    fit(tmp_path, max_epochs=1)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [".keep", "best.ckpt", "last.ckpt", "other.txt"]


def test_a_moved_run_remembers_its_best_score(tmp_path):
    fit(tmp_path / "a", scores=(0.3, 0.9), max_epochs=2)
    (tmp_path / "a").rename(tmp_path / "b")
    again = fit(tmp_path / "b", (0.5, 0.6), tmp_path / "b" / "last.ckpt", max_epochs=4)
    assert float(again.best_model_score) == pytest.approx(0.9)
    assert again.best_model_path == str(tmp_path / "b" / "best.ckpt")
    best = torch.load(tmp_path / "b" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 10
    assert again.steps == [15, 20]


def test_a_run_in_a_new_folder_begins_without_a_best_score(tmp_path):
    fit(tmp_path / "a", scores=(0.3, 0.9), max_epochs=2)
    again = fit(tmp_path / "b", (0.5, 0.6), tmp_path / "a" / "last.ckpt", max_epochs=4)
    assert float(again.best_model_score) == pytest.approx(0.6)
    assert torch.load(tmp_path / "b" / "best.ckpt", weights_only=True)["global_step"] == 20
    assert torch.load(tmp_path / "a" / "best.ckpt", weights_only=True)["global_step"] == 10


class Declaring(Module):
    lower_is_better = ("score",)


@pytest.mark.parametrize(
    ("module", "mode", "best"),
    [
        (Module, None, 3.0),
        (Declaring, None, 1.0),
        (Declaring, "max", 3.0),  # what is configured wins
        (Module, "min", 1.0),
    ],
)
def test_the_best_is_what_the_module_declares(tmp_path, module, mode, best):
    callback = RunCheckpoint(monitor="score", mode=mode, dirpath=tmp_path, filename="best")
    trainer = pl.Trainer(
        callbacks=[callback], logger=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, num_sanity_val_steps=0, max_epochs=3,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(torch.ones(1, 1)), batch_size=1)
    trainer.fit(module([2.0, 1.0, 3.0]), loader, loader)
    assert float(callback.best_model_score) == best
    state = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert state["epoch"] == {1.0: 1, 3.0: 2}[best]
    assert callback.mode == ("min" if best == 1.0 else "max")


class Undefined(Declaring):
    loss_metric = "score"

    def undefined(self, metric):
        return "one class" if metric == "auroc" else ""


@pytest.mark.parametrize("mode", [None, "max"])
def test_the_loss_chooses_where_the_metric_is_not_defined(tmp_path, mode):
    callback = RunCheckpoint(monitor="auroc", mode=mode, dirpath=tmp_path, filename="best")
    trainer = pl.Trainer(
        callbacks=[callback], logger=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, num_sanity_val_steps=0, max_epochs=3,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(torch.ones(1, 1)), batch_size=1)
    with pytest.warns(
        UserWarning, match=r"auroc is not defined .*\(one class\): best.ckpt is chos"
    ):
        trainer.fit(Undefined([2.0, 1.0, 3.0]), loader, loader)
    assert float(callback.best_model_score) == 1.0 and callback.monitor == "score"
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == 1


class Scored(Module):
    """Logs the loss of each validation beside its score."""

    def __init__(self, scores, losses):
        super().__init__(scores)
        self.losses = iter(losses)

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        if (loss := next(self.losses)) is not None:
            self.log("val/loss", loss)


@pytest.mark.parametrize(
    ("scores", "losses", "mode", "best"),
    [
        ([1.0, 1.0, 1.0], [0.6, 0.2, 0.3], "max", 1),
        ([1.0, 1.0, 1.0], [0.6, 0.2, 0.2], "max", 2),
        ([1.0, 1.0, 0.9], [0.2, 0.6, 0.1], "max", 0),
        ([0.5, 0.5, 0.5], [None, None, None], "max", 2),
        ([0.5, 0.5, 0.7], [0.3, 0.2, 9.0], "min", 1),
        ([0.5, float("nan"), 0.5], [0.3, 0.1, 0.3], "max", 2),
        ([0.5, 0.5, 0.5], [float("nan"), 0.1, 0.3], "max", 1),
    ],
)
def test_equal_scores_go_to_the_lower_loss_then_to_the_later_epoch(
    tmp_path, scores, losses, mode, best
):
    files = {"dirpath": tmp_path, "filename": "best", "enable_version_counter": False}

    def fitted(stop, resume=None, first=0):
        callback = RunCheckpoint(monitor="score", mode=mode, **files)
        trainer = pl.Trainer(
            callbacks=[callback], logger=False, enable_progress_bar=False, accelerator="cpu",
            enable_model_summary=False, num_sanity_val_steps=0, max_epochs=stop,
        )  # fmt: skip
        loader = DataLoader(TensorDataset(torch.ones(1, 1)), batch_size=1)
        trainer.fit(Scored(scores[first:], losses[first:]), loader, loader, ckpt_path=resume)

    fitted(3)
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == best
    fitted(2)  # and the same where a run is interrupted
    fitted(3, tmp_path / "last.ckpt", first=2)
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["epoch"] == best
