import csv

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader

from callbacks.run.gradient_norm import GradientNorm, gradient_norm


class Known(pl.LightningModule):
    """The gradient is (3, 4) times the batch for one part and 12 times for the other."""

    def __init__(self, optimizer=torch.optim.SGD, **options):
        super().__init__()
        self.model = nn.ModuleDict(
            {"one": nn.Linear(2, 1, bias=False), "two": nn.Linear(1, 1), "none": nn.ReLU()}
        )
        self.model["two"].bias.requires_grad_(False)
        self.make = lambda parameters: optimizer(parameters, lr=0.5, **options)

    def training_step(self, batch, batch_idx):
        factors = self.model["one"].weight @ torch.tensor([3.0, 4.0])
        return (factors.sum() + 12 * self.model["two"].weight.sum()) * batch

    def configure_optimizers(self):
        return self.make([p for p in self.parameters() if p.requires_grad])


def norms(tmp_path, make_trainer, module, values, parts=False, **options):
    trainer = make_trainer([GradientNorm(parts)], num_sanity_val_steps=0, **options)
    trainer.fit(module, DataLoader(values, batch_size=None))
    with (tmp_path / "run" / "metrics.csv").open() as stream:
        table = list(csv.DictReader(stream))
    return [
        {k.removeprefix("grad_norm/"): float(v) for k, v in r.items() if v}
        for r in table
        if r["grad_norm/total"]
    ]


def test_norm_of_all_and_of_the_parts(tmp_path, make_trainer):
    """|(3, 4, 12)| = 13, |(3, 4)| = 5; the batch scales them."""
    found = norms(tmp_path, make_trainer, Known(), [1.0, 2.0], parts=True)
    assert found == [
        {"step": 0, "total": 13, "one": 5, "two": 12},
        {"step": 1, "total": 26, "one": 10, "two": 24},
    ]


def test_it_is_measured_before_clipping(tmp_path, make_trainer):
    found = norms(tmp_path, make_trainer, Known(), [1.0], gradient_clip_val=0.5)
    assert found == [{"step": 0, "total": 13}]


def test_an_accumulated_gradient_counts_as_a_whole(tmp_path, make_trainer):
    """The mean of 1 and 3 is 2."""
    found = norms(tmp_path, make_trainer, Known(), [1.0, 3.0], accumulate_grad_batches=2)
    assert found == [{"step": 0, "total": 26}]


def test_only_at_logged_steps(tmp_path, make_trainer):
    values = [1.0, 2.0, 3.0, 4.0]
    found = norms(tmp_path, make_trainer, Known(), values, log_every_n_steps=2)
    assert found == [{"step": 1, "total": 26}, {"step": 3, "total": 52}]


@pytest.mark.parametrize(
    ("optimizer", "options"), [(torch.optim.SGD, {}), (torch.optim.AdamW, {"fused": True})]
)
def test_the_scale_of_16_bit_training_is_taken_off(optimizer, options, tmp_path, make_trainer):
    """A fused optimizer divides by the scale itself, after the callback; others are given the true
    gradient.
    """
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    module = Known(optimizer, **options)
    found = norms(tmp_path, make_trainer, module, [1.0], plugins=[plugin])
    assert found == [{"step": 0, "total": 13}]


def test_no_gradient_at_all():
    assert float(gradient_norm([torch.zeros(3)])) == 0.0
