import csv
import mmap
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks.run import peak_memory
from callbacks.run.peak_memory import PeakMemory, host_peak

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def resident():
    line = next(
        x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


def touched(mib):
    """Return memory of the system's own, not of the allocator's, which keeps what is freed."""
    block = mmap.mmap(-1, mib * 2**20)
    for start in range(0, len(block), mmap.PAGESIZE):
        block[start] = 1
    return block


def forget_the_peak():
    Path("/proc/self/clear_refs").write_text("5")


@linux
def test_a_peak_stays_when_the_memory_is_free_again():
    forget_the_peak()
    before = resident()
    assert host_peak() == pytest.approx(before, abs=4)
    block = touched(64)
    assert host_peak() == pytest.approx(before + 64, abs=4)
    block.close()
    assert resident() == pytest.approx(before, abs=4)
    assert host_peak() == pytest.approx(before + 64, abs=4)


@linux
def test_logged_at_steps_and_after_a_validation_with_its_scoring(stand_in, make_trainer, tmp_path):
    class Hungry(stand_in.SegModule):
        def on_validation_epoch_end(self):
            if not self.trainer.sanity_checking:
                touched(64).close()
            super().on_validation_epoch_end()

    trainer = make_trainer([PeakMemory()], log_every_n_steps=3)
    forget_the_peak()
    trainer.fit(Hungry(), stand_in.images(), stand_in.images())
    with (tmp_path / "run" / "metrics.csv").open() as stream:
        found = [r for r in csv.DictReader(stream) if r["memory/host_mib"]]
    assert [r["step"] for r in found] == ["2", "2"]  # the third step, then validation
    training, validation = (float(r["memory/host_mib"]) for r in found)
    assert validation - training == pytest.approx(64, abs=8)


def test_the_largest_of_all_processes(stand_in, monkeypatch):
    monkeypatch.setattr(peak_memory, "host_peak", lambda: 100.0)
    logged = []

    def reduce(values, reduce_op):
        assert (values.tolist(), reduce_op) == ([100.0], "max")
        return torch.tensor([250.0])

    trainer = SimpleNamespace(
        global_step=3,
        log_every_n_steps=2,
        world_size=2,
        strategy=SimpleNamespace(reduce=reduce),
        loggers=[SimpleNamespace(log_metrics=lambda values, step: logged.append((step, values)))],
    )
    callback, module = PeakMemory(), stand_in.SegModule()
    callback.on_train_start(trainer, module)
    trainer.global_step = 4
    callback.on_train_batch_end(trainer, module, None, None, 0)
    assert logged == [(3, {"memory/host_mib": 250.0})]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peaks_of_the_gpu(stand_in):
    module = stand_in.SegModule().cuda()
    trainer = SimpleNamespace(world_size=1)
    PeakMemory().on_train_start(trainer, module)
    before = torch.cuda.memory_allocated() / 2**20
    block = torch.ones(2**24, device="cuda")  # 64 MiB
    del block
    found = peak_memory._peaks(trainer, module.device)
    assert found["memory/cuda_mib"] == pytest.approx(before + 64, abs=1)
    assert found["memory/cuda_reserved_mib"] >= found["memory/cuda_mib"]
