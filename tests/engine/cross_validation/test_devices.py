"""Devices that train folds: found, refused, and giving the numbers of the processor."""

import numpy as np
import pytest
import torch
from pytorch_lightning.accelerators import CUDAAccelerator

from engine.cross_validation import run
from engine.cross_validation.devices import FoldDevices, fold_devices
from engine.cross_validation.fold import CPU
from engine.cross_validation.recipe import Choice
from engine.cross_validation.run import cross_validate
from tests.support.pretend_device import DEVICE, pretend_device


def test_the_processor_counts_processes():
    assert fold_devices("cpu", "auto") == FoldDevices()
    assert fold_devices("cpu", 3).workers == 3 and fold_devices("cpu", 3).on_cpu
    assert fold_devices("auto", 2).devices[0].type in ("cpu", "cuda", "mps")


def test_gpus_train_a_fold_each(monkeypatch):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: 2))
    monkeypatch.setattr(CUDAAccelerator, "parse_devices", staticmethod(lambda n: list(range(n))))
    both = (torch.device("cuda", 0), torch.device("cuda", 1))
    for accelerator in ("auto", "gpu", "cuda"):
        assert fold_devices(accelerator, "auto") == FoldDevices(both)
    assert fold_devices("gpu", 1).devices == both[:1]
    assert str(fold_devices("gpu", "auto")) == "cuda:0, cuda:1"


@pytest.mark.parametrize(
    ("accelerator", "devices", "message"),
    [
        ("tpu", "auto", "trainer.accelerator must be one of auto, gpu, "),
        ("gp", "auto", "got 'gp'"),
        ("cpu", 0, "trainer.devices 0 on accelerator cpu"),
        ("cpu", "two", "trainer.devices two on accelerator cpu"),
    ],
)
def test_wrong_devices_are_refused(accelerator, devices, message):
    with pytest.raises(ValueError, match=message):
        fold_devices(accelerator, devices)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"cuda: no such device is available here; .* cpu"):
        fold_devices("cuda", "auto")


@pytest.mark.slow
@pytest.mark.parametrize("select", [pytest.param("last", marks=pytest.mark.slow), "best"])
def test_folds_on_an_accelerator_are_those_of_the_processor(config, write_slides, select):
    table = write_slides(16, classes=2, patient_id=None)
    kind = "datamodules.mil.features.FeatureBagsDataModule"
    data = {"class_path": kind, "init_args": {"batch_size": 4}}
    changes = [("data", data), ("trainer", {"max_steps": 9, "accumulate_grad_batches": 2})]
    changes += [("checkpoint", {"monitor": "val/loss"})]
    choice = Choice(select, 0.3)
    here = cross_validate(config(*changes), table, 2, 1, workers=1, choice=choice)
    placed = config(*changes, ("trainer.accelerator", "pretend"))
    with pretend_device() as waits:
        there = cross_validate(placed, table, 2, 1, choice=choice)
        assert waits
    assert (here.device, there.device) == ("cpu", str(DEVICE))
    assert np.array_equal(here.folds, there.folds)
    np.testing.assert_allclose(there.probabilities, here.probabilities, rtol=0, atol=1e-6)
    assert [s["step"] for s in here.selected] == [s["step"] for s in there.selected]


def test_small_bags_on_an_accelerator_are_trained_one_by_one(config, bag_file):
    brief = ("trainer.max_steps", 5)
    here = cross_validate(config(brief), bag_file, 3, 1, together=False)
    with pretend_device():
        there = cross_validate(config(brief, ("trainer.accelerator", "pretend")), bag_file, 3, 1)
    assert there.training == "folds trained one by one: they are trained on mps:0"
    np.testing.assert_allclose(there.probabilities, here.probabilities, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_folds_on_two_devices_are_trained_by_two_processes(config, bag_file, monkeypatch):
    """The processor twice stands for two GPUs, whose processes are started and not forked."""
    one = cross_validate(config(), bag_file, 3, 1, workers=1, together=False)
    monkeypatch.setattr(run, "read_devices", lambda *_, **__: FoldDevices((CPU, CPU)))
    two = cross_validate(config(), bag_file, 3, 1, together=False)
    assert two.device == "cpu, cpu"
    np.testing.assert_allclose(two.probabilities, one.probabilities, rtol=0, atol=1e-6)
