"""Signals end `train.py fit` with their exit code and lose nothing."""

import csv
import os
import signal
from pathlib import Path

import pytest
import torch

import train
from callbacks.run.stopping import StopOnSignal
from lightning_modules.mil import MILModule

ROOT = Path(__file__).resolve().parents[3]
BAGS = [
    "fit", "--config", "configs/quickstart/abmil.yaml", "--config", "configs/_base/ema.yaml",
    "--data.train_bags", "40", "--data.val_bags", "24", "--data.eval_batch_size", "8",
    "--trainer.max_epochs", "3", "--trainer.log_every_n_steps", "1", "--ema.decay", "0.9",
    *(f"--callbacks.{name}=false" for name in ("curves", "confusion", "attention", "progress")),
]  # fmt: skip
STEPS = 5  # per epoch


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def send(monkeypatch):
    """Return a function that sends a signal to this process in the n-th call of a step."""

    def planned(number, step, calls):
        original, count = getattr(MILModule, step), iter(range(1, 1000))

        def sending(self, *arguments):
            if next(count) in calls:
                os.kill(os.getpid(), number)
            return original(self, *arguments)

        monkeypatch.setattr(MILModule, step, sending)

    return planned


def run(folder, *arguments):
    return train.main([*BAGS, "--runs_dir", str(folder), *arguments])


def content(folder, name="last"):
    place = folder / "abmil" / "version_0" / "checkpoints" / f"{name}.ckpt"
    return torch.load(place, weights_only=True)


def assert_same(first, second):
    for part in ("state_dict", "current_model_state"):
        for key, value in content(first)[part].items():
            assert torch.equal(value, content(second)[part][key]), key
    best = [content(folder, "best")["callbacks"] for folder in (first, second)]
    best = [next(v for k, v in states.items() if "RunCheckpoint" in k) for states in best]
    assert best[0]["best_model_score"] == best[1]["best_model_score"]
    assert logged(first) == logged(second)


def logged(folder):
    """Return what was logged, without times."""
    with (folder / "abmil" / "version_0" / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = [n for n in rows[0] if n in ("epoch", "step") or n.startswith(("train/", "val/", "lr"))]
    return [{n: row[n] for n in names} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    os.chdir(ROOT)
    assert run(folder) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "step", "call", "reached"),
    [
        (signal.SIGTERM, 143, "training_step", 7, 7),
        pytest.param(  # the last of an epoch, then a validation
            signal.SIGINT, 130, "training_step", 10, 10, marks=pytest.mark.slow
        ),
        pytest.param(  # amid a validation
            signal.SIGTERM, 143, "validation_step", 5, 10, marks=pytest.mark.slow
        ),
        pytest.param(  # in its last batch
            signal.SIGTERM, 143, "validation_step", 3, 5, marks=pytest.mark.slow
        ),
    ],
)
def test_a_signal_ends_the_training_and_nothing_is_lost(
    tmp_path, capsys, send, undisturbed, number, code, step, call, reached
):
    send(number, step, {call})
    assert run(tmp_path) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    last = tmp_path / "abmil" / "version_0" / "checkpoints" / "last.ckpt"
    assert f"stopped by {number.name} after step {reached}; to resume:\n" in error
    command = f"python train.py fit --ckpt_path {last}"
    assert command in error
    assert content(tmp_path)["global_step"] == reached
    assert train.main(command.split()[2:]) == 0
    assert_same(tmp_path, undisturbed)
    assert [p.name for p in last.parents[2].iterdir()] == ["version_0"]


def test_a_second_ctrl_c_stops_at_once(tmp_path, capfd, send):
    send(signal.SIGINT, "training_step", {3})

    def again(self, trainer, *_):
        if self.received is not None:
            os.kill(os.getpid(), signal.SIGINT)

    before, StopOnSignal.on_train_batch_end = StopOnSignal.on_train_batch_end, again
    try:
        assert run(tmp_path) == 130
    finally:
        StopOnSignal.on_train_batch_end = before
    error = capfd.readouterr().err
    assert "Ctrl-C again stops at once" in error
    assert "stopped by SIGINT after step 3; no checkpoint was written" in error
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_batches_of_one_step_are_completed(tmp_path, send):
    send(signal.SIGTERM, "training_step", {3})
    assert run(tmp_path, "--trainer.accumulate_grad_batches", "2") == 143
    saved = content(tmp_path)
    assert saved["global_step"] == 2
    loops = saved["loops"]["fit_loop"]
    assert loops["epoch_loop.batch_progress"]["total"]["completed"] == 4


def test_ctrl_c_before_the_training_and_in_a_test(tmp_path, capsys, monkeypatch, undisturbed):
    def interrupt(*_):
        raise KeyboardInterrupt

    last = undisturbed / "abmil" / "version_0" / "checkpoints" / "last.ckpt"
    with monkeypatch.context() as patch:
        patch.setattr(MILModule, "test_step", interrupt)
        words = ["test", "--ckpt_path", str(last), "--runs_dir", str(tmp_path)]
        assert train.main(words) == 130
    monkeypatch.setattr("engine.training.command_line.run", interrupt)
    assert train.main(BAGS) == 130
    assert "stopped by SIGINT" in capsys.readouterr().err
