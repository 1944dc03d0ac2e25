"""Logging of the peak memory of a run."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.run.logged_steps import is_logged, log_numbers

MIB = 2**20
STATUS = Path("/proc/self/status")


class PeakMemory(pl.Callback):
    """Log ``memory/*``: the peaks of host and GPU memory in MiB, the maximum over processes.

    Every ``trainer.log_every_n_steps`` optimizer steps and after each validation:
        ``memory/host_mib``: largest resident set of the process since it started, as reported by
        the system. Loader workers are separate processes and not included.
        ``memory/cuda_mib``: largest memory of tensors on the GPU since training started;
        ``memory/cuda_reserved_mib``: memory reserved by the allocator. Both only on CUDA.

    The peaks of the GPU are reset when training starts.
    """

    entry = "memory"
    order = 40

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the GPU peaks of earlier work in this process."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._logged_step = trainer.global_step  # a resumed run already has this row

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log if this step is logged."""
        del outputs, batch, batch_idx
        step = trainer.global_step
        if is_logged(trainer, step) and step != self._logged_step:
            log_numbers(trainer, _peaks(trainer, pl_module.device), step)
            self._logged_step = step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log after evaluation, which may need more memory than training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            log_numbers(trainer, _peaks(trainer, pl_module.device), trainer.global_step)


def _peaks(trainer: pl.Trainer, device: torch.device) -> dict[str, float]:
    names, values = ["host"], [host_peak()]
    if device.type == "cuda":
        names += ["cuda", "cuda_reserved"]
        values += [
            torch.cuda.max_memory_allocated(device) / MIB,
            torch.cuda.max_memory_reserved(device) / MIB,
        ]
    if trainer.world_size > 1:
        values = trainer.strategy.reduce(
            torch.tensor(values, device=device), reduce_op="max"
        ).tolist()
    return {f"memory/{name}_mib": value for name, value in zip(names, values, strict=True)}


def host_peak() -> float:
    """Return the largest resident set of this process so far in MiB.

    On Linux it is read from ``/proc``; elsewhere `getrusage` is used, which on Linux would include
    the size of the parent process.
    """
    if STATUS.exists():
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024  # in KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024  # in bytes on macOS, else in KiB
