"""The average by hand, what is in place when, and what a checkpoint holds."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.run.ema import EMA


class Net(nn.Module):
    """One weight whose gradient is constant, and batch norm for its buffers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0]]))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x):
        return self.norm(x) * 0 + x * 0 + self.weight


class Module(pl.LightningModule):
    """Adds 1 to the weight at every optimizer step: it is 1 + k after k steps."""

    def __init__(self):
        super().__init__()
        self.model = Net()
        self.teacher = nn.Linear(1, 1)
        self.seen = {}

    def training_step(self, batch, batch_idx):
        return -self.model(batch[0]).mean()

    def _look(self, hook):
        self.seen.setdefault(hook, []).append(float(self.model.weight))

    def on_validation_start(self):
        self._look("start")

    def on_validation_epoch_start(self):
        self._look("epoch_start")

    def validation_step(self, batch, batch_idx):
        self._look("step")

    def on_validation_epoch_end(self):
        self._look("epoch_end")

    def on_train_batch_start(self, batch, batch_idx):
        self._look("train")

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=1.0)


class Saver(pl.Callback):
    """Saves in every validation hook, and later: whatever is in place must not matter."""

    def __init__(self, folder):
        self.folder, self.paths = folder, []

    def _save(self, trainer, name):
        self.paths.append(self.folder / f"{name}{trainer.global_step}.ckpt")
        trainer.save_checkpoint(self.paths[-1])

    def on_validation_epoch_end(self, trainer, pl_module):
        self._save(trainer, "during")

    def on_validation_end(self, trainer, pl_module):
        self._save(trainer, "after")

    def on_train_end(self, trainer, pl_module):
        self._save(trainer, "end")


def fit(module, callbacks, epochs=1, batches=4, **options):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(2 * batches, 1, generator=generator))
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=callbacks, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, accelerator="cpu",
        num_sanity_val_steps=options.pop("num_sanity_val_steps", 0), **options,
    )  # fmt: skip
    loader = DataLoader(data, batch_size=2)
    trainer.fit(module, loader, loader, ckpt_path=options.get("ckpt_path"))
    return trainer


def by_hand(values, decay, tau):
    """The recursion of the module's docstring in plain numbers."""
    average = values[0]
    for n, value in enumerate(values[1:], 1):
        d = decay * (1 - math.exp(-n / tau)) if tau else decay
        average = d * average + (1 - d) * value
    return average


def test_four_steps_without_warm_up_by_hand():
    module = Module()
    fit(module, [EMA(decay=0.5, warmup_steps=0)])
    # weights 2 3 4 5: 2, (2+3)/2 = 2.5, (2.5+4)/2 = 3.25, (3.25+5)/2 = 4.125
    assert float(module.model.weight) == 4.125


def test_warm_up_by_hand_and_training_goes_on_from_raw_weights():
    module = Module()
    fit(module, [EMA(decay=0.9, warmup_steps=3)], epochs=2)
    # d_1 = 0.9 (1 - e^(-1/3)) = 0.25512, so after two steps 0.25512 * 2 + 0.74488 * 3 = 2.74488
    assert by_hand([2, 3], 0.9, 3) == pytest.approx(2.744878, abs=1e-6)
    raw = [2.0, 3, 4, 5, 6, 7, 8, 9]
    assert module.seen["epoch_end"] == pytest.approx(
        [by_hand(raw[:4], 0.9, 3), by_hand(raw, 0.9, 3)], rel=1e-6
    )
    assert module.seen["train"] == [1.0, *raw[:-1]]


