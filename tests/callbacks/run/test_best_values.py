"""The best validation so far, as W&B is told."""

from types import SimpleNamespace

import pytest
import torch

from callbacks.run.best_values import BestValues
from loggers.wandb_logger import SafeWandbLogger


class Recorder(SafeWandbLogger):
    def __init__(self):
        self.failed, self.rows, self.values = False, [], {}

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    @property
    def experiment(self):
        return SimpleNamespace(summary=self.values)


def trainer(logger, mode="max", first=True, best=None, fn="fit"):
    return SimpleNamespace(
        checkpoint_callback=SimpleNamespace(monitor="val/score", mode=mode, best_model_score=best),
        callback_metrics={},
        state=SimpleNamespace(fn=fn),
        sanity_checking=False,
        is_global_zero=first,
        loggers=[object(), logger],
        global_step=0,
        current_epoch=0,
    )


def validate(callback, fake, epoch, score, other):
    fake.global_step, fake.current_epoch = 10 * epoch, epoch
    fake.callback_metrics = {
        "val/score": torch.tensor(score, dtype=torch.float64),
        "val/other": torch.tensor(other),
        "train/loss": torch.tensor(0.0),
    }
    callback.on_validation_end(fake, None)


@pytest.mark.parametrize(("mode", "best"), [("max", [2, 5, 5]), ("min", [2, 2, 1])])
def test_best_so_far_in_history_and_its_whole_validation_in_the_summary(mode, best):
    logger = Recorder()
    fake, callback = trainer(logger, mode), BestValues()
    callback.on_train_start(fake, None)
    for epoch, (score, other) in enumerate([(2.0, 7.0), (5.0, 8.0), (1.0, 9.0)]):
        validate(callback, fake, epoch, score, other)
    assert logger.rows == [(10 * k, {"best/val/score": b}) for k, b in enumerate(best)]
    at = 1 if mode == "max" else 2
    assert logger.values == {
        "best/val/score": best[-1],
        "best/val/other": 7.0 + at,
        "best/epoch": at,
        "best/step": 10 * at,
    }


def test_the_logger_learns_whose_metrics_it_gets():
    logger, module = Recorder(), object()
    BestValues().setup(trainer(logger), module, "fit")
    assert logger.logged_by is module


def test_undefined_scores_are_never_the_best():
    logger = Recorder()
    fake, callback = trainer(logger), BestValues()
    callback.on_train_start(fake, None)
    validate(callback, fake, 0, float("nan"), 1.0)
    assert logger.rows == []
    validate(callback, fake, 1, 3.0, 1.0)
    validate(callback, fake, 2, float("nan"), 1.0)
    assert [row["best/val/score"] for _, row in logger.rows] == [3.0, 3.0]
    assert logger.values["best/epoch"] == 1


def test_a_resumed_training_remembers_its_best():
    logger = Recorder()
    fake, callback = trainer(logger, best=torch.tensor(4.0)), BestValues()
    callback.on_train_start(fake, None)
    validate(callback, fake, 5, 3.0, 1.0)
    assert logger.rows == [(50, {"best/val/score": 4.0})]
    assert logger.values == {}


@pytest.mark.parametrize("change", [{"first": False}, {"fn": "validate"}])
def test_nothing_on_other_processes_and_outside_training(change):
    logger = Recorder()
    callback = BestValues()
    validate(callback, trainer(logger, **change), 0, 3.0, 1.0)
    assert logger.rows == []
    assert logger.values == {}


def test_equal_scores_follow_the_checkpoint():
    logger = Recorder()
    fake, callback = trainer(logger), BestValues()
    callback.on_train_start(fake, None)
    for epoch, loss in enumerate([0.6, 0.2, 0.3]):
        fake.global_step, fake.current_epoch = epoch, epoch
        values = {"val/score": 1.0, "val/loss": loss}
        fake.callback_metrics = {k: torch.tensor(v).double() for k, v in values.items()}
        callback.on_validation_end(fake, None)
    assert logger.values["best/epoch"] == 1