def test_the_average_is_in_place_in_every_validation_hook_of_the_module():
    module = Module()
    fit(module, [EMA(decay=0.5, warmup_steps=0)], num_sanity_val_steps=1)
    assert module.seen["start"] == [1.0, 4.125]
    assert module.seen["epoch_start"] == module.seen["epoch_end"] == [1.0, 4.125]
    assert module.seen["step"] == [1.0] + [4.125] * 4


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_one_average_an_optimizer_step(accumulate):
    module = Module()
    ema = EMA(decay=0.5, warmup_steps=0)
    trainer = fit(module, [ema], batches=6, accumulate_grad_batches=accumulate)
    values = [2.0 + k for k in range(6 // accumulate)]
    assert trainer.global_step == len(values)
    assert float(module.model.weight) == by_hand(values, 0.5, 0)


def test_counters_are_copied_and_statistics_averaged(tmp_path):
    module = Module()
    fit(module, [EMA(decay=0.5, warmup_steps=0), saver := Saver(tmp_path)], batches=24)
    saved = torch.load(saver.paths[-1], weights_only=True)
    assert saved["state_dict"]["model.norm.num_batches_tracked"] == 24
    plain = Module()
    means = []
    fit(plain, [Recorder(means)], batches=24)
    average = means[0].double()
    for mean in means[1:]:
        average = 0.5 * average + 0.5 * mean.double()
    assert torch.allclose(saved["state_dict"]["model.norm.running_mean"].double(), average)
    assert torch.equal(saved["current_model_state"]["model.norm.running_mean"], means[-1])


class Recorder(pl.Callback):
    def __init__(self, means):
        self.means = means

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.means.append(pl_module.model.norm.running_mean.clone())


def test_checkpoints_hold_average_and_raw_weights_whenever_they_are_written(tmp_path):
    module = Module()
    fit(module, [EMA(decay=0.5, warmup_steps=0), saver := Saver(tmp_path)])
    assert [p.name for p in saver.paths] == ["during4.ckpt", "after4.ckpt", "end4.ckpt"]
    for path in saver.paths:
        saved = torch.load(path, weights_only=True)
        assert float(saved["state_dict"]["model.weight"]) == 4.125
        assert float(saved["current_model_state"]["model.weight"]) == 5.0
        assert int(saved["averaging_state"]["n_averaged"]) == 4
        assert set(saved["state_dict"]) == set(module.state_dict())
        # Only the network is averaged; the rest is there once, as it is.
        assert set(saved["current_model_state"]) == {
            n for n in module.state_dict() if n.startswith("model.")
        }
        assert torch.equal(saved["state_dict"]["teacher.weight"], module.teacher.weight)


def resume(path, callbacks, epochs=2):
    module = Module()
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(8, 1, generator=generator))
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=callbacks, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, accelerator="cpu",
    )  # fmt: skip
    loader = DataLoader(data, batch_size=2)
    trainer.fit(module, loader, loader, ckpt_path=path)
    return module


@pytest.mark.parametrize("name", ["after4", "end4"])
def test_resuming_continues_weights_and_average(tmp_path, name):
    fit(Module(), [EMA(decay=0.5, warmup_steps=0), Saver(tmp_path)])
    straight = Module()
    fit(straight, [EMA(decay=0.5, warmup_steps=0)], epochs=2)
    module = resume(tmp_path / f"{name}.ckpt", [EMA(decay=0.5, warmup_steps=0)])
    assert float(module.model.weight) == float(straight.model.weight)
    assert module.seen["train"] == [5.0, 6.0, 7.0, 8.0]


def test_an_average_starts_from_a_checkpoint_without_one(tmp_path):
    fit(Module(), [Saver(tmp_path)])
    module = resume(tmp_path / "end4.ckpt", [EMA(decay=0.5, warmup_steps=0)])
    assert module.seen["train"] == [5.0, 6.0, 7.0, 8.0]
    assert float(module.model.weight) == by_hand([6.0, 7, 8, 9], 0.5, 0)


def test_raw_weights_come_back_when_validation_fails():
    class Failing(Module):
        def validation_step(self, batch, batch_idx):
            raise ValueError("here")

    module = Failing()
    with pytest.raises(ValueError, match="here"):
        fit(module, [EMA(decay=0.5, warmup_steps=0)])
    assert float(module.model.weight) == 5.0


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_mixed_precision_averages_in_float32(precision):
    module = Module()
    # 0.999 of 2 and 0.001 of 3 is 2.001, which bfloat16 would round to 2.
    fit(module, [EMA(decay=0.999, warmup_steps=0)], batches=2, precision=precision)
    assert float(module.model.weight) == pytest.approx(2.001, abs=1e-6)


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match="use bf16-mixed or 16-mixed"):
        fit(Module(), [EMA()], precision="bf16-true")
    with pytest.raises(ValueError, match=r"ema.decay must be in \[0, 1\), got 1"):
        EMA(decay=1.0)
    with pytest.raises(ValueError, match="ema.warmup_steps must not be negative"):
        EMA(warmup_steps=-1)
